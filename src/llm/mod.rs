//! The providers. What each wants is data: a [`Call`] says what to send,
//! a [`Reader`](answer::Reader) makes text of the events that come back. The one place that
//! talks to them is [`send`]; the answer's way to the client is [`relay`].

mod adaptation;
pub mod answer;
pub mod anthropic;
pub mod azure;
pub mod catalogue;
pub mod circuits;
mod content;
pub mod dispatch;
pub mod failover;
pub mod functions;
pub mod google;
mod history;
pub mod learnt;
mod members;
pub mod notes;
pub mod offers;
pub mod openai;
pub mod providers;
pub mod pseudonym;
pub mod refusal;
pub mod relay;
pub mod request;
pub mod responses;
pub mod routing;
#[cfg(test)]
mod splits;
pub mod sse;
pub mod tokens;

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{CONTENT_ENCODING, HeaderMap, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, value::RawValue};
use url::Url;

use crate::{
    allowance::{Charge, json::has_at_most_nodes},
    error::Error,
    http_client::{
        ClientFactory,
        http1::{self, Body, Collected, Response},
        ssrf_guard::{self, Refusal},
    },
    telemetry::RequestLog,
};
use routing::Routing;

/// The providers' base URLs, without a slash at the end.
#[derive(Debug, Clone)]
pub struct BaseUrls {
    /// `OPENAI_BASE_URL`, default `https://api.openai.com/v1`.
    pub openai: String,
    /// `GROQ_BASE_URL`, default `https://api.groq.com/openai/v1`.
    pub groq: String,
    /// `MISTRAL_BASE_URL`, default `https://api.mistral.ai/v1`.
    pub mistral: String,
    /// `OPENROUTER_BASE_URL`, default `https://openrouter.ai/api/v1`.
    pub openrouter: String,
    /// `PERPLEXITY_BASE_URL`, default `https://api.perplexity.ai`.
    pub perplexity: String,
    /// `ANTHROPIC_BASE_URL`, default `https://api.anthropic.com`.
    pub anthropic: String,
    /// `GOOGLE_GEMINI_BASE_URL`, default
    /// `https://generativelanguage.googleapis.com`.
    pub google: String,
}

impl BaseUrls {
    /// Whether every provider is on this machine.
    pub fn all_on_this_machine(&self) -> bool {
        let Self { openai, groq, mistral, openrouter, perplexity, anthropic, google } = self;
        [openai, groq, mistral, openrouter, perplexity, anthropic, google]
            .into_iter()
            .all(|url| Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(ssrf_guard::is_this_machine)))
    }
}

/// One worker's clients of providers.
pub struct Providers {
    /// For those that the configuration names.
    pub direct: http1::Client,
    /// For those whose URL a user chose.
    pub guarded: http1::Client,
    /// Where the configuration's are.
    pub base_urls: BaseUrls,
    /// The choice of models.
    pub routing: Arc<Routing>,
}

impl Providers {
    /// Builds a worker's clients.
    pub fn new(clients: &ClientFactory, base_urls: BaseUrls, routing: Arc<Routing>) -> Self {
        Self { direct: clients.providers(), guarded: clients.guarded_providers(), base_urls, routing }
    }
}

/// What the client wants answered. Without `Debug`, as it holds the prompt.
pub struct Chat<'a> {
    /// `chatSettings.model`.
    pub model: String,
    /// `chatSettings.temperature`, as it stands.
    pub temperature: Option<&'a RawValue>,
    /// `messages`, a JSON array as it stands.
    pub messages: &'a RawValue,
}

impl Chat<'_> {
    /// The messages as JSON, without the empty turns that providers refuse and
    /// without what this server added to answers.
    pub fn mended_messages(&self) -> Cow<'_, RawValue> {
        history::mended(self.messages)
    }

    /// The same, taken apart: for the providers whose own messages differ.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if one of them is no object.
    pub fn message_objects(&self) -> Result<Vec<Map<String, Value>>, Error> {
        let raw = self.messages.get();
        let mut messages = serde_json::from_str(raw)
            .or_else(|_| serde_json::from_str(&content::without_lone_surrogates(raw)))
            .map_err(|_| Error::BadRequest("messages: each must be an object".to_owned()))?;
        history::mend_all(&mut messages);
        Ok(messages)
    }

    /// Returns whether an image is among the messages.
    pub fn has_images(&self) -> bool {
        let messages = self.messages.get().as_bytes();
        ["\"image_url\"", "\"inlineData\""].iter().any(|name| memchr::memmem::find(messages, name.as_bytes()).is_some())
    }
}

/// One request to a provider, as plain data.
#[derive(Clone)]
pub struct Call {
    /// Where to.
    pub url: Url,
    /// The key among them, marked sensitive.
    pub headers: HeaderMap,
    /// JSON to be posted; without it the call is a GET.
    pub body: Option<Bytes>,
    /// A user chose the URL: it goes through the guard.
    pub guarded: bool,
    /// How often to ask, at most; once more where no head came at first.
    pub attempts: u32,
}

