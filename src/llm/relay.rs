//! A provider's answer on its way to the client: bytes → events → text, as it
//! comes.
//!
//! The relay is pulled by the client's connection and owns the provider's:
//! the provider is read only when the client reads, and dropping the relay
//! closes its connection. No task, no channel, no buffer beyond one read.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::Stream;
use serde_json::value::RawValue;

use super::{
    answer::{
        calls::Calls,
        output::{Finish, Output, Wanted},
        reader::Reader,
        sources::Sources,
    },
    failure::{Failure, reported},
    limits::{Limits, MAX_ERROR_BYTES},
    sse,
    tokens::tokens,
};
use crate::{
    http_client::http1::Body,
    telemetry::{Ended, RequestLog},
};

/// Bytes without text after which a stream lets others go on.
const YIELD_AFTER: usize = 64 * 1024;
/// How long, and for how many bytes, a provider's answer is read on after it
/// said that nothing follows, so that its connection can be used again.
const DRAIN: (Duration, usize) = (Duration::from_secs(1), 64 * 1024);

/// A piece of an answer. Without `Debug`, as it holds the answer.
pub enum Piece {
    /// Text for the client.
    Text(String),
    /// Thoughts, if they are wanted.
    Reasoning(String),
    /// A tool is called, or was.
    Tool {
        /// The function's name.
        name: String,
        /// `calling`, then `done` or `failed`.
        status: &'static str,
    },
    /// A sentence about what was left out of the request.
    Warning(String),
    /// The last piece.
    End(Box<End>),
}

/// The end of an answer, and what is known only then.
pub struct End {
    /// The reason for which a usable answer ended, if one was given, or why
    /// the answer is not usable as it is.
    pub outcome: Result<Option<Finish>, Failure>,
    /// The provider's count of tokens, in its own form.
    pub usage: Option<Box<RawValue>>,
    /// The pages that the answer cites.
    pub sources: Sources,
    /// The functions that the model calls, if they are wanted.
    pub calls: Calls,
}

/// An answer that has begun: its status can no longer change.
pub struct Relay {
    /// `None` once it was read to its end or given up.
    upstream: Option<Body>,
    decoder: sse::Decoder,
    reader: Reader,
    /// What was read and not yet given.
    out: Output,
    /// Some text came, at any time.
    has_text: bool,
    /// Bytes since the last text or thought.
    without_text: usize,
    limits: Limits,
    /// What comes after the text in `out`.
    outcome: Option<Result<Option<Finish>, Failure>>,
    /// The first bytes of what may turn out to be no event stream.
    head: Vec<u8>,
    log: RequestLog,
}

impl Relay {
    /// Reads up to the first text or wanted thought. Whatever fails until then
    /// can still be answered with a status.
    ///
    /// # Errors
    /// If the provider sent an error, nothing usable, or its connection broke.
    pub async fn open(
        upstream: Body,
        reader: Reader,
        wanted: Wanted,
        limits: Limits,
        log: RequestLog,
    ) -> Result<Self, Failure> {
        let mut relay = Self {
            upstream: Some(upstream),
            decoder: sse::Decoder::new(limits.event),
            reader,
            out: Output::new(wanted),
            has_text: false,
            without_text: 0,
            limits,
            outcome: None,
            head: Vec::new(),
            log,
        };
        let waiting = relay.log.wait();
        std::future::poll_fn(|cx| relay.poll_read(cx)).await;
        drop(waiting);
        if relay.out.text.is_empty() && relay.out.reasoning.is_empty() {
            match relay.outcome.take() {
                Some(Err(failure)) => return Err(failure),
                outcome => relay.outcome = outcome,
            }
        }
        relay.log.stream(!relay.out.text.is_empty());
        Ok(relay)
    }

