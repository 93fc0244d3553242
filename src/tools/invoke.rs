//! One call of a tool: a request through the guard, and what the model is
//! told of its answer, whatever that is.

use encoding_rs::{Encoding, UTF_8};
use reqwest::{
    Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use super::{
    ToolClient,
    offer::Function,
    request::{Request, request},
};
use crate::{allowance::Charge, http_client};

/// The most bytes of an answer that a model is told.
const MAX_TOLD: usize = 100 * 1024;

/// What a call came to.
pub struct Outcome {
    /// The tool answered with success.
    pub is_success: bool,
    /// For the model.
    pub content: String,
    /// What it is charged to.
    pub charge: Option<Charge>,
}

impl Outcome {
    /// A call that was not made, or came to no answer.
    pub fn failed(reason: &str) -> Self {
        Self { is_success: false, content: format!("Error: {reason}."), charge: None }
    }
}

/// Calls a function with the model's arguments. The answer is charged twice, for the request that it becomes a part of.
pub async fn invoke(client: &ToolClient, function: &Function, arguments: &str, charge: Charge) -> Outcome {
    let request = match request(function, arguments) {
        Ok(request) => request,
        Err(reason) => return Outcome::failed(&format!("the call was not made: {reason}")),
    };
    match tokio::time::timeout(client.timeout, send(client, request, charge)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::failed(&format!("the tool did not answer in time ({} seconds)", client.timeout.as_secs())),
    }
}

async fn send(client: &ToolClient, request: Request, charge: Charge) -> Outcome {
    let Request { method, url, headers, body } = request;
    if let Err(refusal) = client.http.policy.check_url(&url) {
        return Outcome::failed(&format!("the call was not made: {refusal}"));
    }
    let mut builder = client.http.client.request(method, url).headers(headers);
    if let Some(body) = body {
        builder = builder.body(body);
    }
    match builder.send().await {
        Ok(response) => told(response, charge).await,
        Err(error) => Outcome::failed(&match http_client::refusal(&error) {
            Some(refusal) => format!("the call was not made: {refusal}"),
            None if error.is_timeout() => "the tool did not answer in time".to_owned(),
            None if error.is_connect() => "the tool could not be reached".to_owned(),
            None => "the connection to the tool failed before it answered".to_owned(),
        }),
    }
}

/// An answer as the model is told it: the body of a 200 as it came, all else
/// after its status.
async fn told(mut response: Response, mut charge: Charge) -> Outcome {
    let status = response.status();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (media, coding) = (header(CONTENT_TYPE).to_owned(), header(CONTENT_ENCODING).to_owned());
    let mut body = Vec::new();
    let end = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                if charge.grow(2 * chunk.len()).is_err() {
                    break Some("this server has too much to keep in memory");
                }
                body.extend_from_slice(&chunk);
            }
            Ok(None) => break None,
            Err(error) if error.is_timeout() => break Some("the tool did not send the rest in time"),
            Err(_) => break Some("the connection broke before the end of the answer"),
        }
        // Twice, for character sets that need more bytes than UTF-8.
        if body.len() > 2 * MAX_TOLD {
            break Some("the answer is longer");
        }
    };
    let mut content = if status == 200 { String::new() } else { format!("HTTP status {status}\n\n") };
    let is_compressed = ["gzip", "br", "deflate", "zstd"].iter().any(|known| coding.eq_ignore_ascii_case(known));
    let text = if is_compressed { None } else { text(&body, &media) };
    let end = match text {
        Some(text) if body.is_empty() && text.is_empty() => {
            content.push_str(match end {
                None => "The tool's answer is empty.",
                Some(_) => "Nothing of the answer's body came.",
            });
            if status == 200 {
                content.insert_str(0, "HTTP status 200 OK\n\n");
            }
            end
        }
        Some(text) if text.len() > MAX_TOLD => {
            content.push_str(&text[..text.floor_char_boundary(MAX_TOLD)]);
            Some("the answer is longer")
        }
        Some(text) => {
            content.push_str(&text);
            end
        }
        None => {
            let media: String =
                if media.is_empty() { "no content type".to_owned() } else { media.chars().take(100).collect() };
            content.push_str(&format!("The tool's answer is no text ({media}); it cannot be shown."));
            None
        }
    };
    if let Some(reason) = end {
        content.push_str(&format!("\n\n[Cut off here: {reason}.]"));
    }
    Outcome { is_success: status.is_success(), content, charge: Some(charge) }
}

/// A body as text in its character set; `None` if it is none.
fn text(body: &[u8], media: &str) -> Option<String> {
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_binary = ["image/", "audio/", "video/", "font/"].iter().any(|kind| essence.starts_with(kind))
        && !essence.ends_with("+xml")
        || matches!(essence.as_str(), "application/pdf" | "application/zip" | "application/gzip");
    if is_binary {
        return None;
    }
    let label = media.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_owned())
    });
    let encoding = label.and_then(|label| Encoding::for_label(label.as_bytes())).unwrap_or(UTF_8);
    let (text, _, _) = encoding.decode(body);
    (!text.contains('\0')).then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_their_character_set() {
        for (body, media, read) in [
            (&b"caf\xe9"[..], "text/plain; charset=ISO-8859-1", Some("café")),
            ("\u{feff}{\"a\":\"é\"}".as_bytes(), "application/json", Some("{\"a\":\"é\"}")),
            (b"\x82\xa0", "text/html; Charset=\"shift_jis\"", Some("あ")),
            (b"a\xff", "", Some("a\u{fffd}")),
            (b"\x89PNG", "image/png", None),
            (b"<svg/>", "image/svg+xml", Some("<svg/>")),
            (b"\x00\x01", "application/octet-stream", None),
            (b"", "", Some("")),
        ] {
            assert_eq!(text(body, media).as_deref(), read, "{media}");
        }
    }
}
