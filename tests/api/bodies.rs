//! The bodies that the front end itself posts, to every route that it calls: whole settings, `text/plain` where it sets
//! no type, the histories of its buttons (regenerate, stop, an image, files), and whole rows for tools.

use std::time::Duration;

use chatbot_ui_api::http_client::ssrf_guard;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::support::{
    App, User, client, postgres,
    retrieval::{SERVICE_KEY, Stand},
    rows::{self, File},
    upstream::{Recorded, Reply, Step, Upstream},
};

/// The type of a body that is a string, if the page sets none.
const STRING: &str = "text/plain;charset=UTF-8";
const IMAGE: &str = "data:image/png;base64,QUJD";
const KEY: &str = "sk-case-bodies";

/// The hosted models of the picker: their route and id.
const PICKED: [(&str, &str); 9] = [
    ("openai", "gpt-4-turbo-preview"),
    ("groq", "llama3-70b-8192"),
    ("mistral", "mistral-large-latest"),
    ("openrouter", "openai/gpt-4o"),
    ("perplexity", "pplx-70b-online"),
    ("azure", "gpt-4-turbo-preview"),
    ("anthropic", "claude-3-5-sonnet-20240620"),
    ("google", "gemini-1.5-pro-latest"),
    ("custom", "x"),
];

/// "Hello" in each provider's own protocol.
fn provider() -> Upstream {
    Upstream::answering(|request: &Recorded| {
        let events: &[&str] = if request.path.ends_with("/messages") {
            &[
                "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ]
        } else if request.path.contains(":streamGenerateContent") {
            &["data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hello\"}]},\"finishReason\":\"STOP\"}]}\n\n"]
        } else {
            &[
                "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"},\"finish_reason\":\"stop\"}]}\n\n",
                "data: [DONE]\n\n",
            ]
        };
        Reply::events(events, Step::Wait(Duration::ZERO))
    })
}

async fn start(upstream: &Upstream) -> (App, User) {
    let (bare, v1) = (upstream.url(), format!("{}/v1", upstream.url()));
    let settings = [
        ("OPENAI_BASE_URL", v1.as_str()),
        ("GROQ_BASE_URL", &v1),
        ("MISTRAL_BASE_URL", &v1),
        ("OPENROUTER_BASE_URL", &v1),
        ("PERPLEXITY_BASE_URL", &v1),
        ("ANTHROPIC_BASE_URL", &bare),
        ("GOOGLE_GEMINI_BASE_URL", &bare),
        ("OPENAI_API_KEY", KEY),
        ("GROQ_API_KEY", KEY),
        ("MISTRAL_API_KEY", KEY),
        ("OPENROUTER_API_KEY", KEY),
        ("PERPLEXITY_API_KEY", KEY),
        ("ANTHROPIC_API_KEY", KEY),
        ("GOOGLE_GEMINI_API_KEY", KEY),
        ("AZURE_OPENAI_API_KEY", KEY),
        ("AZURE_OPENAI_ENDPOINT", &bare),
        ("AZURE_GPT_45_TURBO_NAME", "turbo"),
    ];
    let app = App::start(&settings).await;
    let user = app.user(&[]).await;
    (app, user)
}

fn settings(model: &str) -> Value {
    json!({
        "model": model, "prompt": "You are helpful.", "temperature": 0.5, "contextLength": 4096,
        "includeProfileContext": true, "includeWorkspaceInstructions": true, "embeddingsProvider": "openai",
    })
}

fn system() -> Value {
    json!({ "role": "system", "content": "Today is 11/29/2026.\n\nUser Instructions:\nYou are helpful." })
}

fn said(role: &str, text: &str) -> Value {
    json!({ "role": role, "content": text })
}

fn shown(text: &str, images: &[&str]) -> Value {
    let text = json!({ "type": "text", "text": text });
    let images = images.iter().map(|url| json!({ "type": "image_url", "image_url": { "url": url } }));
    let parts: Vec<Value> = [text].into_iter().chain(images).collect();
    json!({ "role": "user", "content": parts })
}

