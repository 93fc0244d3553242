//! The demo's provider: it speaks OpenAI's wire, needs no key and no network,
//! and says something that depends on the question, word by word.

use std::{io, net::TcpListener, time::Duration};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::Server,
    web::{self, Bytes, Json, JsonConfig},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

/// Between two words.
const PACE: Duration = Duration::from_millis(60);

/// Serves on `listener`, under any path.
///
/// # Errors
/// Where the listener cannot be used.
pub fn serve(listener: TcpListener) -> io::Result<Server> {
    let server = HttpServer::new(|| {
        App::new()
            .app_data(JsonConfig::default().limit(64 * 1024 * 1024))
            .route("/{path:.*}/chat/completions", web::post().to(complete))
    });
    Ok(server.workers(1).h1_allow_half_closed(false).tcp_nodelay(true).disable_signals().listen(listener)?.run())
}

async fn complete(request: Json<Value>) -> HttpResponse {
    let model = request["model"].as_str().unwrap_or("demo").to_owned();
    let question = question(&request["messages"]);
    if question.to_lowercase().contains("error") {
        let words = "This is what a provider's error looks like: you asked for one";
        return HttpResponse::BadRequest().json(json!({ "error": { "message": words, "type": "demo" } }));
    }
    let answer = answer(&question);
    if request["stream"] != true {
        let message = json!({ "role": "assistant", "content": answer });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        return HttpResponse::Ok().json(json!({ "object": "chat.completion", "model": model, "choices": [choice] }));
    }
    let chunk = move |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        format!("data: {}\n\n", json!({ "object": "chat.completion.chunk", "model": model, "choices": [choice] }))
    };
    let mut events = vec![chunk(json!({ "role": "assistant", "content": "" }), Value::Null)];
    events.extend(answer.split_inclusive(' ').map(|word| chunk(json!({ "content": word }), Value::Null)));
    events.push(chunk(json!({}), json!("stop")));
    events.push("data: [DONE]\n\n".to_owned());
    let paced = stream::iter(events).then(async |event| {
        tokio::time::sleep(PACE).await;
        Ok::<_, io::Error>(Bytes::from(event))
    });
    HttpResponse::Ok().content_type("text/event-stream; charset=utf-8").streaming(paced)
}

/// The text of the last message.
fn question(messages: &Value) -> String {
    let Some(last) = messages.as_array().and_then(|messages| messages.last()) else {
        return String::new();
    };
    match &last["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

fn answer(question: &str) -> String {
    let words: Vec<&str> = question.split_whitespace().collect();
    let lower = question.to_lowercase();
    let number = |word: &&str| word.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    if lower.contains("count") {
        let to = words.iter().find_map(number).unwrap_or(10).min(1000);
        let numbers: Vec<String> = (1..=to).map(|number| number.to_string()).collect();
        return format!("{} – that is all.", numbers.join(" "));
    }
    if ["hello", "hi", "hey"]
        .iter()
        .any(|greeting| lower.split(|c: char| !c.is_alphabetic()).any(|word| word == *greeting))
    {
        return "Hello! I am the demo's provider. I run on this machine, cost nothing and know nothing, but I stream like the real ones. Ask me to count to 50, say anything and I will tell it back to you, or ask for an error.".to_owned();
    }
    if words.is_empty() {
        return "You said nothing, and I have nothing to add.".to_owned();
    }
    let letters = question.chars().filter(|c| c.is_alphanumeric()).count();
    let longest = words.iter().max_by_key(|word| word.chars().count()).copied().unwrap_or_default();
    let shown: String = question.chars().take(300).collect();
    format!(
        "You said “{shown}”. That is {} {} with {letters} letters and digits, and the longest of them is “{longest}”. Backwards it goes: {}.",
        words.len(),
        if words.len() == 1 { "word" } else { "words" },
        words.iter().rev().take(60).copied().collect::<Vec<_>>().join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_depends_on_the_question() {
        assert_eq!(answer("Count to 3, please"), "1 2 3 – that is all.");
        assert!(answer("Oh, hi!").starts_with("Hello!"));
        assert!(answer("which of these is longest").contains("“longest”"));
        assert!(answer("").contains("nothing"));
    }

    #[test]
    fn the_question_is_the_last_message() {
        assert_eq!(question(&json!([{ "content": "a" }, { "content": "b" }])), "b");
        assert_eq!(question(&json!([{ "content": [{ "type": "text", "text": "c" }, { "type": "image_url" }] }])), "c");
        assert_eq!(question(&json!("x")), "");
        assert_eq!(question(&json!([])), "");
    }
}
