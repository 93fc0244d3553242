//! Protocol upgrades: WebSockets, which Next.js uses for hot reload. Bytes are passed on unchanged in both directions.

use std::io;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::BodyStream,
    http::{
        Method,
        header::{CONNECTION, UPGRADE},
    },
    web::{Bytes, Data, Payload},
};
use bytes::BytesMut;
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{drain::Drain, error::Error};

/// Returns the protocol that a client wants to upgrade to. WebSockets only: through another, such as `h2c`, a client
/// could send anything to the front end, past every rule of this server. Requests with a body are excluded: the front
/// end would wait for it, and read another client's request as the body.
pub fn requested(request: &HttpRequest) -> Option<&str> {
    if super::has_body(request) {
        return None;
    }
    let mut options = request.headers().get_all(CONNECTION).filter_map(|value| value.to_str().ok());
    let is_upgrade = options.any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")));
    let protocol = request.headers().get(UPGRADE)?.to_str().ok()?;
    (is_upgrade && request.method() == Method::GET && protocol.eq_ignore_ascii_case("websocket")).then_some(protocol)
}

/// Joins the client's connection with the front end's until one side closes, or the server shuts down: such a
/// connection otherwise ends only when a tab is closed.
///
/// # Errors
/// If the front end's connection cannot be taken over.
pub async fn relay(
    response: reqwest::Response,
    mut payload: Payload,
    mut answer: HttpResponseBuilder,
    drain: Data<Drain>,
) -> Result<HttpResponse, Error> {
    let protocol = response.headers().get(UPGRADE.as_str()).and_then(|value| value.to_str().ok()).unwrap_or_default();
    answer.upgrade(protocol);
    let upgraded = response.upgrade().await.map_err(|error| Error::Internal(format!("upgrade: {error}")))?;
    let (read, mut write) = tokio::io::split(upgraded);
    actix_web::rt::spawn(async move {
        while let Some(Ok(bytes)) = payload.next().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The client has disconnected: an error here means that the front end has too.
        let _ = write.shutdown().await;
    });
    let pieces = stream::try_unfold((read, BytesMut::new()), move |(mut read, mut buffer)| {
        let drain = drain.clone();
        async move {
            buffer.reserve(16 * 1024);
            let count = tokio::select! {
                count = read.read_buf(&mut buffer) => count?,
                () = drain.started() => 0,
            };
            let piece: Bytes = buffer.split().freeze();
            Ok::<_, io::Error>((count > 0).then_some((piece, (read, buffer))))
        }
    });
    Ok(answer.body(BodyStream::new(pieces)))
}
