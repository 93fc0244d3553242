//! `public.models`: the custom models that users enter.

use secrecy::SecretString;
use sqlx::FromRow;
use uuid::Uuid;

use super::pool::{Db, Value};
use crate::error::Error;

pub(super) const ALLOWED: &str = "select base_url, api_key, model_id from public.models \
     where id = $1 and (user_id = $2 or sharing <> 'private')";

pub(super) const ALLOWED_BY_NAME: &str = "select base_url, api_key, model_id from public.models \
     where model_id = $1 and (user_id = $2 or sharing <> 'private') order by user_id = $2 desc, id limit 1";

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
    let row = db.optional::<Row>(ALLOWED, &[Value::Id(id), Value::Id(user)]).await?;
    Ok(row.map(CustomModel::from))
}

/// A model that its server knows by this name, if it is the user's own or
/// shared.
///
/// # Errors
/// If the database does not answer.
pub async fn find_by_name(db: &Db, user: Uuid, name: &str) -> Result<Option<CustomModel>, Error> {
    if name.contains('\0') {
        return Ok(None);
    }
    let row = db.optional::<Row>(ALLOWED_BY_NAME, &[Value::Text(name), Value::Id(user)]).await?;
    Ok(row.map(CustomModel::from))
}
