//! Reverse proxy: with `FRONTEND_URL`, one address serves everything. Requests for other paths go to the Next.js app,
//! and its responses come back unchanged.
//!
//! Nothing is stored: bodies are streamed in both directions, at the pace of the slower side, and if one side
//! disconnects, so does the other.

mod headers;
mod upgrade;

use std::{io, time::Duration};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, Route,
    body::{BodyStream, SizedStream},
    error::PayloadError,
    http::{
        Method, StatusCode,
        header::{
            ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
            TRANSFER_ENCODING,
        },
    },
    web::{self, Bytes, Payload},
};
use futures::{SinkExt, Stream, StreamExt, TryStreamExt, channel::mpsc, stream};
use reqwest::Url;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    drain::Drain,
    error::Error,
    http::{
        body::{broken, in_time},
        installed,
        path::is_api,
        table,
    },
    http_client,
    telemetry::RequestLog,
};

/// Fallback handler: passes a request on to the front end, unless its path belongs to this server.
pub fn route() -> Route {
    web::to(
        async |request: HttpRequest, payload: Payload| {
            if is_api(request.path()) { table::no_route(&request) } else { pass_on(request, payload).await }
        },
    )
}

/// The front end's address, and this worker's client for it.
pub struct ReverseProxy {
    /// `FRONTEND_URL`.
    pub base_url: Url,
    /// `FRONTEND_TIMEOUT`.
    pub timeout: Duration,
    /// The HTTP client.
    pub client: reqwest::Client,
}

async fn pass_on(request: HttpRequest, payload: Payload) -> Result<HttpResponse, Error> {
    let ReverseProxy { base_url: base, timeout: limit, client } = &***installed::<ReverseProxy>(&request)?;
    let limit = *limit;
    let url = target(base, &request).ok_or(Error::RouteNotFound)?;
    if let Some(log) = request.extensions().get::<RequestLog>() {
        log.note().passed_on = Some(pattern(request.path()));
    }
    let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes());
    let method = method.map_err(|_| Error::RouteNotFound)?;
    if method == reqwest::Method::CONNECT {
        return Err(Error::RouteNotFound);
    }
    if headers::loops(request.headers()) {
        return Err(Error::FrontEnd {
            status: StatusCode::LOOP_DETECTED,
            message: "FRONTEND_URL leads back to this server. It must be the address of the Next.js app.",
            detail: "a request came back to this server".to_owned(),
        });
    }
    let protocol = upgrade::requested(&request);
    let mut outgoing = client.request(method, url).headers(headers::for_front_end(&request, protocol));
    let mut payload = Some(payload);
    let (sent, all_sent) = oneshot::channel();
    if has_body(&request)
        && let Some(payload) = payload.take()
    {
        let mut pieces = Box::pin(in_time(&request, payload));
        // So that the front end sees nothing of a request that is malformed from the start.
        let first = pieces.next().await.transpose().map_err(|error| broken(&error))?;
        outgoing = outgoing.body(body(stream::iter(first.map(Ok)).chain(pieces), sent, limit));
    } else {
        drop(sent);
    }
    let response = tokio::select! {
        response = outgoing.send() => match response {
            Ok(response) => response,
            Err(error) => {
                let error = Error::FrontEnd {
                    status: StatusCode::BAD_GATEWAY,
                    message: "The front end does not answer. Is the Next.js app running at FRONTEND_URL?",
                    detail: format!("the front end does not answer: {}", http_client::causes(&error)),
                };
                return Ok(page_or(&request, error));
            }
        },
        () = late(all_sent, limit) => {
            let error = Error::FrontEnd {
                status: StatusCode::GATEWAY_TIMEOUT,
                message: "The front end did not answer in time.",
                detail: "the front end did not take the request, or begin its response, within FRONTEND_TIMEOUT".to_owned(),
            };
            return Ok(page_or(&request, error));
        }
    };
    let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut answer = HttpResponse::build(status);
    headers::for_client(response.headers(), base, &mut answer);
    match payload {
        Some(payload) if status == StatusCode::SWITCHING_PROTOCOLS => {
            upgrade::relay(response, payload, answer, installed::<Drain>(&request)?.clone()).await
        }
        _ => Ok(relay(&request, response, status, answer)),
    }
}

fn has_body(request: &HttpRequest) -> bool {
    request.headers().contains_key(CONTENT_LENGTH) || request.headers().contains_key(TRANSFER_ENCODING)
}