impl Call {
    /// What of a streamed answer is read at most.
    pub fn stream_limits(&self) -> relay::Limits {
        if self.guarded { relay::Limits::GUARDED } else { relay::Limits::TRUSTED }
    }
}

impl fmt::Debug for Call {
    // By hand, because the body is the prompt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("guarded", &self.guarded).field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// The APIs that providers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Google's generated content.
    Generate,
}

/// Why there is no (more) answer. Each route has its own words for it.
#[derive(thiserror::Error)]
pub enum Failure {
    /// The provider answered, but not with success.
    #[error("{status} {body}")]
    Status {
        /// The provider's.
        status: u16,
        /// As much of it as is kept, [`MAX_ERROR_BYTES`].
        body: String,
        /// The time after which the provider says to ask again.
        retry_after: Option<Duration>,
    },
    /// What should have been a stream held an error, or was none. The
    /// provider's words.
    #[error("{0}")]
    Stream(String),
    /// The provider will not answer this prompt, or not go on. In words for
    /// the user.
    #[error("{0}")]
    Blocked(String),
    /// An answer in one piece is not what was asked for. In words for the user.
    #[error("{0}")]
    Unusable(String),
    /// No connection was made, so nothing was sent. For the operator.
    #[error("{0}")]
    Unreachable(String),
    /// No answer came. For the operator.
    #[error("{0}")]
    Connection(String),
    /// An answer began, and broke off. For the operator.
    #[error("{0}")]
    Broken(String),
    /// The answer ended, but is none or not complete. In fixed words for the
    /// user.
    #[error("{0}")]
    Incomplete(String),
    /// Nothing came for as long as a provider may be silent.
    #[error("The provider said nothing for {} second{}.", .0.as_secs(), if .0.as_secs() == 1 { "" } else { "s" })]
    Silent(Duration),
    /// The guard does not let the URL through.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The user's or the server's allowance of bytes is used up.
    #[error("{}", Error::Overloaded)]
    Overloaded,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail())
    }
}

impl Failure {
    /// For the log: what happened, without the provider's words, which may
    /// quote a prompt or a key.
    pub fn detail(&self) -> String {
        match self {
            Self::Status { status, .. } => format!("the provider answered with status {status}"),
            Self::Stream(_) => "the provider sent an error, or no event stream".to_owned(),
            Self::Blocked(_) => "the provider blocked the answer".to_owned(),
            Self::Unusable(_) => "the provider's answer is not what was asked for".to_owned(),
            Self::Unreachable(detail) | Self::Connection(detail) | Self::Broken(detail) | Self::Incomplete(detail) => {
                detail.clone()
            }
            Self::Silent(_) => self.to_string(),
            Self::Refused(_) => "the SSRF guard refused the URL".to_owned(),
            Self::Overloaded => "the allowance of bytes is used up".to_owned(),
        }
    }
}

impl Failure {
    /// A status and words, as most routes show them; each route changes what
    /// is its own before or after.
    ///
    /// # Errors
    /// The whole answer, where no provider's words are in it.
    pub fn words(self) -> Result<(u16, String), Error> {
        match self {
            Self::Status { status, body, .. } => Ok((status, format!("{status} {}", openai::error_message(&body)))),
            Self::Stream(words) | Self::Incomplete(words) => Ok((502, words)),
            Self::Silent(_) => Ok((504, self.to_string())),
            Self::Unusable(words) => Ok((500, words)),
            Self::Blocked(words) => Ok((400, words)),
            Self::Unreachable(detail) | Self::Connection(detail) | Self::Broken(detail) => {
                Err(Error::connection(detail))
            }
            Self::Refused(refusal) => Err(Error::BadRequest(refusal.to_string())),
            Self::Overloaded => Err(Error::Overloaded),
        }
    }

    /// [`Failure::words`], as they are.
    pub fn into_error(self) -> Error {
        self.words().map_or_else(|error| error, |(status, message)| Error::Provider { status, message })
    }
}

impl From<http1::Error> for Failure {
    /// What ends an answer that has begun.
    fn from(error: http1::Error) -> Self {
        match error {
            http1::Error::IdleTimeout(limit) => Self::Silent(limit),
            error => Self::Broken(error.to_string()),
        }
    }
}

impl From<sse::EventTooLarge> for Failure {
    fn from(error: sse::EventTooLarge) -> Self {
        Self::Stream(format!("The provider sent {error}"))
    }
}

/// How much of an error's body is read, in bytes.
pub const MAX_ERROR_BYTES: usize = 256 * 1024;