/// What stands after the system's message: as it is posted, and as a provider is to get it.
fn histories() -> Vec<(&'static str, Vec<Value>, Vec<Value>)> {
    let same = |name, turns: Vec<Value>| (name, turns.clone(), turns);
    let (first, answer, second) = (said("user", "a"), said("assistant", "A"), said("user", "b"));
    let empty = said("assistant", "");
    let sources = "When?\n\nYou may use the following sources:\n\n<BEGIN SOURCE>\nAt six.\n</END SOURCE>";
    vec![
        same("a first question", vec![first.clone()]),
        same("a second question", vec![first.clone(), answer.clone(), second.clone()]),
        // The answer that is to be replaced is there, emptied.
        ("regenerate", vec![first.clone(), empty.clone()], vec![first.clone()]),
        (
            "regenerate later",
            vec![first.clone(), answer, second.clone(), empty.clone()],
            vec![first.clone(), said("assistant", "A"), second.clone()],
        ),
        // Stopped before the first word: the turn is stored empty.
        ("after a stop", vec![first.clone(), empty, second.clone()], vec![first, second.clone()]),
        same("an image", vec![shown("look", &[IMAGE])]),
        same("after an image", vec![shown("look", &[IMAGE, IMAGE]), said("assistant", "A"), second.clone()]),
        // Storage did not give it back, so it has no URL.
        (
            "after an image that was lost",
            vec![shown("look", &["", IMAGE]), said("assistant", "A"), second.clone()],
            vec![shown("look", &[IMAGE]), said("assistant", "A"), second],
        ),
        same("passages of a file", vec![said("user", sources)]),
    ]
}

/// The parts that the front end makes of a content for Google.
fn parts(content: &Value) -> Vec<Value> {
    let Some(list) = content.as_array() else { return vec![json!({ "text": content })] };
    let part = |part: &Value| match part["image_url"]["url"].as_str() {
        None => json!({ "text": part["text"] }),
        Some("") => json!({ "inlineData": { "data": null, "mimeType": null } }),
        Some(_) => json!({ "inlineData": { "data": "QUJD", "mimeType": "image/png" } }),
    };
    list.iter().map(part).collect()
}

fn for_google(messages: &[Value]) -> Vec<Value> {
    let role = |message: &Value| if message["role"] == "assistant" { "model" } else { "user" };
    messages.iter().map(|message| json!({ "role": role(message), "parts": parts(&message["content"]) })).collect()
}

/// Turns of one role in a row as one.
fn joined(turns: Vec<Value>, content: &str) -> Vec<Value> {
    let mut joined: Vec<Value> = Vec::new();
    for turn in turns {
        match joined.last_mut() {
            Some(last) if last["role"] == turn["role"] => {
                let more = turn[content].as_array().expect("parts").clone();
                last[content].as_array_mut().expect("parts").extend(more);
            }
            _ => joined.push(turn),
        }
    }
    joined
}

/// What the provider of a route is to get.
fn expected(route: &str, turns: &[Value]) -> Value {
    let all: Vec<Value> = [system()].iter().chain(turns).cloned().collect();
    match route {
        "google" => joined(for_google(&all), "parts").into(),
        "anthropic" => {
            let source = json!({ "type": "base64", "media_type": "image/png", "data": "QUJD" });
            let part = |part: &Value| match &part["image_url"] {
                Value::Null => part.clone(),
                _ => json!({ "type": "image", "source": source }),
            };
            let parts = |content: &Value| match content.as_array() {
                Some(list) => list.iter().map(part).collect(),
                None => vec![json!({ "type": "text", "text": content })],
            };
            let turn = |turn: &Value| json!({ "role": turn["role"], "content": parts(&turn["content"]) });
            joined(turns.iter().map(turn).collect(), "content").into()
        }
        _ => all.into(),
    }
}

#[tokio::test]
async fn every_history_of_the_front_end_is_answered_by_every_provider() {
    let upstream = provider();
    let (app, user) = start(&upstream).await;
    let custom = rows::model(&app.db, user.id, &format!("{}/v1", upstream.url()), KEY).await.to_string();
    for (route, model) in PICKED {
        for (name, turns, left) in histories() {
            let messages: Vec<Value> = [system()].into_iter().chain(turns).collect();
            let messages = if route == "google" { for_google(&messages) } else { messages };
            let id = if route == "custom" { custom.as_str() } else { "" };
            let body = json!({ "chatSettings": settings(model), "messages": messages, "customModelId": id });
            let request = app.chat(route, &user).header(CONTENT_TYPE, STRING).body(body.to_string());
            let answer = request.send().await.expect("an answer");
            assert_eq!(
                (answer.status().as_u16(), answer.text().await.expect("whole").as_str()),
                (200, "Hello"),
                "{route}: {name}"
            );
            let sent = upstream.all().pop().expect("a request");
            let sent: Value = serde_json::from_slice(&sent.body).expect("JSON");
            let got = if route == "google" { &sent["contents"] } else { &sent["messages"] };
            assert_eq!(*got, expected(route, &left), "{route}: {name}");
        }
    }
}

#[tokio::test]
async fn gemini_pro_vision_gets_one_turn_with_its_images_in_a_list_of_their_own() {
    let upstream = provider();
    let (app, user) = start(&upstream).await;
    let image = json!({ "inlineData": { "data": "QUJD", "mimeType": "image/png" } });
    let messages = json!([{ "role": "user", "parts": ["user:\nS\n\nuser:\nlook\n\n", [image]] }]);
    let body = json!({ "chatSettings": settings("gemini-pro-vision"), "messages": messages, "customModelId": "" });
    let request = app.chat("google", &user).header(CONTENT_TYPE, STRING).body(body.to_string());
    assert_eq!(request.send().await.expect("an answer").text().await.expect("whole"), "Hello");
    let sent: Value = serde_json::from_slice(&upstream.all()[0].body).expect("JSON");
    let parts = json!([{ "text": "user:\nS\n\nuser:\nlook\n\n" }, image]);
    assert_eq!(sent["contents"], json!([{ "role": "user", "parts": parts }]));
}

