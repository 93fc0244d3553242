//! The sending of calls: the one place that talks to providers, as often as a call allows.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{CONTENT_ENCODING, HeaderMap, RETRY_AFTER},
};

use super::{call::Call, clients::Providers, failure::Failure, limits::MAX_ERROR_BYTES};
use crate::{
    http_client::http1::{self, Body, Collected, Response},
    telemetry::RequestLog,
};

/// The status is known by then: its words are not waited for long.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

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
