//! `auth.users`, `auth.sessions` and `public.profiles`: the account of a session, read in one statement.

use std::sync::{Arc, LazyLock};

use sqlx::{FromRow, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    models::{self, CustomModel},
    pool::{Db, SessionCheck, Value},
    session_source::{Source, Statement},
};
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
    found: Found,
}

/// The account of a session, and what was asked along with it.
pub struct Found {
    /// `None` if there is no row.
    pub profile: Option<Profile>,
    /// The ledger's answer to the reservation; `None` if all of it was granted.
    pub answer: Option<String>,
    /// The custom model: the first `None` if none was asked for, the second if there is none for this user.
    pub model: Option<Option<CustomModel>>,
}

/// More to be done in the statement that reads an account, unless the user is refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Along<'a> {
    /// A reservation to make; see [`super::usage::reserve`].
    pub reservation: Option<&'a str>,
    /// A custom model to find; see [`models::find`].
    pub model: Option<Uuid>,
}

static KEY_COLUMNS: LazyLock<String> =
    LazyLock::new(|| credentials::TABLE.iter().map(|row| format!(", profile.{}", row.column)).collect());

static CHECKED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select account.deleted_at is null as user_exists, \
                coalesce(account.banned_until > now(), false) as banned, \
                $2::uuid is null or exists ( \
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

/// As [`CHECKED`], by the function of docs/role.sql, for a role that may not read the schema `auth` itself.
static BY_FUNCTION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select coalesce(account.user_exists, false) as user_exists, coalesce(account.banned, false) as banned, \
                coalesce(account.session_lives, false) as session_lives, \
                profile.user_id is not null as has_profile, \
                coalesce(profile.use_azure_openai, false) as use_azure_openai{} \
         from chatbot_ui_api.account_state($1::uuid, $2::uuid) account \
         left join public.profiles profile on profile.user_id = $1",
        *KEY_COLUMNS
    )
});

/// Tells if docs/role.sql made its function for this role; for [`super::inspect`].
pub(super) const HAS_FUNCTION: &str = "select exists ( \
    select from pg_proc join pg_namespace space on space.oid = pronamespace \
    where space.nspname = 'chatbot_ui_api' and proname = 'account_state' and pronargs = 2 \
      and has_schema_privilege(space.oid, 'usage') and has_function_privilege(pg_proc.oid, 'execute'))";

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

/// The statements of [`statement`] with more along: by the source, with a reservation, with a model.
static WITH_MORE: LazyLock<[[[String; 2]; 2]; 3]> = LazyLock::new(|| {
    [Source::Tables, Source::Function, Source::Token].map(|source| {
        [false, true].map(|reserves| [false, true].map(|has_model| with_more(statement(source), reserves, has_model)))
    })
});

/// Adds a reservation in the ledger to a statement, and the row of a custom model. The reservation's argument is text
/// for Postgres too, which else takes it for JSON where the statement is prepared ahead.
fn with_more(statement: &str, reserves: bool, has_model: bool) -> String {
    let (answer, id) = match reserves {
        true => (
            ", case when user_exists and not banned and session_lives \
                 then chatbot_ui_api.reserve($1, $3::text::jsonb)::text end as answer",
            "$4",
        ),
        false => ("", "$3"),
    };
    let (columns, join) = match has_model {
        true => (", model.*", format!("left join lateral ({}) model on true", models::allowed(id, "$1"))),
        false => ("", String::new()),
    };
    format!("select account.*{answer}{columns} from ({statement}) account {join}")
}

/// The statement that every authenticated request runs.
pub(super) fn statement(source: Source) -> &'static str {
    match source {
        Source::Tables => &CHECKED,
        Source::Function => &BY_FUNCTION,
        Source::Token => &UNCHECKED,
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
            found: Found {
                profile,
                answer: match row.try_get("answer") {
                    Err(sqlx::Error::ColumnNotFound(_)) => None,
                    answer => answer?,
                },
                model: models::joined(row)?,
            },
        })
    }
}

/// Reads the account of a token's user, in one round trip, or the reason for refusing the user; and does what is to be
/// done `along` with it, in the same statement.
///
/// # Errors
/// If the database does not answer.
pub async fn find(
    db: &Db,
    user: Uuid,
    session: Option<Uuid>,
    environment: &Arc<Keys>,
    along: Along<'_>,
) -> Result<Result<Found, Refused>, Error> {
    let mut values = vec![Value::Id(user), session.map_or(Value::NoId, Value::Id)];
    values.extend(along.reservation.map(Value::Text));
    values.extend(along.model.map(Value::Id));
    let (reserves, has_model) = (along.reservation.is_some(), along.model.is_some());
    let read = async |source: Source| {
        let sql = match (reserves, has_model) {
            (false, false) => statement(source),
            _ => &WITH_MORE[source as usize][usize::from(reserves)][usize::from(has_model)],
        };
        let account = db.optional::<Account>(sql, &values).await;
        if account.is_ok() {
            db.known.worked(source, Statement { sql, reserves, has_model });
        }
        account
    };
    let account = match db.session_check {
        SessionCheck::Token => read(Source::Token).await?,
        SessionCheck::Database => {
            let first = db.known.source().unwrap_or(Source::Function);
            match read(first).await {
                // The function is not there, or was made or dropped since, with privileges to match.
                Err(refused @ Error::Internal(_)) => {
                    let other = if first == Source::Function { Source::Tables } else { Source::Function };
                    let account = read(other).await;
                    // The tables' own error says what is missing.
                    if first == Source::Tables { account.map_err(|_| refused)? } else { account? }
                }
                answer => answer?,
            }
        }
    };
    let Some(account) = account else {
        return Ok(Err(Refused::Gone));
    };
    Ok(if !account.user_exists {
        Err(Refused::Gone)
    } else if account.banned {
        Err(Refused::Banned)
    } else if !account.session_lives {
        Err(Refused::SignedOut)
    } else {
        let Found { profile, answer, model } = account.found;
        let profile = profile.map(|profile| Profile { environment: environment.clone(), ..profile });
        Ok(Found { profile, answer, model })
    })
}

/// Runs the statement of every request, to see that the database answers it.
///
/// # Errors
/// [`Error::DatabaseUnavailable`], within three seconds.
pub async fn ready(db: &Db) -> Result<(), Error> {
    // With a user id that cannot exist: still detects missing privileges, tables and columns.
    let probe = async {
        let found = find(db, Uuid::nil(), Some(Uuid::nil()), &Arc::default(), Along::default()).await;
        found.map(|_| ()).map_err(|error| error.detail().into_owned())
    };
    db.is_ready(probe).await.map_err(Error::DatabaseUnavailable)
}

/// Tells if any user has this user name.
///
/// # Errors
/// If the database does not answer.
pub async fn is_username_taken(db: &Db, username: &str) -> Result<bool, Error> {
    let taken = db.optional::<(bool,)>(USERNAME_TAKEN, &[Value::Text(username)]).await?;
    Ok(taken.is_some_and(|(taken,)| taken))
}

/// Returns the name of a user, not necessarily the caller's.
///
/// # Errors
/// If the database does not answer.
pub async fn username(db: &Db, user: Uuid) -> Result<Option<String>, Error> {
    Ok(db.optional::<(String,)>(USERNAME, &[Value::Id(user)]).await?.map(|(name,)| name))
}
