//! The protocols that are not OpenAI's: broken, refused and left answers, and
//! what the front end really sends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    App, User, chat_body, client, cut, message,
    upstream::{End, Reply, Step, Upstream},
};

/// A protocol's route, its key's column, an event with the text "Hello", one
/// with an error, and a body that its route takes.
struct Protocol {
    route: &'static str,
    column: &'static str,
    base_url: &'static str,
    hello: &'static str,
    /// The mark of a proper end.
    end: &'static str,
    error: &'static str,
    messages: Value,
}

fn protocols() -> [Protocol; 3] {
    let messages = json!([{ "role": "system", "content": "S" }, { "role": "user", "content": "U" }]);
    [
        Protocol {
            route: "openai",
            column: "openai_api_key",
            base_url: "OPENAI_BASE_URL",
            hello: "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n",
            end: "data: [DONE]\n\n",
            error: "data: {\"error\":{\"message\":\"overloaded\"}}\n\n",
            messages: messages.clone(),
        },
        Protocol {
            route: "anthropic",
            column: "anthropic_api_key",
            base_url: "ANTHROPIC_BASE_URL",
            hello: "event: content_block_delta\ndata: {\"delta\":{\"text\":\"Hello\"}}\n\n",
            end: "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            error: "event: error\ndata: {\"error\":{\"type\":\"overloaded_error\",\"message\":\"overloaded\"}}\n\n",
            messages,
        },
        Protocol {
            route: "google",
            column: "google_gemini_api_key",
            base_url: "GOOGLE_GEMINI_BASE_URL",
            hello: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hello\"}]}}]}\r\n\r\n",
            end: "data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\r\n\r\n",
            error: "data: {\"error\":{\"code\":503,\"message\":\"overloaded\"}}\r\n\r\n",
            messages: json!([{ "role": "user", "parts": [{ "text": "U" }] }]),
        },
    ]
}

struct Setting {
    upstream: Upstream,
    app: App,
    user: User,
    protocol: Protocol,
}

impl Setting {
    async fn new(protocol: Protocol) -> Self {
        let upstream = Upstream::start().await;
        let app = App::start(&[(protocol.base_url, &upstream.url())]).await;
        let user = app.user(&[(protocol.column, "sk-case-protocol")]).await;
        Self { upstream, app, user, protocol }
    }

    fn script(&self, events: &[&str], last: Step, end: End) {
        let reply = Reply { end, ..Reply::events(events, last) };
        self.upstream.script("sk-case-protocol", vec![reply]);
    }

    async fn ask(&self) -> reqwest::Response {
        self.ask_with(self.protocol.messages.clone()).await
    }

    async fn ask_with(&self, messages: Value) -> reqwest::Response {
        let mut body = chat_body();
        body["messages"] = messages;
        self.app.chat(self.protocol.route, &self.user).body(body.to_string()).send().await.expect("an answer")
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut() {
    for protocol in protocols() {
        let on = Setting::new(protocol).await;
        let (hello, error, route) = (on.protocol.hello, on.protocol.error, on.protocol.route);
        let broken = hello.replace("Hello\"", "");
        let pause = Step::Wait(Duration::from_millis(30));
        for (events, last, end) in [
            (vec![hello], pause.clone(), End::Reset),
            (vec![hello, error], pause.clone(), End::Normal),
            (vec![hello, broken.as_str()], pause.clone(), End::Normal),
        ] {
            on.script(&events, last, end);
            let mut answer = on.ask().await;
            assert_eq!(answer.status(), 200, "{route}");
            assert_eq!(answer.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]), "{route}");
            let line = cut(answer).await;
            assert!(line.starts_with("\n\n*The answer stops here: the "), "{route}: {events:?}: {line}");
        }
    }
}

#[tokio::test]
async fn what_fails_before_the_first_text_has_a_status() {
    for protocol in protocols() {
        let on = Setting::new(protocol).await;
        let route = on.protocol.route;
        on.script(&[on.protocol.error], Step::Wait(Duration::ZERO), End::Normal);
        assert_eq!(message(on.ask().await).await, (502, "overloaded".to_owned()), "{route}");
        on.script(&[], Step::Wait(Duration::from_millis(10)), End::Reset);
        assert_eq!(message(on.ask().await).await, (500, "Connection error.".to_owned()), "{route}");
        on.upstream.script("sk-case-protocol", vec![Reply::json(200, &json!({ "error": { "message": "no stream" } }))]);
        assert_eq!(message(on.ask().await).await, (502, "no stream".to_owned()), "{route}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_at_once() {
    for protocol in protocols() {
        let on = Setting::new(protocol).await;
        on.script(&[on.protocol.hello], Step::WaitForever, End::Normal);
        let mut answer = on.ask().await;
        assert_eq!(answer.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]));
        let left = Instant::now();
        drop(answer);
        let seen = |requests: &[crate::support::upstream::Recorded]| requests[0].left.is_some();
        assert!(on.upstream.wait_for("sk-case-protocol", Duration::from_secs(3), seen).await, "{}", on.protocol.route);
        let took = on.upstream.requests("sk-case-protocol")[0].left.expect("left").saturating_duration_since(left);
        assert!(took < Duration::from_millis(100), "{}: {took:?}", on.protocol.route);
    }
}

#[tokio::test]
async fn what_the_front_end_really_sends() {
    // Two turns of the user in a row, and a regeneration: the answer that is
    // to be replaced is there, emptied.
    let openai = json!([{ "role": "system", "content": "S" }, { "role": "user", "content": "a" }, { "role": "user", "content": "b" }, { "role": "assistant", "content": "" }]);
    let google = json!([{ "role": "user", "parts": [{ "text": "a" }] }, { "role": "user", "parts": [{ "text": "b" }] }, { "role": "model", "parts": [{ "text": "" }] }]);
    for protocol in protocols() {
        let on = Setting::new(protocol).await;
        let route = on.protocol.route;
        on.script(&[on.protocol.hello, on.protocol.end], Step::Wait(Duration::ZERO), End::Normal);
        let messages = if route == "google" { google.clone() } else { openai.clone() };
        let mut bodies = vec![chat_body(), chat_body(), chat_body()];
        bodies[1]["customModelId"] = Value::Null;
        bodies[2].as_object_mut().expect("an object").remove("customModelId");
        for mut body in bodies {
            body["messages"] = messages.clone();
            for content_type in ["text/plain;charset=UTF-8", "application/json"] {
                let request = on.app.chat(route, &on.user).header("content-type", content_type).body(body.to_string());
                let answer = request.send().await.expect("an answer");
                assert_eq!(
                    (answer.status().as_u16(), answer.text().await.expect("whole").as_str()),
                    (200, "Hello"),
                    "{route}"
                );
            }
        }
        let sent: Value = serde_json::from_slice(&on.upstream.requests("sk-case-protocol")[0].body).expect("JSON");
        match route {
            "openai" => {
                let mut without_the_empty_turn = openai.clone();
                without_the_empty_turn.as_array_mut().expect("messages").pop();
                assert_eq!(sent["messages"], without_the_empty_turn);
            }
            // Two turns of one role are joined.
            "anthropic" => assert_eq!(sent["messages"].as_array().map(Vec::len), Some(1), "{sent}"),
            _ => assert_eq!(sent["contents"].as_array().map(Vec::len), Some(1), "{sent}"),
        }
    }
}

#[tokio::test]
async fn half_a_character_does_no_harm() {
    for protocol in protocols() {
        let on = Setting::new(protocol).await;
        on.script(&[on.protocol.hello], Step::Wait(Duration::ZERO), End::Normal);
        let raw = on.protocol.messages.to_string().replace("\"U\"", "\"U \\ud83d\"");
        let body = format!(r#"{{"chatSettings":{{"model":"m","temperature":1}},"messages":{raw}}}"#);
        let answer = on.app.chat(on.protocol.route, &on.user).body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}", on.protocol.route);
    }
}

#[tokio::test]
async fn a_blocked_prompt_is_an_error_with_its_reason() {
    let [_, _, google] = protocols();
    let on = Setting::new(google).await;
    on.script(
        &["data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\r\n\r\n"],
        Step::Wait(Duration::ZERO),
        End::Normal,
    );
    let (status, words) = message(on.ask().await).await;
    assert!(status == 400 && words.ends_with("blocked due to SAFETY"), "{status} {words}");
}

#[tokio::test]
async fn azures_endpoint_goes_through_the_guard_unless_the_operator_set_it() {
    let upstream = Upstream::start().await;
    let hello = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
    upstream.script("sk-case-azure", vec![Reply::events(&[hello, "data: [DONE]\n\n"], Step::Wait(Duration::ZERO))]);
    let columns = |endpoint| {
        [
            ("azure_openai_api_key", "sk-case-azure"),
            ("azure_openai_endpoint", endpoint),
            ("azure_openai_45_turbo_id", "a b(c)"),
        ]
    };
    let mut body = chat_body();
    body["chatSettings"]["model"] = "gpt-4-turbo-preview".into();
    let url = upstream.url();
    for (settings, status) in [
        (vec![("PRIVATE_UPSTREAMS", "deny")], 400),
        (vec![("PRIVATE_UPSTREAMS", "deny"), ("AZURE_OPENAI_ENDPOINT", url.as_str())], 200),
    ] {
        let app = App::start(&settings).await;
        let user = app.user(&columns(&url)).await;
        let answer = app.chat("azure", &user).body(body.to_string()).send().await.expect("an answer");
        assert_eq!(answer.status(), status);
    }
    let [request] = upstream.requests("sk-case-azure").try_into().expect("one");
    assert_eq!(request.path, "/openai/v1/chat/completions", "the deployment is the model");
    assert_eq!(serde_json::from_slice::<Value>(&request.body).expect("JSON")["model"], "a b(c)");
}

#[tokio::test]
async fn names_are_told_to_every_user_who_is_signed_in() {
    let app = App::start(&[]).await;
    let (user, other) = (app.user(&[]).await, app.user(&[("username", "somebody")]).await);
    let ask = async |route: &str, body: Value| -> (u16, Value) {
        let request = client().post(app.url(&format!("/api/username/{route}"))).header("authorization", user.bearer());
        let answer = request.body(body.to_string()).send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.expect("whole")).expect("JSON"))
    };
    assert_eq!(ask("get", json!({ "userId": other.id })).await, (200, json!({ "username": "somebody" })));
    assert_eq!(ask("available", json!({ "username": "somebody" })).await, (200, json!({ "isAvailable": false })));
    assert_eq!(ask("available", json!({ "username": "' or true --" })).await, (200, json!({ "isAvailable": true })));
    assert_eq!(
        ask("get", json!({ "userId": uuid::Uuid::new_v4() })).await,
        (500, json!({ "message": "Profile not found" }))
    );
    assert_eq!(ask("get", json!({ "userId": "nobody" })).await, (500, json!({ "message": "Profile not found" })));
    assert_eq!(ask("get", json!({})).await, (400, json!({ "message": "userId is missing" })));
    assert_eq!(ask("available", json!({})).await, (400, json!({ "message": "username is missing" })));
}

#[tokio::test]
async fn the_servers_own_azure_key_goes_to_no_endpoint_that_a_user_entered() {
    let upstream = Upstream::start().await;
    let app = App::start(&[("AZURE_OPENAI_API_KEY", "sk-case-own")]).await;
    let user = app.user(&[("azure_openai_endpoint", &upstream.url()), ("azure_openai_45_turbo_id", "d")]).await;
    let mut body = chat_body();
    body["chatSettings"]["model"] = "gpt-4-turbo-preview".into();
    let answer = app.chat("azure", &user).body(body.to_string()).send().await.expect("an answer");
    assert_eq!(message(answer).await, (400, "Azure resources not found".to_owned()));
    assert_eq!(upstream.connections(), 0);
}
