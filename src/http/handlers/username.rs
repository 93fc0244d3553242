//! `POST /api/username/{available,get}`: user names, for signed-in users.
//!
//! Differs: the original answers without a session.

use actix_web::{HttpResponse, web::Data};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    db::{Db, accounts},
    error::Error,
    http::{
        body::{self, UnreadBody},
        user::User,
    },
};

#[derive(Deserialize)]
struct Name {
    #[serde(default)]
    username: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Id {
    #[serde(default)]
    user_id: Option<String>,
}

/// `{"username"}` → `{"isAvailable"}`: true if no user has the name.
pub async fn available(user: User, db: Data<Db>, unread: UnreadBody) -> Result<HttpResponse, Error> {
    let body = unread.read(user.id, body::FORM).await?;
    let Name { username } = body.object("username")?;
    let username = username.ok_or_else(|| Error::BadRequest("username is missing".to_owned()))?;
    if username.contains('\0') {
        return Err(Error::BadRequest("username must not hold a NUL".to_owned()));
    }
    let taken = accounts::is_username_taken(&db, &username).await?;
    Ok(HttpResponse::Ok().json(json!({ "isAvailable": !taken })))
}

/// `{"userId"}` → `{"username"}`.
pub async fn get(user: User, db: Data<Db>, unread: UnreadBody) -> Result<HttpResponse, Error> {
    let body = unread.read(user.id, body::FORM).await?;
    let Id { user_id } = body.object("userId")?;
    let id = user_id.ok_or_else(|| Error::BadRequest("userId is missing".to_owned()))?;
    let id = Uuid::try_parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let username = accounts::username(&db, id).await?.ok_or(Error::ProfileNotFound)?;
    Ok(HttpResponse::Ok().json(json!({ "username": username })))
}
