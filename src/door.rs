//! The door: who is inside, how many may be, and that nobody new comes in once
//! the server was told to stop.
//!
//! The listener stays open while the last requests run. Whoever is still sent
//! here by a load balancer is told to go elsewhere, which a closed port would
//! not tell him, and `/readyz` can say what is going on.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::ConnectionType,
    middleware::Next,
    web::{Bytes, Data},
};
use futures::{StreamExt, stream};
use tokio::sync::watch;

use crate::{
    app::State,
    error::Error,
    idle::{UnderWay, Watch},
    limits::Slot,
    telemetry::RequestLog,
};

/// What is asked of a server that stops or is full, too: one that did not say
/// how it is would be killed for being busy.
const ALWAYS_OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// The door of one server.
#[derive(Debug, Default)]
pub struct Door {
    closed: watch::Sender<bool>,
    /// All of them, those that are refused too.
    requests: Count,
    /// Those that count for `MAX_REQUESTS`.
    admitted: Count,
    connections: Count,
}

impl Door {
    /// Lets nobody in from now on.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Whether [`Door::close`] was called.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits until [`Door::close`] is called.
    pub async fn closes(&self) {
        // It fails without a sender only, and this is one.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// A connection was made; it is over when the place is dropped.
    pub fn connection(&self) -> Place {
        self.connections.take_place()
    }

    /// Waits until no request runs: each was answered, streams to their end.
    pub async fn requests_are_over(&self) {
        self.requests.is_zero().await;
    }

    /// Waits until no connection is open.
    pub async fn connections_are_closed(&self) {
        self.connections.is_zero().await;
    }
}

#[derive(Debug, Default)]
struct Count(watch::Sender<usize>);

impl Count {
    fn take_place(&self) -> Place {
        self.0.send_modify(|count| *count += 1);
        Place(self.0.clone())
    }

    /// One place of `most`, if there is one.
    fn take_one_of(&self, most: usize) -> Option<Place> {
        let taken = self.0.send_if_modified(|count| {
            let free = *count < most;
            *count += usize::from(free);
            free
        });
        taken.then(|| Place(self.0.clone()))
    }

    async fn is_zero(&self) {
        // It fails without a sender only, and this is one.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One of those inside; gone when dropped.
#[derive(Debug)]
pub struct Place(watch::Sender<usize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Lets a request in, and knows it inside until its answer's last byte was
/// handed over or its client has left.
///
/// # Errors
/// What the service inside returned.
pub async fn let_in(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let Some(state) = request.app_data::<Data<State>>().cloned() else {
        return Err(Error::Internal("the server's state is not installed".to_owned()).into());
    };
    let place = state.door.requests.take_place();
    let under_way = request.conn_data::<Watch>().map(Watch::request);
    let payload = hold_payload(&mut request);
    let admitted = if ALWAYS_OPEN.contains(&request.path()) {
        Ok(None)
    } else if state.door.is_closed() {
        Err(Error::Stopping)
    } else {
        state.door.admitted.take_one_of(state.config.limits.max_requests).map(Some).ok_or(Error::Overloaded)
    };
    let (mut response, admitted) = match admitted {
        Err(refused) => (request.error_response(refused), None),
        Ok(admitted) => (next.call(request).await?.map_into_boxed_body(), admitted),
    };
    let slot = response.request().extensions_mut().remove::<Slot>();
    let log = response.request().extensions().get::<RequestLog>().cloned();
    if state.door.is_closed() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|_, body| {
        BoxBody::new(Inside {
            body,
            _place: place,
            _under_way: under_way,
            _admitted: admitted,
            _slot: slot,
            _payload: payload,
            _log: log,
        })
    }))
}

/// Keeps a request's body until its answer's end. A body that was let go
/// unread in chunks would be read on and thrown away by actix without a limit,
/// where one that is still held makes it close the connection.
fn hold_payload(request: &mut ServiceRequest) -> Option<Rc<RefCell<Payload>>> {
    let payload = request.take_payload();
    if matches!(payload, Payload::None) {
        return None;
    }
    let held = Rc::new(RefCell::new(payload));
    let read = held.clone();
    let chunks = stream::poll_fn(move |cx| read.borrow_mut().poll_next_unpin(cx));
    request.set_payload(Payload::Stream { payload: Box::pin(chunks) });
    Some(held)
}

/// An answer's body, with what is kept until its end.
struct Inside {
    body: BoxBody,
    _place: Place,
    _under_way: Option<UnderWay>,
    _admitted: Option<Place>,
    _slot: Option<Slot>,
    _payload: Option<Rc<RefCell<Payload>>>,
    /// So that the request's line is written at the answer's end.
    _log: Option<RequestLog>,
}

impl MessageBody for Inside {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
