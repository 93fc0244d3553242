//! The demo's provider: it implements the protocols of OpenAI, Anthropic and Google, needs no key and no network, and
//! streams its [`answer`](super::answer) word by word. Its embeddings count words.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::TcpListener,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::Server,
    web::{self, Bytes, Data, Json, JsonConfig, ServiceConfig},
};
use futures::stream;
use serde_json::{Map, Value, json};

use super::{
    answer::{Answer, answer, shows_markdown, words_of},
    dice,
};

/// Delay before the first word.
const THINKING: Duration = Duration::from_millis(250);
/// Dimensions of an embedding, as in OpenAI's model.
const DIMENSIONS: usize = 1536;

/// The number of answers by outcome.
#[derive(Default)]
pub struct Answers {
    under_way: AtomicUsize,
    /// The server disconnected before the end.
    left: AtomicUsize,
}

/// Serves on `listener`, under any path, in addition to `more_routes`.
///
/// # Errors
/// If the server cannot be started on the listener.
pub fn serve(
    listener: TcpListener,
    answers: Data<Answers>,
    more_routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(JsonConfig::default().limit(64 * 1024 * 1024))
            .app_data(answers.clone())
            .configure(&more_routes)
            .configure(dice::routes)
            .route("/{path:.*}/chat/completions", web::post().to(open_ai))
            .route("/{path:.*}/embeddings", web::post().to(embeddings))
            .route("/{path:.*}/assistants", web::get().to(assistants))
            .route("/v1/messages", web::post().to(anthropic))
            .route("/v1beta/{model:.*}", web::post().to(google))
    });
    Ok(server.workers(1).h1_allow_half_closed(false).tcp_nodelay(true).disable_signals().listen(listener)?.run())
}

/// Reports the answers by outcome, to show that Stop stops them.
pub async fn watch(answers: Data<Answers>) -> HttpResponse {
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    HttpResponse::Ok().json(json!({ "underWay": count(&answers.under_way), "left": count(&answers.left) }))
}

async fn open_ai(request: Json<Value>, answers: Data<Answers>) -> HttpResponse {
    let model = request["model"].as_str().unwrap_or("demo").to_owned();
    let said = said(&request["messages"], "content");
    if request["stream"] != true {
        let Answer::Whole(text) = answer(&said) else { return refusal("This needs a stream") };
        let choice =
            json!({ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" });
        return HttpResponse::Ok().json(json!({ "object": "chat.completion", "model": model, "choices": [choice] }));
    }
    let event = {
        let model = model.clone();
        move |more: Value| {
            let mut chunk = json!({ "object": "chat.completion.chunk", "model": model, "choices": [] });
            if let (Value::Object(chunk), Value::Object(more)) = (&mut chunk, more) {
                chunk.extend(more);
            }
            format!("data: {chunk}\n\n")
        }
    };
    let chunk = |delta: Value, finish: Value| {
        event(json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] }))
    };
    let answer = answer_with_tools(&request["messages"], &said);
    let shows_all = said.last().is_some_and(|question| shows_markdown(question));
    let call = call(&request, &said);
    let (asked, given) = words_of_both(&said, &answer);
    let given = if call.is_some() { 1 } else { given };
    let usage = json!({ "prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given });
    let end = event(json!({ "usage": usage })) + "data: [DONE]\n\n";
    let mut first = chunk(json!({ "role": "assistant", "content": "" }), Value::Null);
    if shows_all {
        first += &chunk(json!({ "reasoning_content": "A bit of everything will show it best." }), Value::Null);
        first += &event(json!({ "search_results": [{ "url": "https://commonmark.org/", "title": "CommonMark" }] }));
    }
    let word = |word: &str| chunk(json!({ "content": word }), Value::Null);
    match call {
        Some(call) => {
            let calls =
                chunk(json!({ "tool_calls": [call] }), Value::Null) + &chunk(json!({}), json!("tool_calls")) + &end;
            paced(Answer::Whole("I will use the tool. ".to_owned()), answers, &first, word, &calls)
        }
        None => paced(answer, answers, &first, word, &(chunk(json!({}), json!("stop")) + &end)),
    }
}

/// Returns the answer, which says what a tool returned if one was called.
fn answer_with_tools(messages: &Value, said: &[String]) -> Answer {
    match messages.as_array().and_then(|messages| messages.last()) {
        Some(message) if message["role"] == "tool" => {
            let result: String = text(&message["content"]).chars().take(1000).collect();
            Answer::Whole(format!("The tool returned {result}"))
        }
        Some(message) => about_pictures(message, answer(said)),
        None => answer(said),
    }
}

/// Returns the answer, which says how many pictures came with the question.
fn about_pictures(message: &Value, answer: Answer) -> Answer {
    let parts = message["content"].as_array().or_else(|| message["parts"].as_array());
    let is_picture = |part: &&Value| {
        matches!(part["type"].as_str(), Some("image_url" | "image" | "input_image")) || part["inlineData"].is_object()
    };
    match (parts.into_iter().flatten().filter(is_picture).count(), answer) {
        (count @ 1.., Answer::Whole(text)) => {
            Answer::Whole(format!("You showed me {count} {}. {text}", if count == 1 { "picture" } else { "pictures" }))
        }
        (_, answer) => answer,
    }
}

/// Returns a call of the first function that the request offers, if the user asks for it: for a tool, or for dice. Of
/// its arguments only a number is known.
fn call(request: &Value, said: &[String]) -> Option<Value> {
    let last = request["messages"].as_array()?.last()?;
    let question = said.last()?.to_lowercase();
    let wanted = ["tool", "dice", "roll"].iter().any(|word| question.contains(word));
    let function =
        Some(&request["tools"][0]["function"]).filter(|it| it.is_object() && wanted && last["role"] == "user")?;
    let number = question.split(|c: char| !c.is_ascii_digit()).find_map(|word| word.parse::<u32>().ok()).unwrap_or(6);
    let needed = function["parameters"]["properties"]["parameters"]["required"].as_array();
    let parameters: Map<String, Value> =
        needed.into_iter().flatten().filter_map(|name| Some((name.as_str()?.to_owned(), number.into()))).collect();
    let arguments = json!({ "parameters": parameters }).to_string();
    let function = json!({ "name": function["name"], "arguments": arguments });
    Some(json!({ "index": 0, "id": "call_1", "type": "function", "function": function }))
}

/// Counts words of question and answer, which the demo takes for tokens.
fn words_of_both(said: &[String], answer: &Answer) -> (usize, usize) {
    let words_in = |text: &str| text.split_whitespace().count();
    let given = match answer {
        Answer::Whole(text) | Answer::Cut(text) => words_in(text),
        Answer::Refused(_) => 0,
    };
    (said.iter().map(|text| words_in(text)).sum(), given.max(1))
}

async fn anthropic(request: Json<Value>, answers: Data<Answers>) -> HttpResponse {
    let event = |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default());
    let said = said(&request["messages"], "content");
    let answer = answer_with_tools(&request["messages"], &said);
    let (asked, given) = words_of_both(&said, &answer);
    let usage = json!({ "input_tokens": asked, "output_tokens": 1 });
    let message = json!({ "role": "assistant", "model": request["model"], "content": [], "usage": usage });
    let first = event(json!({ "type": "message_start", "message": message }))
        + &event(json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }));
    let word = |word: &str| {
        let delta = json!({ "type": "text_delta", "text": word });
        event(json!({ "type": "content_block_delta", "index": 0, "delta": delta }))
    };
    let delta =
        json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": given } });
    let last = event(json!({ "type": "content_block_stop", "index": 0 }))
        + &event(delta)
        + &event(json!({ "type": "message_stop" }));
    paced(answer, answers, &first, word, &last)
}

