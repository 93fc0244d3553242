//! How answers end, and what is said while they have not begun.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    App, User, chat_body, cut, message,
    upstream::{End, Reply, Step, Upstream},
};

const KEY: &str = "sk-case-endings";
const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

struct Setting {
    upstream: Upstream,
    app: App,
    user: User,
}

impl Setting {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let upstream = Upstream::start().await;
        let base = format!("{}/v1", upstream.url());
        let provider = [("OPENAI_BASE_URL", base.as_str()), ("GROQ_BASE_URL", &base), ("ANTHROPIC_BASE_URL", &base)];
        let app = App::start(&[&provider, settings].concat()).await;
        let user = app.user(&[("openai_api_key", KEY), ("groq_api_key", KEY), ("anthropic_api_key", KEY)]).await;
        Self { upstream, app, user }
    }

    fn script(&self, events: &[&str]) {
        self.upstream.script(KEY, vec![Reply::events(events, Step::Wait(Duration::ZERO))]);
    }

    async fn text(&self) -> reqwest::Response {
        self.app.chat("openai", &self.user).send().await.expect("an answer")
    }

    async fn events(&self) -> String {
        let request = self.app.chat("openai", &self.user).header("accept", "text/event-stream");
        request.send().await.expect("an answer").text().await.expect("whole")
    }
}

fn finish(reason: &str) -> String {
    format!("data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\n")
}

#[tokio::test]
async fn an_end_is_judged_by_its_mark_and_its_reason() {
    let on = Setting::new(&[]).await;
    for (last, line) in [
        ("", "the provider ended the answer without saying that it is complete"),
        (&finish("content_filter"), "the provider's content filter stopped the answer"),
        (&finish("error"), "the provider reported an error: The provider broke off the answer without saying why"),
        ("error: {\"code\":400,\"message\":\"too long\"}\n\n", "the provider reported an error: too long"),
        ("{\n \"error\": {\"message\":\"busy\"}\n}\n", "the provider reported an error: busy"),
    ] {
        on.script(&[DELTA, last]);
        assert_eq!(cut(on.text().await).await, format!("Hello\n\n*The answer stops here: {line}.*"));
        on.script(&[DELTA, last]);
        let events = on.events().await.replace(": keep-alive\n\n", "");
        assert!(events.starts_with("event: delta\ndata: {\"text\":\"Hello\"}\n\nevent: error\n"), "{events}");
        // After a comment, as a body that begins as JSON is no event stream.
        on.script(&[": c\n\n", last, DONE]);
        let status = on.text().await.status().as_u16();
        assert!(status >= 400 || last.is_empty(), "{last}");
    }
    on.script(&[DELTA, &finish("length"), DONE]);
    let whole = on.text().await.text().await.expect("whole");
    assert_eq!(whole, "Hello\n\n*The answer stops here: it reached the limit of tokens.*");
    on.script(&[&finish("length"), DONE]);
    let (status, words) = message(on.text().await).await;
    assert!(status == 502 && words.contains("limit of tokens"), "{words}");
    // What follows a proper end is nobody's loss.
    let error = "data: {\"error\":{\"message\":\"late\"}}\n\n";
    on.script(&[DELTA, &finish("stop"), error, "data: {junk\n\n"]);
    assert_eq!(on.text().await.text().await.expect("whole"), "Hello");
}

#[tokio::test]
async fn nothing_is_added_with_answer_notes_off() {
    let on = Setting::new(&[("ANSWER_NOTES", "off")]).await;
    let citing = DELTA.replace("{\"choices", "{\"citations\":[\"https://a.example/\"],\"choices");
    on.script(&[&citing, &finish("length"), DONE]);
    assert_eq!(on.text().await.text().await.expect("whole"), "Hello");
    on.script(&[DELTA]);
    assert_eq!(cut(on.text().await).await, "Hello");
}

#[tokio::test]
async fn on_custom_a_complete_transfer_is_an_end() {
    let on = Setting::new(&[]).await;
    let (id, base_url) = (Uuid::new_v4(), format!("{}/v1", on.upstream.url()));
    sqlx::query(
        "insert into public.models (id, user_id, sharing, api_key, base_url, description, model_id, name) values ($1, $2, 'private', $3, $4, '', 'm', 'm')",
    )
    .bind(id)
    .bind(on.user.id)
    .bind(KEY)
    .bind(base_url)
    .execute(&on.app.db)
    .await
    .expect("a model");
    let ask = async || {
        let mut body = chat_body();
        body["customModelId"] = json!(id);
        on.app.chat("custom", &on.user).body(body.to_string()).send().await.expect("an answer")
    };
    on.script(&[DELTA]);
    assert_eq!(ask().await.text().await.expect("whole"), "Hello");
    on.upstream
        .script(KEY, vec![Reply { end: End::Reset, ..Reply::events(&[DELTA], Step::Wait(Duration::from_millis(50))) }]);
    assert!(cut(ask().await).await.ends_with("the connection to the provider broke.*"));
    // Without text it is no answer, and a server that sends no text for ever
    // is left.
    on.script(&[""]);
    assert_eq!(message(ask().await).await.0, 502);
    let usage = format!("data: {{\"choices\":[],\"usage\":{{\"x\":\"{}\"}}}}\n\n", "x".repeat(1 << 20));
    on.script(&[usage.as_str(); 8]);
    let (status, words) = message(ask().await).await;
    assert_eq!((status, words.as_str()), (502, "The provider sent 4 MiB without any text"));
}

