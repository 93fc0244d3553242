//! Requests as the scripted provider records them.

use std::{io, time::Instant};

use tokio::net::tcp::ReadHalf;

use super::wire::{Head, Headers, Rest, Wire, header};

/// Headers that may hold the key of a request, if it is not in the path.
const KEY_HEADERS: [&str; 4] = ["authorization", "api-key", "x-api-key", "x-goog-api-key"];

/// The beginning of a key that stands in a path: `/tool-sk-case-x/notes`.
const KEY_IN_PATH: &str = "sk-case-";

/// A request that the provider has read to its end.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The key from whose script it was answered; without one, what it showed.
    pub key: String,
    /// Requests with the same number came over the same connection.
    pub connection: usize,
    pub came: Instant,
    pub method: String,
    /// As it was sent, without the query.
    pub path: String,
    /// Decoded, in the order in which it was sent.
    pub query: Vec<(String, String)>,
    /// With lower-case names.
    pub headers: Headers,
    pub body: Vec<u8>,
    /// The time at which the peer closed the connection before the answer was complete.
    pub left: Option<Instant>,
    /// The time at which the answer was over, be it with a scripted break.
    pub completed: Option<Instant>,
}

impl Recorded {
    /// By its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// True once the answer is complete or the peer has left.
    pub fn is_over(&self) -> bool {
        self.left.is_some() || self.completed.is_some()
    }

    pub(super) async fn read(wire: &mut Wire<ReadHalf<'_>>, head: Head, connection: usize) -> io::Result<Recorded> {
        let mut start = head.start.split(' ');
        let method = start.next().unwrap_or_default().to_owned();
        let target = start.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let rest = Rest::announced(&head.headers).unwrap_or(Rest::Bytes(0));
        Ok(Recorded {
            key: String::new(),
            connection,
            method,
            path: path.to_owned(),
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            body: wire.body(rest).await?.into(),
            headers: head.headers,
            came: Instant::now(),
            left: None,
            completed: None,
        })
    }

    /// All that may be the key of this request. The path comes first: a tool's
    /// request may carry a header that only looks like the case's key.
    pub(super) fn shown_keys(&self) -> impl Iterator<Item = &str> {
        let in_path = self.path.find(KEY_IN_PATH).and_then(|start| self.path[start..].split('/').next());
        let in_headers =
            KEY_HEADERS.iter().filter_map(|name| self.header(name)).map(|value| match value.split_once(' ') {
                Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key,
                _ => value,
            });
        in_path.into_iter().chain(in_headers)
    }

    /// The first key that this request shows; empty if it shows none.
    pub fn shown_key(&self) -> &str {
        self.shown_keys().next().unwrap_or_default()
    }
}
