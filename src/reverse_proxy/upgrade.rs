//! Connections that change their protocol: WebSockets, which Next.js uses for
//! hot reload. The bytes are passed on as they are, both ways.

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

/// The protocol that a client wants to change to. WebSockets only: behind
/// another, such as `h2c`, a client could send the front end whatever it
/// likes, past every rule of this server. And no request with a body: the
/// front end would wait for it, and take another client's request for it.
pub fn asked_for(request: &HttpRequest) -> Option<&str> {
    if super::has_body(request) {
        return None;
    }
    let mut options = request.headers().get_all(CONNECTION).filter_map(|value| value.to_str().ok());
    let asked = options.any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")));
    let protocol = request.headers().get(UPGRADE)?.to_str().ok()?;
    (asked && request.method() == Method::GET && protocol.eq_ignore_ascii_case("websocket")).then_some(protocol)
}

/// Joins the client's connection with the front end's until one side closes,
/// or the server is told to stop: such a connection ends by itself only when
/// a tab is closed.
///
/// # Errors
/// Where the front end's connection cannot be taken over.
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
        // The client has gone: an error here says that the front end has too.
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