#[tokio::test]
async fn events_tell_thoughts_sources_usage_and_the_end() {
    let on = Setting::new(&[]).await;
    let events = [
        "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
        DELTA,
        "data: {\"choices\":[{\"delta\":{\"annotations\":[{\"type\":\"url_citation\",\"url_citation\":{\"url\":\"https://a.example/\",\"title\":\"A\"}}]},\"finish_reason\":\"stop\"}],\"usage\":{\"total_tokens\":1}}\n\n",
        "data: {\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\n",
        DONE,
    ];
    on.script(&events);
    let expected = [
        "event: reasoning\ndata: {\"text\":\"hm\"}\n\n",
        "event: delta\ndata: {\"text\":\"Hello\"}\n\n",
        "event: sources\ndata: {\"sources\":[{\"url\":\"https://a.example/\",\"title\":\"A\"}]}\n\n",
        "event: usage\ndata: {\"total_tokens\":3}\n\n",
        "event: done\ndata: {\"finish_reason\":\"stop\",",
    ];
    let told = on.events().await;
    assert!(told.starts_with(&expected.concat()), "{told}");
    on.script(&events);
    let text = on.text().await.text().await.expect("whole");
    assert_eq!(text, "Hello\n\n*Sources:*\n\n1. [A](https://a.example/)");
}

#[tokio::test]
async fn a_client_that_takes_events_hears_a_heartbeat() {
    let on = Setting::new(&[("HEARTBEAT", "1")]).await;
    let pause = || Step::Wait(Duration::from_millis(2500));
    let steps = vec![pause(), Step::Write(DELTA.into()), pause(), Step::Write(DONE.into())];
    on.upstream.script(KEY, vec![Reply { steps: steps.clone(), ..Reply::default() }]);
    let request = on.app.chat("openai", &on.user).header("accept", "text/event-stream");
    let started = Instant::now();
    let answer = request.send().await.expect("an answer");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let told = answer.text().await.expect("whole");
    assert!(told.matches(": keep-alive\n").count() >= 3, "{told}");
    assert!(told.contains("event: delta\n") && told.contains("event: done\n"), "{told}");
    // A failure after the first heartbeat is an event.
    let failing = Reply {
        status: 400,
        steps: vec![pause(), Step::Write(b"{\"error\":{\"message\":\"no\"}}".to_vec())],
        ..Reply::default()
    };
    on.upstream.script(KEY, vec![failing]);
    let told = on.events().await;
    assert!(told.ends_with("event: error\ndata: {\"message\":\"400 no\"}\n\n"), "{told}");
    // As text nothing is sent but the text.
    on.upstream.script(KEY, vec![Reply { steps, ..Reply::default() }]);
    assert_eq!(on.text().await.text().await.expect("whole"), "Hello");
}

#[tokio::test]
async fn what_was_added_does_not_come_back_to_the_model() {
    let on = Setting::new(&[]).await;
    let mut body = chat_body();
    let answer =
        "Half\n\n*Sources:*\n\n1. [A](https://a.example/)\n\n*The answer stops here: it reached the limit of tokens.*";
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    body["messages"] = json!([
        turn("system", "S"),
        turn("user", "a"),
        turn("assistant", answer),
        turn("user", "b"),
        turn("assistant", " ")
    ]);
    for route in ["openai", "groq", "anthropic"] {
        let sent =
            |number: usize| -> Value { serde_json::from_slice(&on.upstream.requests(KEY)[number].body).expect("JSON") };
        let number = on.upstream.requests(KEY).len();
        on.script(&[DELTA, DONE]);
        on.app.chat(route, &on.user).body(body.to_string()).send().await.expect("an answer");
        let messages = sent(number)["messages"].to_string();
        assert!(
            messages.contains("Half") && !messages.contains("stops here") && !messages.contains("Sources"),
            "{messages}"
        );
        assert!(!messages.contains("\" \""), "{route}: {messages}");
    }
}
