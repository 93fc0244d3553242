//! Admission control: enforces `MAX_REQUESTS`, refuses new requests while draining, and keeps a request's resources
//! until the end of its response.

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

use super::{
    header_timeout::{ActiveRequest, ConnectionWatch},
    pipelining::Answering,
};
use crate::{
    drain::{Drain, InFlight, InFlightCounter},
    error::Error,
    rate_limit::Slot,
    telemetry::RequestLog,
};

/// Health probes are answered even while draining or full, so that orchestrators do not kill a busy server.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// The limit on requests in flight.
#[derive(Debug)]
pub struct Admission {
    /// `MAX_REQUESTS`.
    max_requests: usize,
    admitted: InFlightCounter,
}

impl Admission {
    /// Admits up to `max_requests` at the same time.
    pub fn new(max_requests: usize) -> Self {
        Self { max_requests, admitted: InFlightCounter::default() }
    }

    fn admit(&self, path: &str, drain: &Drain) -> Result<Option<InFlight>, Error> {
        if PROBES.contains(&path) {
            return Ok(None);
        }
        if drain.is_draining() {
            return Err(Error::Stopping);
        }
        self.admitted.enter_below(self.max_requests).map(Some).ok_or(Error::Overloaded)
    }
}

/// Admits a request and counts it as in flight until its response is sent or its client has disconnected.
///
/// # Errors
/// If the inner service returns one.
pub async fn admit(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let (Some(drain), Some(admission)) =
        (request.app_data::<Data<Drain>>().cloned(), request.app_data::<Data<Admission>>())
    else {
        return Err(Error::Internal("admission control is not installed".to_owned()).into());
    };
    let in_flight = drain.request();
    let admitted = admission.admit(request.path(), &drain);
    let active = request.conn_data::<ConnectionWatch>().map(ConnectionWatch::request);
    let payload = hold_payload(&mut request);
    let (mut response, admitted) = match admitted {
        Err(refused) => (request.error_response(refused), None),
        Ok(admitted) => (next.call(request).await?.map_into_boxed_body(), admitted),
    };
    let slot = response.request().extensions_mut().remove::<Slot>();
    let answering = response.request().extensions_mut().remove::<Answering>();
    let log = response.request().extensions().get::<RequestLog>().cloned();
    if drain.is_draining() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response.map_body(|_, body| {
        BoxBody::new(GuardedBody {
            body,
            _in_flight: in_flight,
            _active: active,
            _admitted: admitted,
            _slot: slot,
            _payload: payload,
            _answering: answering,
            _log: log,
        })
    }))
}

/// Holds a request's payload until the end of the response. If a chunked payload is dropped unread, actix reads and
/// discards the rest without a limit; while it is held, actix closes the connection instead.
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

/// A response body with the guards that live until its end.
struct GuardedBody {
    body: BoxBody,
    _in_flight: InFlight,
    _active: Option<ActiveRequest>,
    _admitted: Option<InFlight>,
    _slot: Option<Slot>,
    _payload: Option<Rc<RefCell<Payload>>>,
    _answering: Option<Answering>,
    /// Kept so that the request's log line is written at the end of the response.
    _log: Option<RequestLog>,
}

impl MessageBody for GuardedBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