/// The status is known by then: its words are not waited for long.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of an answer is read that comes in one piece, in bytes.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// How often a provider is asked before its failure is passed on.
pub const ATTEMPTS: u32 = 3;

/// The longest wait that a provider may ask for: until a longer one is over, a user would see nothing, so the
/// provider's words are shown at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks a provider and gives its answer once a head with success is there.
/// Dropped, it leaves at once and asks no more.
///
/// # Errors
/// What the last attempt came to.
pub async fn send(providers: &Providers, call: &Call, log: &RequestLog) -> Result<Body, Failure> {
    let client = if call.guarded { &providers.guarded } else { &providers.direct };
    let _waiting = log.ask(call.body.as_ref().map_or(0, Bytes::len));
    let mut attempt = 0;
    loop {
        attempt += 1;
        let answer = client.send(&call.url, &call.headers, call.body.as_ref()).await;
        if let Ok(response) = &answer {
            log.answered(response.status.as_u16());
        }
        let wait = match answer {
            Ok(response) if response.status.is_success() => {
                return if is_compressed(&response.headers) {
                    Err(Failure::Stream("The provider compressed its answer, which it was not asked to do".to_owned()))
                } else {
                    Ok(response.body)
                };
            }
            Ok(response) => {
                let retry_after = retry_after(&response.headers);
                let asks_for_patience = retry_after.is_some_and(|wait| wait > PATIENCE);
                if attempt == call.attempts || asks_for_patience || !should_retry(response.status, &response.headers) {
                    let status = response.status.as_u16();
                    return Err(Failure::Status { status, body: Box::pin(beginning(response)).await, retry_after });
                }
                backoff(attempt, Some(&response.headers))
            }
            Err(http1::Error::Refused(refusal)) => return Err(refusal.into()),
            // A provider that was silent for minutes is not asked again: the
            // user would wait for three times that.
            Err(error @ http1::Error::IdleTimeout(_)) => return Err(error.into()),
            // Differs: the original sends a prompt again that a provider may
            // have read, and charged for, before its connection failed.
            Err(error @ http1::Error::Request(_)) if call.body.is_some() => {
                return Err(Failure::Connection(error.to_string()));
            }
            Err(error @ http1::Error::Connect(_)) if attempt >= call.attempts => {
                return Err(Failure::Unreachable(error.to_string()));
            }
            Err(error) if attempt >= call.attempts => return Err(Failure::Connection(error.to_string())),
            Err(_) => backoff(attempt, None),
        };
        tokio::time::sleep(wait).await;
        // After the wait, in which the client may leave.
        log.note().retries += 1;
    }
}

fn should_retry(status: StatusCode, headers: &HeaderMap) -> bool {
    match headers.get("x-should-retry").and_then(|value| value.to_str().ok()) {
        Some("true") => true,
        Some("false") => false,
        _ => matches!(status.as_u16(), 408 | 409 | 429 | 500..),
    }
}

/// How long to wait after the given attempt: as long as the provider asks
/// for, at most [`PATIENCE`], else half a second, then a second, less up to a
/// quarter by chance so that many do not come back at once.
fn backoff(attempt: u32, headers: Option<&HeaderMap>) -> Duration {
    let asked = headers.and_then(retry_after).filter(|wait| !wait.is_zero() && *wait <= PATIENCE);
    asked.unwrap_or_else(|| {
        let full = (0.5 * f64::from(1 << (attempt - 1))).min(8.0);
        Duration::from_secs_f64(full * (1.0 - 0.25 * rand::random::<f64>()))
    })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(milliseconds) = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
    }
    let text = text(RETRY_AFTER.as_str())?;
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

/// Never asked for, as it would delay a stream; some proxies do it all the
/// same. A coding that is none, such as `none` (a way to keep Next.js from
/// compressing) or `utf-8`, is passed over, as browsers do.
fn is_compressed(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|codings| codings.split(',')).any(|coding| {
        ["gzip", "x-gzip", "br", "deflate", "compress", "x-compress", "zstd"]
            .iter()
            .any(|known| coding.trim().eq_ignore_ascii_case(known))
    })
}

/// The beginning of an error's body; what could be read of one that broke off;
/// nothing of one that is compressed.
async fn beginning(response: Response) -> String {
    if is_compressed(&response.headers) {
        return String::new();
    }
    let read = tokio::time::timeout(ERROR_BODY_TIMEOUT, response.body.collect(MAX_ERROR_BYTES, None)).await;
    let body = match read {
        Ok(Ok(Collected::Complete(body) | Collected::Truncated(body)) | Err((body, _))) => body,
        Ok(Ok(Collected::Unaffordable)) | Err(_) => Vec::new(),
    };
    String::from_utf8_lossy(&body).into_owned()
}

