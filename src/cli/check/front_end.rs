//! Checks of the Next.js app at `FRONTEND_URL`: requests its sign-in page as a browser does.

use reqwest::{header::LOCATION, redirect};
use url::Url;

use super::{LIMIT, Line, fail, ok, warn};
use crate::{config::Config, http_client::causes};

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// Requests `/login`; nothing without `FRONTEND_URL`.
pub async fn line(config: &Config) -> Option<Line> {
    let url = config.frontend_url.as_ref()?;
    let client =
        reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(LIMIT).build().ok()?;
    let page = url.join("/login").ok()?;
    Some(outcome(url, follow(&client, page).await))
}

/// The end of a chain of redirects.
#[derive(Debug)]
enum End {
    Status(u16),
    /// The path that leads to itself.
    Loop(String),
    Elsewhere(Url),
    Unreachable(String),
}

async fn follow(client: &reqwest::Client, page: Url) -> End {
    let mut at = page.clone();
    let mut seen = Vec::new();
    loop {
        if seen.contains(&at) || seen.len() > MAX_REDIRECTS {
            return End::Loop(at.path().to_owned());
        }
        let response = match client.get(at.clone()).send().await {
            Ok(response) => response,
            Err(error) if error.is_timeout() => {
                return End::Unreachable(format!("no answer within {} s", LIMIT.as_secs()));
            }
            Err(error) => return End::Unreachable(causes(&error)),
        };
        let to = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
        let Some(to) = to.and_then(|to| at.join(to.to_str().ok()?).ok()) else {
            return End::Status(response.status().as_u16());
        };
        if to.port_or_known_default() != page.port_or_known_default() {
            return End::Elsewhere(to);
        }
        seen.push(std::mem::replace(&mut at, to));
    }
}

fn outcome(url: &Url, end: End) -> Line {
    let port = url.port_or_known_default().unwrap_or(80);
    match end {
        End::Status(200..=299) => ok(format!("front end: {url} answers")),
        End::Loop(path) => fail(
            format!("front end: {url} redirects {path} to itself for ever"),
            format!(
                "start the Next.js app with `-H localhost` instead of an address, and set FRONTEND_URL=http://localhost:{port}"
            ),
        ),
        End::Elsewhere(to) => warn(
            format!("front end: {url} redirects /login to {}", to.origin().ascii_serialization()),
            "check that FRONTEND_URL is the Next.js app's own address",
        ),
        End::Status(status) => warn(
            format!("front end: {url} answers /login with status {status}"),
            "check that FRONTEND_URL is chatbot-ui's address, then its log",
        ),
        End::Unreachable(reason) => {
            warn(format!("front end: {url} cannot be reached ({reason})"), "start the Next.js app, or fix FRONTEND_URL")
        }
    }
}
