//! Which model is called: retired ones, refused ones, and what they refuse.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    App, User, chat_body, client, message,
    upstream::{Recorded, Reply, Step, Upstream},
};

const KEY: &str = "sk-case-models";

fn body_of(request: &Recorded) -> Value {
    serde_json::from_slice(&request.body).expect("JSON")
}

fn chat_answer(text: &str) -> Reply {
    let delta = json!({ "choices": [{ "delta": { "content": text }, "finish_reason": null }] });
    Reply::events(&[&format!("data: {delta}\n\n"), "data: [DONE]\n\n"], Step::Wait(Duration::ZERO))
}

fn responses_answer(text: &str) -> Reply {
    let delta = json!({ "type": "response.output_text.delta", "delta": text });
    let usage = json!({ "input_tokens": 9, "output_tokens": 3 });
    let end =
        json!({ "type": "response.completed", "response": { "status": "completed", "output": [], "usage": usage } });
    Reply::events(&[&format!("data: {delta}\n\n"), &format!("data: {end}\n\n")], Step::Wait(Duration::ZERO))
}

fn refusal(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({ "error": { "message": message, "param": null, "code": null } }))
}

/// A provider that serves these models of OpenAI's alone.
fn serving(models: &'static [&'static str]) -> Upstream {
    Upstream::answering(|request| {
        let body = body_of(request);
        let model = body["model"].as_str().unwrap_or_default();
        if models.contains(&model) {
            chat_answer("Hello")
        } else {
            let message = format!("The model `{model}` does not exist or you do not have access to it.");
            Reply::json(404, &json!({ "error": { "message": message, "code": "model_not_found" } }))
        }
    })
}

struct On {
    upstream: Upstream,
    app: App,
    user: User,
}

impl On {
    async fn new(upstream: Upstream, settings: &[(&str, &str)]) -> Self {
        let url = upstream.url();
        let urls = [
            ("MODEL_ALIASES", ""),
            ("OPENAI_BASE_URL", url.as_str()),
            ("PERPLEXITY_BASE_URL", &url),
            ("ANTHROPIC_BASE_URL", &url),
        ];
        let app = App::start(&[&urls, settings].concat()).await;
        let user = app
            .user(&[
                ("openai_api_key", KEY),
                ("perplexity_api_key", KEY),
                ("anthropic_api_key", KEY),
                ("azure_openai_api_key", KEY),
                ("azure_openai_endpoint", &url),
                ("azure_openai_45_turbo_id", "large"),
            ])
            .await;
        Self { upstream, app, user }
    }

    async fn ask(&self, route: &str, model: &str) -> reqwest::Response {
        let mut body = chat_body();
        body["chatSettings"]["model"] = model.into();
        body["messages"] = json!([{ "role": "system", "content": "S" }, { "role": "user", "content": "U" }]);
        self.app.chat(route, &self.user).body(body.to_string()).send().await.expect("an answer")
    }

    fn models(&self) -> Vec<String> {
        self.upstream.all().iter().map(|request| body_of(request)["model"].as_str().unwrap_or("-").to_owned()).collect()
    }
}