/// Asks a provider for an answer in one piece, and reads it as JSON.
///
/// # Errors
/// What the last attempt came to, or an answer that is no JSON.
pub async fn complete<T: DeserializeOwned>(
    providers: &Providers,
    call: &Call,
    log: &RequestLog,
    reading: Reading,
) -> Result<T, Failure> {
    complete_body(send(providers, call, log).await?, log, reading).await
}

/// What reading an answer in one piece may take.
pub struct Reading {
    /// What its bytes are charged to, until it is parsed.
    pub charge: Charge,
    /// The most JSON values in it.
    pub max_nodes: usize,
}

impl Reading {
    /// The most JSON values of an answer that is kept as such.
    const MAX_NODES: usize = 100_000;

    /// For an answer that is kept as JSON.
    pub fn json(charge: Charge) -> Self {
        Self { charge, max_nodes: Self::MAX_NODES }
    }
}

/// Reads an answer that has begun to its end, as JSON.
///
/// # Errors
/// If it breaks off, is too large or is no JSON, or if the allowance of bytes is used up.
pub async fn complete_body<T: DeserializeOwned>(
    body: Body,
    log: &RequestLog,
    mut reading: Reading,
) -> Result<T, Failure> {
    let _waiting = log.wait();
    let too_large = || Failure::Unusable("The provider's answer is too large".to_owned());
    let body = match body.collect(MAX_REPLY_BYTES, Some(&mut reading.charge)).await {
        Ok(Collected::Complete(body)) => body,
        Ok(Collected::Truncated(_)) => return Err(too_large()),
        Ok(Collected::Unaffordable) => return Err(Failure::Overloaded),
        Err((_, error)) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&body);
    if !has_at_most_nodes(&text, reading.max_nodes) {
        return Err(too_large());
    }
    serde_json::from_str(&text).map_err(|_| match text.get(..MAX_ERROR_BYTES) {
        // No error has so many words.
        Some(_) => unusable(""),
        None => unusable(&text),
    })
}

/// An answer that is not what was asked for: its words, where it is an error
/// that somebody sent with the wrong status.
pub fn unusable(body: &str) -> Failure {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    Failure::Unusable(if json["error"].is_null() {
        "The provider answered with something that is not understood".to_owned()
    } else {
        openai::error_message(body)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("ascii")))
            .collect()
    }

    #[test]
    fn debug_shows_no_key_and_nobodys_words() {
        let mut key = HeaderValue::from_static("Bearer hunter2");
        key.set_sensitive(true);
        let call = Call {
            url: Url::parse("http://h/?key=hunter2").expect("a URL"),
            headers: HeaderMap::from_iter([(reqwest::header::AUTHORIZATION, key)]),
            body: Some(Bytes::from_static(b"hunter2")),
            guarded: true,
            attempts: 1,
        };
        assert!(!format!("{call:?} {call:#?}").contains("hunter2"));
        let words = || "hunter2".to_owned();
        for failure in [
            Failure::Status { status: 401, body: words(), retry_after: None },
            Failure::Stream(words()),
            Failure::Blocked(words()),
            Failure::Unusable(words()),
            Failure::Refused(Refusal::NotHttp(words())),
        ] {
            assert!(!format!("{failure:?} {}", failure.detail()).contains("hunter2"));
            let error = failure.into_error();
            assert!(!format!("{error:?} {}", error.detail()).contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_asked_again() {
        for (status, again) in [
            (400, false),
            (401, false),
            (404, false),
            (408, true),
            (409, true),
            (422, false),
            (429, true),
            (500, true),
            (529, true),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(should_retry(status, &HeaderMap::new()), again, "{status}");
            assert!(should_retry(status, &headers(&[("x-should-retry", "true")])));
            assert!(!should_retry(status, &headers(&[("x-should-retry", "false")])));
        }
    }

    #[test]
    fn how_long_to_wait() {
        let asked = |name, value| backoff(1, Some(&headers(&[(name, value)])));
        assert_eq!(asked("retry-after-ms", "50"), Duration::from_millis(50));
        assert_eq!(asked("retry-after", "2"), Duration::from_secs(2));
        assert_eq!(asked("retry-after", "1.5"), Duration::from_millis(1500));
        let in_ten = headers(&[("retry-after", &httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(10)))]);
        assert!(retry_after(&in_ten).is_some_and(|wait| (8..=10).contains(&wait.as_secs())));
        for (name, value) in [
            ("retry-after", "0"),
            ("retry-after", "-1"),
            ("retry-after", "61"),
            ("retry-after", "soon"),
            ("retry-after-ms", "nan"),
            ("retry-after-ms", "1e300"),
            ("retry-after", "Mon, 01 Jan 2001 00:00:00 GMT"),
        ] {
            let wait = asked(name, value).as_millis();
            assert!((375..=500).contains(&wait), "{name}: {value} gave {wait} ms");
        }
        assert!((750..=1000).contains(&backoff(2, None).as_millis()));
    }
}
