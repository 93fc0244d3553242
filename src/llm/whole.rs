//! Answers in one piece, read as JSON.

use serde::de::DeserializeOwned;

use super::{
    call::Call,
    clients::Providers,
    failure::{Failure, unusable},
    limits::MAX_ERROR_BYTES,
    send::send,
};
use crate::{
    allowance::{Charge, json::has_at_most_nodes},
    http_client::http1::{Body, Collected},
    telemetry::RequestLog,
};

/// How much of an answer is read that comes in one piece, in bytes.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

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