#[tokio::test]
async fn tools_come_as_whole_rows_and_their_documents_as_they_were_pasted() {
    let yaml = |server: &str| {
        format!(
            "openapi: 3.1.0\ninfo:\n  title: Weather\n  version: '1'\nservers:\n  - url: {server}\npaths:\n  /weather:\n    \
             get:\n      operationId: getWeather\n"
        )
    };
    let upstream = provider();
    let (app, user) = start(&upstream).await;
    for (route, model) in PICKED.into_iter().filter(|(route, _)| ["openai", "anthropic", "google"].contains(route)) {
        for custom_headers in ["", "{\"X-api-key\": \"1\"}"] {
            let tool = json!({
                "id": "e178df40-0354-41d7-819e-47e189198e5d", "user_id": user.id, "folder_id": null,
                "created_at": "2026-11-29T15:56:01.660411+00:00", "updated_at": null, "sharing": "private",
                "description": "weather", "name": "Weather", "schema": yaml(&upstream.url()), "url": "",
                "custom_headers": custom_headers,
            });
            // Of OpenAI's form for every model, without `customModelId`.
            let body = json!({ "chatSettings": settings(model), "messages": [system(), said("user", "a")], "selectedTools": [tool] });
            let request = app.chat("tools", &user).header(CONTENT_TYPE, "application/json").body(body.to_string());
            assert_eq!(request.send().await.expect("an answer").text().await.expect("whole"), "Hello", "{route}");
            let sent = upstream.all().pop().expect("a request");
            let sent = String::from_utf8(sent.body.to_vec()).expect("UTF-8");
            assert!(sent.contains("\"getWeather\""), "{route}: {sent}");
        }
    }
}

async fn post(app: &App, user: &User, path: &str, content_type: &str, body: String) -> (u16, String) {
    let request = client().post(app.url(path)).header(AUTHORIZATION, user.bearer()).header(CONTENT_TYPE, content_type);
    let answer = request.body(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("whole"))
}

#[tokio::test]
async fn files_are_processed_and_asked_about() {
    let stand = Stand::start();
    let base = format!("{}/v1", stand.url);
    let all =
        [("SUPABASE_URL", stand.url.as_str()), ("SUPABASE_SERVICE_ROLE_KEY", SERVICE_KEY), ("OPENAI_BASE_URL", &base)];
    let app = App::start_on(postgres::database().await, &all, ssrf_guard::system_lookup).await;
    let user = app.user(&[("openai_api_key", KEY)]).await;

    // The object's name is the file's in base64.
    let path = format!("{}/bm90ZS50eHQ=", user.id);
    let text = File { name: "note.txt", path: Some(&path), sharing: "private" }.insert(&app.db, user.id).await;
    stand.put(&path.replace('=', "%3D"), "The bakery opens at six.".into());
    let form = format!(
        "--b\r\nContent-Disposition: form-data; name=\"file_id\"\r\n\r\n{text}\r\n\
         --b\r\nContent-Disposition: form-data; name=\"embeddingsProvider\"\r\n\r\nopenai\r\n--b--\r\n"
    );
    let (status, said) = post(&app, &user, "/api/retrieval/process", "multipart/form-data; boundary=b", form).await;
    assert_eq!(status, 200, "{said}");

    // Of a Word file, the text.
    let docx = File { name: "note.docx", path: None, sharing: "private" }.insert(&app.db, user.id).await;
    let body = json!({ "text": "The baker is Marguerite.", "fileId": docx, "embeddingsProvider": "openai", "fileExtension": "docx" });
    let (status, said) = post(&app, &user, "/api/retrieval/process/docx", "application/json", body.to_string()).await;
    assert_eq!(status, 200, "{said}");

    // From the second question on, each file is named twice.
    let ids = [text, docx, text, docx];
    let body = json!({ "userInput": "The baker is Marguerite.", "fileIds": ids, "embeddingsProvider": "openai", "sourceCount": 4 });
    let (status, said) = post(&app, &user, "/api/retrieval/retrieve", STRING, body.to_string()).await;
    let found: Value = serde_json::from_str(&said).expect("JSON");
    let found: Vec<&str> =
        found["results"].as_array().expect("results").iter().filter_map(|item| item["content"].as_str()).collect();
    assert_eq!((status, found.len()), (200, 2), "{said}");
    assert_eq!(found[0], "The baker is Marguerite.");
}
