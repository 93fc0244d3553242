//! `GET /api/keys`: which keys the server holds, so that the front end does
//! not ask users for them. Names only, never values.

use actix_web::{HttpResponse, web::Data};
use serde_json::{Map, Value, json};

use crate::credentials::{Keys, TABLE};

/// Answers `{"isUsingEnvKeyMap": {name: bool}}`.
///
/// Differs: the original answers with what was set when it was built.
pub async fn list(keys: Data<Keys>) -> HttpResponse {
    let held: Map<String, Value> =
        TABLE.iter().map(|row| (row.name.to_owned(), keys.get(row.key).is_some().into())).collect();
    HttpResponse::Ok().json(json!({ "isUsingEnvKeyMap": held }))
}