    /// Reads until there is something to give, or the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut read_now = 0;
        while self.out.text.is_empty() && self.out.reasoning.is_empty() && self.outcome.is_none() {
            // A provider that sends much and says nothing must not hold the worker.
            if read_now >= YIELD_AFTER {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(mut upstream) = self.upstream.take() else {
                break;
            };
            let mut taken = Ok(());
            let read = upstream.poll_read(cx, |bytes| {
                read_now += bytes.len();
                if taken.is_ok() {
                    taken = self.take(bytes);
                }
            });
            match (taken, read) {
                (Ok(()), Poll::Pending) => {
                    self.upstream = Some(upstream);
                    return Poll::Pending;
                }
                (Err(failure), _) => self.outcome = Some(Err(failure)),
                (Ok(()), Poll::Ready(Ok(true))) if self.out.done => {
                    drain(upstream, cx);
                    self.end(true);
                }
                (Ok(()), Poll::Ready(Ok(true))) => self.upstream = Some(upstream),
                (Ok(()), Poll::Ready(Ok(false))) => self.end(upstream.is_delimited()),
                // What follows a proper end is nobody's loss.
                (Ok(()), Poll::Ready(Err(_))) if self.out.done || (self.out.ended && self.is_usable()) => {
                    self.end(false);
                }
                (Ok(()), Poll::Ready(Err(error))) => self.outcome = Some(Err(error.into())),
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if !self.decoder.saw_fields() {
            let room = MAX_ERROR_BYTES.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let Self { decoder, reader, out, has_text, .. } = self;
        decoder.push(bytes, |event| read(reader, event, out, *has_text))?;
        if self.decoder.saw_fields() {
            self.head = Vec::new();
        }
        if !self.out.text.is_empty() {
            self.has_text = true;
            self.without_text = 0;
        } else if std::mem::take(&mut self.out.thought) {
            self.without_text = 0;
        } else {
            self.without_text += bytes.len();
            if self.without_text > self.limits.without_text {
                let mebibytes = self.limits.without_text / 1024 / 1024;
                return Err(Failure::Incomplete(format!("The provider sent {mebibytes} MiB without any text")));
            }
        }
        Ok(())
    }

    fn end(&mut self, is_complete: bool) {
        let Self { decoder, reader, out, has_text, .. } = self;
        let read = decoder.finish(|event| read(reader, event, out, *has_text));
        // Differs: a 200 with JSON or a page of HTML is an error that somebody
        // sent with the wrong status; the original shows an empty answer.
        let is_stream = self.decoder.saw_fields() || self.head.trim_ascii().is_empty();
        self.outcome = Some(match read {
            Err(failure) => Err(failure),
            // Some servers answer in one piece, although a stream was requested.
            Ok(()) if !is_stream && self.reader.read_whole(&self.head, &mut self.out) => {
                self.has_text |= !self.out.text.is_empty();
                self.out.judge(self.has_text)
            }
            Ok(()) if !is_stream => Err(reported(&String::from_utf8_lossy(&self.head))),
            Ok(()) => {
                self.reader.finish(is_complete, &mut self.out);
                self.has_text |= !self.out.text.is_empty();
                self.out.judge(self.has_text)
            }
        });
    }

    fn is_usable(&self) -> bool {
        self.has_text || !self.out.calls.list.is_empty()
    }
}

/// Reads one event, unless nothing more counts.
fn read(reader: &mut Reader, event: sse::Event<'_>, out: &mut Output, has_text: bool) -> Result<(), Failure> {
    if out.done {
        return Ok(());
    }
    match reader.read(event, out) {
        // What follows a proper end is nobody's loss.
        Err(_) if out.ended && (has_text || !out.text.is_empty() || !out.calls.list.is_empty()) => {
            out.done = true;
            Ok(())
        }
        read => read,
    }
}

/// Records how a streamed answer ended.
pub fn record_end(log: &RequestLog, outcome: &Result<Option<Finish>, Failure>) {
    match outcome {
        Ok(_) => log.end(Ended::Complete, None),
        Err(failure @ Failure::Silent(_)) => log.end(Ended::ProviderSilent, Some(failure.detail())),
        Err(failure) => log.end(Ended::ProviderBroke, Some(failure.detail())),
    }
}

/// Reads what is left of an answer that has ended aside. It has mostly come
/// already; where not, the client does not wait.
fn drain(mut upstream: Body, cx: &mut Context<'_>) {
    let (time, mut room) = DRAIN;
    let mut poll = move |cx: &mut Context<'_>| {
        loop {
            let more = ready!(upstream.poll_read(cx, |bytes| room = room.saturating_sub(bytes.len())));
            if room == 0 || !matches!(more, Ok(true)) {
                return Poll::Ready(());
            }
        }
    };
    if poll(cx).is_pending() {
        actix_web::rt::spawn(tokio::time::timeout(time, std::future::poll_fn(poll)));
    }
}

impl Drop for Relay {
    /// Some providers count from the start, so that an answer that was given up has a count too.
    fn drop(&mut self) {
        if !self.out.usage.is_empty() {
            self.log.count(tokens(&self.out.usage), false);
        }
    }
}

impl Stream for Relay {
    type Item = Piece;

    /// The next piece; after [`Piece::End`], nothing.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(self.poll_read(cx));
        if !self.out.reasoning.is_empty() {
            return Poll::Ready(Some(Piece::Reasoning(std::mem::take(&mut self.out.reasoning))));
        }
        if !self.out.text.is_empty() {
            self.log.passed_on(self.out.text.len());
            return Poll::Ready(Some(Piece::Text(std::mem::take(&mut self.out.text))));
        }
        let Some(outcome) = self.outcome.take() else { return Poll::Ready(None) };
        record_end(&self.log, &outcome);
        self.log.count(tokens(&self.out.usage), true);
        Poll::Ready(Some(Piece::End(Box::new(End {
            outcome,
            usage: RawValue::from_string(std::mem::take(&mut self.out.usage)).ok(),
            sources: std::mem::take(&mut self.out.sources),
            calls: std::mem::take(&mut self.out.calls),
        }))))
    }
}