async fn google(request: Json<Value>, answers: Data<Answers>) -> HttpResponse {
    let said = said(&request["contents"], "parts");
    let answer = answer_with_tools(&request["contents"], &said);
    let (asked, given) = words_of_both(&said, &answer);
    let usage = json!({ "promptTokenCount": asked, "candidatesTokenCount": given, "totalTokenCount": asked + given });
    let event = |text: &str, finish: Value| {
        let content = json!({ "role": "model", "parts": [{ "text": text }] });
        let candidate = json!({ "content": content, "finishReason": finish });
        format!("data: {}\n\n", json!({ "candidates": [candidate], "usageMetadata": usage }))
    };
    paced(answer, answers, "", |word| event(word, Value::Null), &event("", json!("STOP")))
}

fn refusal(words: &str) -> HttpResponse {
    HttpResponse::BadRequest().json(json!({ "error": { "message": words, "type": "demo" } }))
}

/// Returns the answer as an event stream, one event per word.
fn paced(
    answer: Answer,
    answers: Data<Answers>,
    first: &str,
    word: impl Fn(&str) -> String,
    last: &str,
) -> HttpResponse {
    let (text, whole) = match answer {
        Answer::Refused(words) => return refusal(words),
        Answer::Whole(text) => (text, true),
        Answer::Cut(text) => (text, false),
    };
    let words: Vec<&str> = text.split_inclusive(' ').collect();
    let shown = if whole { words.len() } else { words.len() / 2 };
    let mut events = vec![(THINKING, Ok(first.to_owned()))];
    events.extend(words[..shown].iter().map(|text| (pace(text), Ok(word(text)))));
    let end = if whole { Ok(last.to_owned()) } else { Err(io::Error::other("the demo breaks off")) };
    events.push((THINKING, end));
    let under_way = UnderWay::begin(answers, events.len());
    let events = stream::unfold((events.into_iter(), under_way), async |(mut events, mut under_way)| {
        let (pause, event) = events.next()?;
        tokio::time::sleep(pause).await;
        under_way.events_left -= 1;
        Some((event.map(Bytes::from), (events, under_way)))
    });
    HttpResponse::Ok().content_type("text/event-stream; charset=utf-8").streaming(events)
}

/// Long words take longer, and so do the ends of sentences.
fn pace(word: &str) -> Duration {
    let length = u64::try_from(word.len()).unwrap_or(20).min(20);
    let rest = if word.trim_end().ends_with(['.', '?', '!']) { 120 } else { 0 };
    Duration::from_millis(30 + 6 * length + rest)
}

