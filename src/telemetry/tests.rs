//! Tests with a handler that panics, which no real route does.

use actix_web::{App, HttpServer, middleware::from_fn, web};
use actix_web_lab::middleware::CatchPanic;

use super::*;

async fn breaks() -> &'static str {
    panic!("the words of a panic")
}

/// Starts a server with the relevant middleware and returns its address.
fn start(telemetry: Data<Telemetry>) -> String {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(telemetry.clone())
            .route("/breaks", web::get().to(breaks))
            .wrap(CatchPanic::default())
            .wrap(from_fn(record_request))
    });
    let server = server.workers(1).disable_signals().bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/breaks", server.addrs()[0]);
    actix_web::rt::spawn(server.run());
    url
}

#[actix_web::test]
async fn a_panic_is_answered_in_json_with_an_id_and_counted() {
    #[cfg(feature = "otlp")]
    let telemetry = Telemetry::new(None);
    #[cfg(not(feature = "otlp"))]
    let telemetry = Telemetry::new();
    let telemetry = Data::new(telemetry.expect("telemetry"));
    let url = start(telemetry.clone());
    // The connection can be reused.
    let client = reqwest::Client::new();
    for _ in 0..2 {
        let answer = client.get(&url).send().await.expect("an answer");
        assert_eq!(answer.status(), 500);
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert!(Uuid::try_parse(answer.headers()["x-request-id"].to_str().expect("ascii")).is_ok());
        let text = answer.text().await.expect("a body");
        assert_eq!(text, r#"{"message":"An unexpected error occurred"}"#);
    }
    let counted = telemetry.metrics.render(&Gauges::default()).expect("text");
    let counted = String::from_utf8(counted).expect("UTF-8");
    let line = r#"chatbot_ui_api_requests_total{method="GET",route="/breaks",status="500"} 2"#;
    assert!(counted.lines().any(|counted| counted == line), "{counted}");
}

#[test]
fn durations_have_three_digits() {
    for (microseconds, shown) in
        [(123, "0.123"), (1_234, "1.23"), (12_345, "12.3"), (123_456, "123"), (61_234_567, "61235")]
    {
        assert_eq!(milliseconds(Duration::from_micros(microseconds)).to_string(), shown);
    }
}