fn model_header(answer: &reqwest::Response) -> &str {
    answer.headers().get("x-model").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_retired_model_is_its_successor() {
    let on = On::new(serving(&["gpt-5.6-sol"]), &[]).await;
    let answer = on.ask("openai", "gpt-4").await;
    assert_eq!((answer.status().as_u16(), model_header(&answer)), (200, "gpt-5.6-sol"));
    assert_eq!(answer.text().await.expect("text"), "Hello");
    assert_eq!(on.models(), ["gpt-5.6-sol"]);
    assert!(body_of(&on.upstream.all()[0])["temperature"].is_null(), "the successor refuses one");
}

#[tokio::test]
async fn the_done_event_has_both_names() {
    let on = On::new(serving(&["gpt-5.6-sol"]), &[]).await;
    let mut body = chat_body();
    body["chatSettings"]["model"] = "gpt-4".into();
    let request = on.app.chat("openai", &on.user).header("accept", "text/event-stream").body(body.to_string());
    let events = request.send().await.expect("an answer").text().await.expect("events");
    assert!(events.contains(r#""model":"gpt-4","effective_model":"gpt-5.6-sol""#), "{events}");
}

#[tokio::test]
async fn a_successor_that_is_closed_to_the_account_is_passed_over_from_then_on() {
    let on = On::new(serving(&["gpt-6-luna"]), &[]).await;
    assert_eq!(model_header(&on.ask("openai", "gpt-4").await), "gpt-6-luna");
    assert_eq!(on.models(), ["gpt-5.6-sol", "gpt-6.1-sol", "gpt-6-luna"]);
    assert_eq!(model_header(&on.ask("openai", "gpt-4-turbo-preview").await), "gpt-6-luna");
    assert_eq!(on.models().len(), 4, "what was learnt of one name holds for the other");
}

#[tokio::test]
async fn no_more_than_three_are_tried() {
    let on = On::new(serving(&[]), &[]).await;
    let (status, words) = message(on.ask("openai", "gpt-4").await).await;
    assert_eq!((status, on.models().len()), (404, 3));
    assert!(words.contains("`gpt-6-luna` does not exist"), "{words}");
}

#[tokio::test]
async fn a_model_that_never_was_is_said_in_the_providers_words() {
    let on = On::new(serving(&["gpt-4o"]), &[]).await;
    let (status, words) = message(on.ask("openai", "gpt-4-trubo").await).await;
    assert_eq!((status, on.models()), (404, vec!["gpt-4-trubo".to_owned()]));
    assert!(words.contains("gpt-4-trubo"), "{words}");
}

#[tokio::test]
async fn aliases_and_off() {
    let alias = On::new(serving(&["mine"]), &[("MODEL_ALIASES", "gpt-4=mine")]).await;
    assert_eq!(model_header(&alias.ask("openai", "gpt-4").await), "mine");
    let off = On::new(serving(&["gpt-5.6-sol"]), &[("MODEL_ALIASES", "off")]).await;
    assert_eq!(off.ask("openai", "gpt-4").await.status(), 404);
    assert_eq!(off.models(), ["gpt-4"]);
}

#[tokio::test]
async fn a_model_nobody_listed_that_refuses_two_things_works_at_the_second_try() {
    let upstream = Upstream::answering(|request| {
        let body = body_of(request);
        let refused: Vec<&str> =
            ["temperature", "prompt_cache_key"].into_iter().filter(|name| !body[*name].is_null()).collect();
        if refused.is_empty() {
            return chat_answer("Hello");
        }
        let detail: Vec<Value> = refused
            .iter()
            .map(|name| json!({ "type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted" }))
            .collect();
        Reply::json(422, &json!({ "detail": detail }))
    });
    let on = On::new(upstream, &[]).await;
    // A name of a family that takes both.
    assert_eq!(on.ask("openai", "gpt-4.9-orion").await.text().await.expect("text"), "Hello");
    assert_eq!(on.upstream.all().len(), 2);
    assert_eq!(on.ask("openai", "gpt-4.9-orion").await.status(), 200);
    assert_eq!(on.upstream.all().len(), 3, "the second request is right at once");
}

#[tokio::test]
async fn what_a_custom_model_refuses_is_learnt_for_it_alone() {
    let upstream = Upstream::answering(|request| {
        let body = body_of(request);
        if body["model"] == "strict" && !body["temperature"].is_null() {
            return refusal(400, "litellm.BadRequestError: `temperature` is deprecated for this model.");
        }
        chat_answer("Hello")
    });
    let on = On::new(upstream, &[]).await;
    let id = Uuid::new_v4();
    sqlx::query(
        "insert into public.models (id, user_id, api_key, base_url, description, model_id, name, context_length) \
         values ($1, $2, $3, $4, '', 'm', 'm', 4096)",
    )
    .bind(id)
    .bind(on.user.id)
    .bind(KEY)
    .bind(on.upstream.url())
    .execute(&on.app.db)
    .await
    .expect("a model");
    for (model, calls) in [("strict", 2), ("strict", 1), ("lenient", 1)] {
        let before = on.upstream.all().len();
        let mut body = chat_body();
        body["chatSettings"]["model"] = model.into();
        body["customModelId"] = id.to_string().into();
        let answer = on.app.chat("custom", &on.user).body(body.to_string()).send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), on.upstream.all().len() - before), (200, calls), "{model}");
    }
    assert_eq!(body_of(on.upstream.all().last().expect("a request"))["temperature"], 0.5);
}

#[tokio::test]
async fn azure_is_called_without_a_version_and_by_the_older_path_if_it_must_be() {
    let upstream = Upstream::answering(|request| {
        if request.path.starts_with("/openai/v1/") {
            return Reply::json(404, &json!({ "error": { "code": "404", "message": "Resource not found" } }));
        }
        assert_eq!(request.query, [("api-version".to_owned(), "2024-10-21".to_owned())]);
        chat_answer("Hello")
    });
    let on = On::new(upstream, &[]).await;
    for paths in [
        vec!["/openai/v1/chat/completions", "/openai/deployments/large/chat/completions"],
        vec!["/openai/deployments/large/chat/completions"],
    ] {
        let before = on.upstream.all().len();
        let answer = on.ask("azure", "gpt-4o").await;
        // A deployment's name is the operator's own and tells nothing of the model.
        assert_eq!((answer.status().as_u16(), model_header(&answer)), (200, ""));
        let seen: Vec<String> = on.upstream.all().iter().skip(before).map(|request| request.path.clone()).collect();
        assert_eq!(seen, paths);
    }
}