/// Counts one answer, from its beginning until it is dropped.
struct UnderWay {
    answers: Data<Answers>,
    events_left: usize,
}

impl UnderWay {
    fn begin(answers: Data<Answers>, events_left: usize) -> Self {
        answers.under_way.fetch_add(1, Ordering::Relaxed);
        Self { answers, events_left }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.answers.under_way.fetch_sub(1, Ordering::Relaxed);
        if self.events_left > 0 {
            self.answers.left.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns the user's messages in order; the last one is the question, whatever its role.
fn said(messages: &Value, member: &str) -> Vec<String> {
    let messages = messages.as_array().map_or(&[][..], Vec::as_slice);
    let count = messages.len();
    let by_the_user = messages.iter().enumerate().filter(|(at, message)| at + 1 == count || message["role"] == "user");
    by_the_user.map(|(_, message)| text(&message[member])).collect()
}

/// Returns a content's text, whether a string or a list of parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

async fn embeddings(request: Json<Value>) -> HttpResponse {
    let texts: Vec<&str> = match &request["input"] {
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        text => text.as_str().into_iter().collect(),
    };
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| json!({ "object": "embedding", "index": index, "embedding": vector(text) }))
        .collect();
    HttpResponse::Ok().json(json!({ "object": "list", "model": request["model"], "data": data }))
}

async fn assistants() -> HttpResponse {
    let assistant =
        json!({ "id": "asst_demo", "object": "assistant", "name": "The demo's assistant", "model": "demo" });
    HttpResponse::Ok().json(json!({ "object": "list", "data": [assistant], "has_more": false }))
}

/// Counts words in as many buckets as an embedding has dimensions, so that texts that share words are near each other.
fn vector(text: &str) -> Vec<f32> {
    let mut counts = vec![0.0_f32; DIMENSIONS];
    // An empty text needs a direction too.
    counts[0] = 0.1;
    for word in words_of(text) {
        let mut hasher = DefaultHasher::new();
        word.hash(&mut hasher);
        let drawer = hasher.finish() % (DIMENSIONS as u64);
        counts[drawer as usize] += 1.0;
    }
    let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt();
    counts.iter().map(|count| count / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_heard_and_the_last_message_is_the_question() {
        let messages = json!([
            { "role": "system", "content": "s" },
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": "b" },
            { "role": "user", "content": [{ "type": "text", "text": "c" }, { "type": "image_url" }] },
        ]);
        assert_eq!(said(&messages, "content"), ["a", "c"]);
        assert_eq!(said(&json!([{ "content": "a" }, { "content": "b" }]), "content"), ["b"]);
        assert_eq!(said(&json!([{ "role": "user", "parts": [{ "text": "d" }] }]), "parts"), ["d"]);
        assert!(said(&json!("x"), "content").is_empty() && said(&json!([]), "content").is_empty());
    }

    #[test]
    fn a_tool_is_called_when_the_user_asks_for_it() {
        let parameters = json!({ "properties": { "parameters": { "required": ["sides"] } } });
        let request = |role: &str| json!({ "messages": [{ "role": role }], "tools": [{ "function": { "name": "rollDice", "parameters": parameters } }] });
        let said = ["Roll a die with 20 sides".to_owned()];
        let called = call(&request("user"), &said).expect("a call");
        assert_eq!(called["function"], json!({ "name": "rollDice", "arguments": r#"{"parameters":{"sides":20}}"# }));
        assert_eq!(call(&request("tool"), &said), None);
        assert_eq!(call(&request("user"), &["Hello".to_owned()]), None);
        assert_eq!(call(&json!({ "messages": [{ "role": "user" }] }), &said), None);
        let told = answer_with_tools(&json!([{ "role": "tool", "content": "[4]" }]), &said);
        assert_eq!(told, Answer::Whole("The tool returned [4]".to_owned()));
    }

    #[test]
    fn pictures_are_noticed() {
        let told = |message: Value| answer_with_tools(&json!([message]), &["Hello".to_owned()]);
        let text = json!({ "type": "text", "text": "Hello" });
        for message in [
            json!({ "content": [text, { "type": "image_url", "image_url": { "url": "data:," } }] }),
            json!({ "content": [text, { "type": "image", "source": {} }] }),
            json!({ "parts": [{ "text": "Hello" }, { "inlineData": { "data": "" } }] }),
        ] {
            assert!(
                matches!(told(message), Answer::Whole(text) if text.starts_with("You showed me 1 picture. Hello!"))
            );
        }
        assert!(matches!(told(json!({ "content": [text] })), Answer::Whole(text) if text.starts_with("Hello!")));
    }

    #[test]
    fn texts_that_share_words_are_near() {
        let near = |one: &str, other: &str| -> f32 { vector(one).iter().zip(vector(other)).map(|(a, b)| a * b).sum() };
        let question = "Who makes the bread?";
        assert!(near(question, "The baker makes breads.") > near(question, "Milk is cold."));
        assert!((near(question, question) - 1.0).abs() < 1e-4);
        assert_eq!(vector("").len(), DIMENSIONS);
    }
}
