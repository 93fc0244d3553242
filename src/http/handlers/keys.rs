//! `GET /api/keys`: the names of the keys that the server has, so that the front end does not request them from users.
//! Never values.

use actix_web::{HttpResponse, web::Data};
use serde_json::{Map, Value, json};

use crate::credentials::{Keys, TABLE};

/// Responds with `{"isUsingEnvKeyMap": {name: bool}}`.
///
/// Differs: the original responds with the keys that were set when it was built.
pub async fn list(keys: Data<Keys>) -> HttpResponse {
    let held: Map<String, Value> =
        TABLE.iter().map(|row| (row.name.to_owned(), keys.get(row.key).is_some().into())).collect();
    HttpResponse::Ok().json(json!({ "isUsingEnvKeyMap": held }))
}
