//! The demo's tool: dice, with the OpenAPI document that a user would paste.

use actix_web::{
    HttpResponse,
    web::{self, Json, Query, ServiceConfig},
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// The path of the document on the tool's server.
pub const DOCUMENT_PATH: &str = "/dice/openapi.yaml";

const DOCUMENT: &str = "\
openapi: 3.1.0
info: {title: Dice, version: '1'}
servers: [{url: .}]
paths:
  /roll:
    get:
      operationId: rollDice
      summary: Roll dice
      parameters:
        - name: sides
          in: query
          description: How many sides each of them has
          required: true
          schema: {type: integer, minimum: 2, maximum: 1000}
        - name: count
          in: query
          description: How many are rolled; one by default
          schema: {type: integer, minimum: 1, maximum: 20}
";

#[derive(Deserialize)]
struct Roll {
    sides: u32,
    count: Option<usize>,
}

#[derive(Serialize)]
struct Rolled {
    sides: u32,
    rolled: Vec<u32>,
}

/// Adds the tool and its document to a server.
pub fn routes(routes: &mut ServiceConfig) {
    routes.route(DOCUMENT_PATH, web::get().to(document)).route("/dice/roll", web::get().to(roll));
}

async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type("application/yaml").body(DOCUMENT)
}

async fn roll(asked: Query<Roll>) -> Json<Rolled> {
    let sides = asked.sides.clamp(2, 1000);
    let count = asked.count.unwrap_or(1).clamp(1, 20);
    let mut random = rand::rng();
    Json(Rolled { sides, rolled: (0..count).map(|_| random.random_range(1..=sides)).collect() })
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::tools::{
        budget::Budget,
        names::Names,
        offer::{Tool, offer},
        request::request,
    };

    #[test]
    fn the_document_leads_to_the_dice() {
        let location = Url::parse("http://127.0.0.1:1").and_then(|url| url.join(DOCUMENT_PATH)).expect("a URL");
        let tool = Tool {
            name: "Dice".to_owned(),
            document: Ok(DOCUMENT.to_owned()),
            location: Some(location),
            headers: None,
        };
        let offered = offer(vec![tool], Names::default(), Budget::default());
        assert!(offered.unusable.is_empty(), "{:?}", offered.unusable);
        let call = request(&offered.functions[0], r#"{"parameters":{"sides":6}}"#);
        assert_eq!(call.map(|call| call.url.to_string()), Ok("http://127.0.0.1:1/dice/roll?sides=6".to_owned()));
    }
}
