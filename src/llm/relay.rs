//! A provider's answer on its way to the client: bytes → events → text, as it
//! comes.
//!
//! The relay is pulled by the client's connection and owns the provider's:
//! who does not read is not read for, and when the client leaves, the provider
//! is left too. No task, no channel, no buffer beyond one read.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::Stream;

use super::{Failure, MAX_ERROR_BYTES, Output, Reader, openai, sse};
use crate::{
    http_client::http1::Body,
    telemetry::{Ended, RequestLog},
};

/// How long, and for how many bytes, a provider's answer is read on after it
/// said that nothing follows, so that its connection can be used again.
const DRAIN: (Duration, usize) = (Duration::from_secs(1), 64 * 1024);

/// An answer that has begun: its status can no longer change.
pub struct Relay {
    /// `None` once it was read to its end or given up.
    upstream: Option<Body>,
    decoder: sse::Decoder,
    reader: Reader,
    /// What was read and not yet given.
    out: Output,
    /// What comes after `out`.
    failure: Option<Failure>,
    /// The first bytes of what may turn out to be no event stream.
    head: Vec<u8>,
    cut: bool,
    log: RequestLog,
}

impl Relay {
    /// Reads up to the first text, or to the end of an answer without any.
    /// Whatever fails until then can still be answered with a status.
    ///
    /// # Errors
    /// What the provider said, or that its connection broke.
    pub async fn open(
        upstream: Body,
        reader: Reader,
        max_event_bytes: usize,
        log: RequestLog,
    ) -> Result<Self, Failure> {
        let mut relay = Self {
            upstream: Some(upstream),
            decoder: sse::Decoder::new(max_event_bytes),
            reader,
            out: Output::default(),
            failure: None,
            head: Vec::new(),
            cut: false,
            log,
        };
        let waiting = relay.log.wait();
        std::future::poll_fn(|cx| relay.poll_read(cx)).await;
        drop(waiting);
        if relay.out.text.is_empty()
            && let Some(failure) = relay.failure.take()
        {
            return Err(failure);
        }
        relay.log.stream(!relay.out.text.is_empty());
        Ok(relay)
    }

    /// Reads until there is text, a failure, or the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.out.text.is_empty() && self.failure.is_none() {
            let Some(mut upstream) = self.upstream.take() else {
                break;
            };
            let mut taken = Ok(());
            let read = upstream.poll_read(cx, |bytes| {
                if taken.is_ok() {
                    taken = self.take(bytes);
                }
            });
            match (taken, read) {
                (Ok(()), Poll::Pending) => {
                    self.upstream = Some(upstream);
                    return Poll::Pending;
                }
                (Err(failure), _) => self.failure = Some(failure),
                (Ok(()), Poll::Ready(Ok(true))) if self.out.done => drain(upstream, cx),
                (Ok(()), Poll::Ready(Ok(true))) => self.upstream = Some(upstream),
                (Ok(()), Poll::Ready(Ok(false))) => self.failure = self.end().err(),
                // What comes after all was said is nobody's loss.
                (Ok(()), Poll::Ready(Err(_))) if self.out.done => {}
                (Ok(()), Poll::Ready(Err(error))) => self.failure = Some(error.into()),
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if !self.decoder.saw_fields() {
            let room = MAX_ERROR_BYTES.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let Self { decoder, reader, out, .. } = self;
        decoder.push(bytes, |event| if out.done { Ok(()) } else { reader.read(event, out) })?;
        if self.decoder.saw_fields() {
            self.head = Vec::new();
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        let Self { decoder, reader, out, .. } = self;
        decoder.finish(|event| if out.done { Ok(()) } else { reader.read(event, out) })?;
        if self.decoder.saw_fields() || self.head.trim_ascii().is_empty() {
            return Ok(());
        }
        // Differs: a 200 with JSON or a page of HTML is an error that somebody
        // sent with the wrong status; the original shows an empty answer.
        Err(Failure::Stream(openai::error_message(&String::from_utf8_lossy(&self.head))))
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

impl Stream for Relay {
    type Item = Result<Output, Failure>;

    /// The next text; after an `Err` or `None`, nothing.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(self.poll_read(cx));
        if !self.out.text.is_empty() || !self.out.usage.is_empty() {
            if !self.out.text.is_empty() {
                self.log.passed_on(self.out.text.len());
            }
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.out))));
        }
        if self.failure.is_some() && !std::mem::replace(&mut self.cut, true) {
            // Once more round, so that the text before the failure is written
            // out before the connection is cut.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(failure) = self.failure.take() {
            let mut facts = self.log.note();
            let silent = matches!(failure, Failure::Silent(_));
            facts.ended = Some(if silent { Ended::ProviderSilent } else { Ended::ProviderBroke });
            facts.detail = Some(failure.detail());
            drop(facts);
            return Poll::Ready(Some(Err(failure)));
        }
        if !self.cut {
            self.log.note().ended = Some(Ended::Complete);
        }
        Poll::Ready(None)
    }
}