#[tokio::test]
async fn perplexity_is_called_by_its_newer_api_once_the_older_one_says_so() {
    let upstream = Upstream::answering(|request| {
        if request.path != "/v1/responses" {
            return refusal(403, "This is now the Agent API. Use `/v1/responses` instead of `/chat/completions`.");
        }
        responses_answer("Hello")
    });
    let on = On::new(upstream, &[]).await;
    for (model, search) in [("sonar-small-online", true), ("sonar-small-chat", false)] {
        let answer = on.ask("perplexity", model).await;
        assert_eq!((answer.status().as_u16(), model_header(&answer)), (200, "perplexity/sonar"));
        assert_eq!(answer.text().await.expect("text"), "Hello");
        let last = body_of(on.upstream.all().last().expect("a request"));
        assert_eq!((&last["model"], last["tools"].is_array()), (&json!("perplexity/sonar"), search));
    }
}

#[tokio::test]
async fn a_model_of_the_responses_api_is_called_by_it() {
    let on = On::new(Upstream::answering(|_| responses_answer("Hello")), &[]).await;
    let mut body = chat_body();
    body["chatSettings"]["model"] = "gpt-5.5-pro".into();
    let request = on.app.chat("openai", &on.user).header("accept", "text/event-stream").body(body.to_string());
    let events = request.send().await.expect("an answer").text().await.expect("events");
    assert!(events.contains(r#""usage":{"input_tokens":9,"output_tokens":3}"#), "{events}");
    let seen = &on.upstream.all()[0];
    assert_eq!((seen.path.as_str(), &body_of(seen)["store"]), ("/responses", &json!(false)));
}

#[tokio::test]
async fn users_are_told_apart_where_the_key_is_the_servers() {
    let servers = [("OPENAI_API_KEY", KEY), ("ANTHROPIC_API_KEY", KEY)];
    let on = On::new(Upstream::answering(|_| chat_answer("Hello")), &servers).await;
    on.ask("openai", "gpt-4o").await;
    on.ask("anthropic", "claude-opus-5-5").await;
    let bodies: Vec<Value> = on.upstream.all().iter().map(body_of).collect();
    let name = bodies[0]["safety_identifier"].as_str().expect("a name");
    assert!(!name.contains(&on.user.id.to_string()) && name.len() == 32);
    assert_eq!(bodies[1]["metadata"], json!({ "user_id": name }));
    let own = On::new(Upstream::answering(|_| chat_answer("Hello")), &[]).await;
    own.ask("openai", "gpt-4o").await;
    let body = body_of(&own.upstream.all()[0]);
    assert!(body["safety_identifier"].is_null() && body["prompt_cache_key"].is_string());
    assert_eq!(body["stream_options"], json!({ "include_usage": true }));
}

#[tokio::test]
async fn the_command_asks_the_models_that_are_configured() {
    let answer = json!({ "choices": [{ "message": { "role": "assistant", "content": "Hi" } }] });
    let upstream = Upstream::answering(move |request| match body_of(request)["model"].as_str() {
        Some("second") => Reply::json(200, &answer),
        _ => Reply::json(404, &json!({ "error": { "message": "gone", "code": "model_not_found" } })),
    });
    let on = On::new(upstream, &[("COMMAND_MODEL", "first, second")]).await;
    let request = client().post(on.app.url("/api/command")).header("authorization", on.user.bearer());
    let answer = request.body(r#"{"input":"hello"}"#).send().await.expect("an answer");
    assert_eq!(model_header(&answer), "second");
    assert_eq!(answer.text().await.expect("JSON"), r#"{"content":"Hi"}"#);
    assert_eq!(on.models(), ["first", "second"]);
}

#[tokio::test]
async fn there_are_no_assistants_where_the_api_is_gone() {
    let upstream = Upstream::answering(|_| refusal(404, "Invalid URL (GET /v1/assistants)"));
    let on = On::new(upstream, &[]).await;
    let request = client().get(on.app.url("/api/assistants/openai")).header("authorization", on.user.bearer());
    let answer = request.send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.text().await.expect("JSON").as_str()), (200, r#"{"assistants":[]}"#));
}