/// Returns the URL of the same path and query at the front end.
fn target(base: &Url, request: &HttpRequest) -> Option<Url> {
    let path = request.uri().path_and_query()?.as_str();
    let origin = base.as_str().trim_end_matches('/');
    path.starts_with('/').then(|| Url::parse(&format!("{origin}{path}")).ok())?
}

/// Returns a path's pattern for the log: words stay, and what may be an id, a name or a secret is left out.
fn pattern(path: &str) -> String {
    if path.starts_with("/_next/") {
        return "/_next/…".to_owned();
    }
    let is_word = |part: &str| part.len() <= 20 && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let mut pattern = String::new();
    for (number, part) in path.split('/').skip(1).enumerate() {
        pattern.push('/');
        if number == 6 {
            pattern.push('…');
            break;
        }
        pattern.push_str(if is_word(part) { part } else { "{}" });
    }
    pattern
}

/// Waits until the whole request is sent plus the time limit for the response's head; or until the front end stops
/// reading.
async fn late(all_sent: oneshot::Receiver<()>, limit: Duration) {
    let stuck = all_sent.await.is_ok();
    if !stuck {
        tokio::time::sleep(limit).await;
    }
}

/// A client's body for the front end, one chunk at a time. `sent` is dropped at its end; it is signalled if a chunk is
/// not read within `limit`.
fn body(
    payload: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    sent: oneshot::Sender<()>,
    limit: Duration,
) -> reqwest::Body {
    // Connects the worker, the only thread that may use the payload, with the client, which requires a `Send` stream.
    let (mut sender, receiver) = mpsc::channel::<io::Result<Bytes>>(0);
    actix_web::rt::spawn(async move {
        let mut sent = Some(sent);
        let mut payload = std::pin::pin!(payload);
        while let Some(piece) = payload.next().await {
            let broken = piece.is_err();
            let mut sending = sender.send(piece.map_err(|_| io::ErrorKind::UnexpectedEof.into()));
            let taken = match timeout(limit, &mut sending).await {
                Ok(taken) => taken,
                Err(_) => {
                    // A clean end here would make a partial body look complete.
                    if let Some(sent) = sent.take() {
                        let _ = sent.send(());
                    }
                    sending.await
                }
            };
            if taken.is_err() || broken {
                break;
            }
        }
    });
    reqwest::Body::wrap_stream(receiver)
}

/// The response body, chunk by chunk, with its length if known.
fn relay(
    request: &HttpRequest,
    response: reqwest::Response,
    status: StatusCode,
    mut answer: HttpResponseBuilder,
) -> HttpResponse {
    let length = response.headers().get(reqwest::header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()).and_then(|length| length.parse::<u64>().ok());
    let bodiless =
        request.method() == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let log = request.extensions().get::<RequestLog>().cloned();
    let pieces = response.bytes_stream().map_err(move |_| {
        if let Some(log) = &log {
            log.note().detail = Some("the front end broke off its answer".to_owned());
        }
        Cut
    });
    let pieces = if bodiless { stream::empty().left_stream() } else { pieces.right_stream() };
    match length {
        Some(length) => answer.body(SizedStream::new(length, pieces)),
        None => answer.body(BodyStream::new(pieces)),
    }
}

/// The front end aborted its response, and so does this server.
#[derive(Debug, thiserror::Error)]
#[error("the front end's answer is cut")]
struct Cut;

/// An unavailable front end: a page that reloads itself for people, an error for programs.
fn page_or(request: &HttpRequest, error: Error) -> HttpResponse {
    let response = HttpResponse::from_error(error);
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accept.contains("text/html") {
        return response;
    }
    let mut response = response.set_body(include_str!("down.html")).map_into_boxed_body();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn a_pattern_has_words_and_nothing_else() {
        for (path, expected) in [
            ("/", "/"),
            ("/login", "/login"),
            ("/en/3f2a9c1e-0000-4000-8000-000000000000/chat/x1", "/en/{}/chat/{}"),
            ("/_next/static/chunks/main-0a1b.js", "/_next/…"),
            ("/%61pis/A secret", "/{}/{}"),
            ("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/…"),
            ("/reset/a-very-long-token-in-lower-case", "/reset/{}"),
        ] {
            assert_eq!(pattern(path), expected);
        }
    }
}
