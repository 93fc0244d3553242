//! `auth.users`, `auth.sessions` and `public.profiles`: the account of a session, read in one statement.

use std::sync::{Arc, LazyLock};

use sqlx::{FromRow, Row, postgres::PgRow};
use uuid::Uuid;

use super::pool::{Db, SessionCheck};
use crate::{
    credentials::{self, Keys, Profile},
    error::Error,
};

/// The reason why a valid token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No row in `auth.users`, or one that was deleted.
    #[error("the user does not exist (any more)")]
    Gone,
    /// `banned_until` is in the future.
    #[error("the user is banned")]
    Banned,
    /// No row in `auth.sessions`, or one that has expired.
    #[error("the session was signed out")]
    SignedOut,
}

struct Account {
    user_exists: bool,
    banned: bool,
    session_lives: bool,
    profile: Option<Profile>,
    answer: Option<String>,
}

/// The account of a session.
pub struct Found {
    /// `None` if there is no row.
    pub profile: Option<Profile>,
    /// The ledger's answer to the reservation; `None` if all of it was granted.
    pub answer: Option<String>,
}

static KEY_COLUMNS: LazyLock<String> =
    LazyLock::new(|| credentials::TABLE.iter().map(|row| format!(", profile.{}", row.column)).collect());

static CHECKED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select account.deleted_at is null as user_exists, \
                coalesce(account.banned_until > now(), false) as banned, \
                $2 is null or exists ( \
                    select from auth.sessions session \
                    where session.id = $2 and session.user_id = account.id \
                      and coalesce(session.not_after > now(), true)) as session_lives, \
                profile.user_id is not null as has_profile, \
                coalesce(profile.use_azure_openai, false) as use_azure_openai{} \
         from auth.users account left join public.profiles profile on profile.user_id = account.id \
         where account.id = $1",
        *KEY_COLUMNS
    )
});

static UNCHECKED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select true as user_exists, false as banned, true as session_lives, \
                profile.user_id is not null as has_profile, \
                coalesce(profile.use_azure_openai, false) as use_azure_openai{} \
         from (select $1::uuid as id, $2::uuid as session) account \
         left join public.profiles profile on profile.user_id = account.id",
        *KEY_COLUMNS
    )
});

static RESERVING: LazyLock<[String; 2]> = LazyLock::new(|| [reserving(&CHECKED), reserving(&UNCHECKED)]);

/// Adds a reservation in the ledger to a statement, for an account that is not refused.
fn reserving(statement: &str) -> String {
    format!(
        "select account.*, case when user_exists and not banned and session_lives \
             then chatbot_ui_api.reserve($1, $3::jsonb)::text end as answer \
         from ({statement}) account"
    )
}

fn reserving_statement(check: SessionCheck) -> &'static str {
    let [checked, unchecked] = &*RESERVING;
    match check {
        SessionCheck::Database => checked,
        SessionCheck::Token => unchecked,
    }
}

/// The statement that every authenticated request runs.
pub(super) fn statement(check: SessionCheck) -> &'static str {
    match check {
        SessionCheck::Database => &CHECKED,
        SessionCheck::Token => &UNCHECKED,
    }
}

/// The statements about user names, for [`super::inspect`].
pub(super) const NAMES: [&str; 2] = [USERNAME_TAKEN, USERNAME];
const USERNAME_TAKEN: &str = "select exists (select from public.profiles where username = $1)";
const USERNAME: &str = "select username from public.profiles where user_id = $1";

impl FromRow<'_, PgRow> for Account {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let profile = if row.try_get("has_profile")? {
            Some(Profile {
                own: Keys::try_from_rows(|key| row.try_get(key.column))?,
                environment: Arc::default(),
                use_azure_openai: row.try_get("use_azure_openai")?,
            })
        } else {
            None
        };
        Ok(Self {
            user_exists: row.try_get("user_exists")?,
            banned: row.try_get("banned")?,
            session_lives: row.try_get("session_lives")?,
            profile,
            answer: match row.try_get("answer") {
                Err(sqlx::Error::ColumnNotFound(_)) => None,
                answer => answer?,
            },
        })
    }
}

/// Reads the account of a token's user, in one round trip, or the reason for refusing the user. With a `reservation`
/// (see [`super::usage::reserve`]) that is made in the same statement, unless the user is refused.
///
/// # Errors
/// If the database does not answer.
pub async fn find(
    db: &Db,
    user: Uuid,
    session: Option<Uuid>,
    environment: &Arc<Keys>,
    reservation: Option<&str>,
) -> Result<Result<Found, Refused>, Error> {
    let query = match reservation {
        None => sqlx::query_as::<_, Account>(statement(db.session_check)).bind(user).bind(session),
        Some(reservation) => sqlx::query_as::<_, Account>(reserving_statement(db.session_check))
            .bind(user)
            .bind(session)
            .bind(reservation.to_owned()),
    };
    let Some(account) = db.optional(query).await? else {
        return Ok(Err(Refused::Gone));
    };
    Ok(if !account.user_exists {
        Err(Refused::Gone)
    } else if account.banned {
        Err(Refused::Banned)
    } else if !account.session_lives {
        Err(Refused::SignedOut)
    } else {
        let profile = account.profile.map(|profile| Profile { environment: environment.clone(), ..profile });
        Ok(Found { profile, answer: account.answer })
    })
}

/// Runs the statement of every request, to see that the database answers it.
///
/// # Errors
/// [`Error::DatabaseUnavailable`], within three seconds.
pub async fn ready(db: &Db) -> Result<(), Error> {
    // With a user id that cannot exist: still detects missing privileges, tables and columns.
    let probe = async {
        let found = find(db, Uuid::nil(), Some(Uuid::nil()), &Arc::default(), None).await;
        found.map(|_| ()).map_err(|error| error.detail().into_owned())
    };
    db.is_ready(probe).await.map_err(Error::DatabaseUnavailable)
}

/// Tells if any user has this user name.
///
/// # Errors
/// If the database does not answer.
pub async fn is_username_taken(db: &Db, username: &str) -> Result<bool, Error> {
    let query = sqlx::query_as::<_, (bool,)>(USERNAME_TAKEN);
    Ok(db.optional(query.bind(username)).await?.is_some_and(|(taken,)| taken))
}

/// Returns the name of a user, not necessarily the caller's.
///
/// # Errors
/// If the database does not answer.
pub async fn username(db: &Db, user: Uuid) -> Result<Option<String>, Error> {
    let query = sqlx::query_as::<_, (String,)>(USERNAME);
    Ok(db.optional(query.bind(user)).await?.map(|(name,)| name))
}
