//! `public.models`: the custom models that users enter.

use std::sync::LazyLock;

use secrecy::SecretString;
use sqlx::{FromRow, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::pool::{Db, Value};
use crate::error::Error;

pub(super) static ALLOWED: LazyLock<String> = LazyLock::new(|| allowed("$1", "$2"));

/// Returns the statement that finds a model by its id for a user; both are parameters' names.
pub(super) fn allowed(id: &str, user: &str) -> String {
    format!(
        "select base_url, api_key, model_id from public.models \
         where id = {id} and (user_id = {user} or sharing <> 'private')"
    )
}

pub(super) const ALLOWED_BY_NAME: &str = "select base_url, api_key, model_id, \
         min(base_url) over alike <> max(base_url) over alike as is_ambiguous \
     from public.models where model_id = $1 and (user_id = $2 or sharing <> 'private') \
     window alike as (partition by user_id = $2) order by user_id = $2 desc, id limit 1";

#[derive(FromRow)]
struct Row {
    base_url: String,
    api_key: String,
    model_id: String,
}

impl From<Row> for CustomModel {
    fn from(row: Row) -> Self {
        Self { base_url: row.base_url, api_key: row.api_key.into(), model: row.model_id }
    }
}

/// Reads the model of a row that has [`allowed`] joined to it: the first `None` if it has not, the second if no model
/// was found.
pub(super) fn joined(row: &PgRow) -> sqlx::Result<Option<Option<CustomModel>>> {
    match row.try_get::<Option<String>, _>("base_url") {
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
        Ok(None) => Ok(Some(None)),
        Ok(Some(_)) => Ok(Some(Some(Row::from_row(row)?.into()))),
        Err(error) => Err(error),
    }
}

/// A custom model's address and key. Without `Debug`: some users write the key into the URL.
pub struct CustomModel {
    /// As the user entered it; may be empty.
    pub base_url: String,
    /// May be empty: many local models need none.
    pub api_key: SecretString,
    /// The name by which its server knows it.
    pub model: String,
}

/// Finds the model with this id, if the user owns it or it is shared.
///
/// Differs: the original reads any row for anyone, signed in or not.
///
/// # Errors
/// If the database does not answer.
pub async fn find(db: &Db, user: Uuid, id: Uuid) -> Result<Option<CustomModel>, Error> {
    let row = db.optional::<Row>(&ALLOWED, &[Value::Id(id), Value::Id(user)]).await?;
    Ok(row.map(CustomModel::from))
}

/// Finds a model that its server knows by this name, if it is the user's own or shared; the user's own come first.
///
/// # Errors
/// If several servers have one, or the database does not answer.
pub async fn find_by_name(db: &Db, user: Uuid, name: &str) -> Result<Option<CustomModel>, Error> {
    if name.contains('\0') {
        return Ok(None);
    }
    let parameters = [Value::Text(name), Value::Id(user)];
    let found = db.optional::<(String, String, String, bool)>(ALLOWED_BY_NAME, &parameters).await?;
    let Some((base_url, api_key, model_id, is_ambiguous)) = found else { return Ok(None) };
    if is_ambiguous {
        // The prompt is not to reach a server that was not chosen.
        let message = format!(
            "There are several models with the id {name}, on different servers, and a chat with tools does not say which \
             one is meant: please keep one of them."
        );
        return Err(Error::BadRequest(message));
    }
    Ok(Some(Row { base_url, api_key, model_id }.into()))
}
