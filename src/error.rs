//! Failed requests: one enum; each variant has a status and a sentence. The sentences are the original's, since its
//! front end and its users know them.
//!
//! Two texts, never mixed: the client gets [`Display`](std::fmt::Display), the operator reads [`Error::detail`] in the
//! log. Neither holds a key, a token, a prompt or an answer.

use std::{borrow::Cow, fmt, time::Duration};

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde::Serialize;
use sqlx::{
    error::DatabaseError,
    postgres::{PgDatabaseError, PgSeverity},
};

/// A failed request. `Debug` shows the text for the log.
#[derive(thiserror::Error)]
pub enum Error {
    /// 500: no session, or an invalid one. The detail has the reason.
    #[error("User not found")]
    UserNotFound(String),
    /// 401: a bearer token that is not accepted. The detail has the reason.
    #[error("The access token is not accepted. Sign in again for a new one.")]
    TokenRefused(String),
    /// 403: a page of another site used the session's cookie.
    #[error(
        "This request comes from a page of another site. If that site may use this server, add its origin to CORS_ORIGINS."
    )]
    CrossSite,
    /// 500: the user has no row in `profiles`.
    #[error("Profile not found")]
    ProfileNotFound,
    /// 500: the provider's key is neither in the profile nor in the environment.
    #[error("{0} API Key not found. Please set it in your profile settings.")]
    KeyNotFound(&'static str),
    /// 500: no such custom model, or another user's private one.
    #[error("Model not found")]
    ModelNotFound,
    /// 400: the request is invalid; the sentence says what is missing.
    #[error("{0}")]
    BadRequest(String),
    /// 413: the body has more bytes than `MAX_BODY_BYTES`.
    #[error("The request is larger than {0} bytes, the most that this server takes")]
    BodyTooLarge(usize),
    /// 408: the body came too slowly.
    #[error("The request body did not come in time")]
    BodyTooSlow,
    /// 404: no such route.
    #[error("Route not found")]
    RouteNotFound,
    /// 405, with the allowed methods.
    #[error("Method not allowed: this route takes {0}")]
    MethodNotAllowed(&'static str),
    /// The provider's status and message, as the route presents them.
    #[error("{message}")]
    Provider {
        /// 400 to 599.
        status: u16,
        /// The sentence for the client.
        message: String,
    },
    /// This server could not do what was requested, and no provider is at fault: a file that cannot be read, a local
    /// model that is not installed. The sentence goes into the log too, so it quotes no key and no user's text.
    #[error("{message}")]
    Failed {
        /// 400 to 599.
        status: u16,
        /// The sentence for the client.
        message: String,
    },
    /// 500: no answer came from the provider, or it broke off.
    #[error("{message}")]
    Connection {
        /// The sentence for the client.
        message: String,
        /// The cause, for the log.
        detail: String,
    },
    /// 429: the user has reached the limit of requests in flight.
    #[error("You have {0} requests under way, the most at once. Please wait until one of them has ended.")]
    TooManyStreams(u32),
    /// 429: the user has reached the rate limit; with the time until the next request is allowed.
    #[error("You have sent too many requests. Please try again in {} s.", whole_seconds(*.0))]
    RateLimited(Duration),
    /// 429: a budget of the user has no room for the request; with the seconds until it may have.
    #[error("{sentence}")]
    BudgetSpent {
        /// The sentence for the client, which names the budget.
        sentence: String,
        /// For `Retry-After`.
        retry_after: u64,
    },
    /// 404: usage is not counted in this server's database.
    #[error("Usage is not counted on this server.")]
    NotCounted,
    /// 503: the server has reached its limit of requests in flight.
    #[error("The server is busy. Please try again in a moment.")]
    Overloaded,
    /// 502, 504 or 508: the front end could not be reached, did not answer in time, or is this server itself.
    #[error("{message}")]
    FrontEnd {
        /// 502, 504 or 508.
        status: StatusCode,
        /// The sentence for the client.
        message: &'static str,
        /// The cause, for the log.
        detail: String,
    },
    /// 503: Postgres is unavailable, or all its connections are busy.
    #[error("The database is not available. Please try again in a moment.")]
    DatabaseUnavailable(String),
    /// 503: the auth server cannot refresh a session, or the project's key set cannot be read; the session may be good.
    #[error("The sign-in service is not available. Please try again in a moment.")]
    AuthUnavailable(String),
    /// 503: the server is shutting down.
    #[error("The server is stopping")]
    Stopping,
    /// 500: a bug or a broken setup; the log has the reason.
    #[error("An unexpected error occurred")]
    Internal(String),
}

impl Error {
    /// A failed connection to the provider, with the sentence of most routes.
    pub fn connection(detail: String) -> Self {
        Self::Connection { message: "Connection error.".to_owned(), detail }
    }

    /// Returns the text for the log: never the provider's or the client's own words, which may quote a prompt or a key.
    pub fn detail(&self) -> Cow<'_, str> {
        match self {
            Self::UserNotFound(detail)
            | Self::TokenRefused(detail)
            | Self::Connection { detail, .. }
            | Self::FrontEnd { detail, .. }
            | Self::DatabaseUnavailable(detail)
            | Self::AuthUnavailable(detail)
            | Self::Internal(detail) => Cow::Borrowed(detail),
            Self::BadRequest(_) => "the request is invalid".into(),
            Self::Provider { status, .. } => format!("the provider failed: status {status}").into(),
            Self::Failed { status, message } => {
                format!("the server failed, not a provider: status {status}: {message}").into()
            }
            Self::ProfileNotFound
            | Self::CrossSite
            | Self::KeyNotFound(_)
            | Self::ModelNotFound
            | Self::BodyTooLarge(_)
            | Self::BodyTooSlow
            | Self::RouteNotFound
            | Self::Stopping
            | Self::MethodNotAllowed(_)
            | Self::TooManyStreams(_)
            | Self::RateLimited(_)
            | Self::BudgetSpent { .. }
            | Self::NotCounted
            | Self::Overloaded => self.to_string().into(),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail())
    }
}

#[derive(Serialize)]
struct Body<'a> {
    message: &'a str,
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::UserNotFound(_)
            | Self::ProfileNotFound
            | Self::KeyNotFound(_)
            | Self::ModelNotFound
            | Self::Connection { .. }
            | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TokenRefused(_) => StatusCode::UNAUTHORIZED,
            Self::CrossSite => StatusCode::FORBIDDEN,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::RouteNotFound | Self::NotCounted => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            // A redirect or an invalid status is the provider's failure, and means nothing to the client.
            Self::Provider { status, .. } | Self::Failed { status, .. } => match StatusCode::from_u16(*status) {
                Ok(status) if (400..600).contains(&status.as_u16()) => status,
                _ => StatusCode::BAD_GATEWAY,
            },
            Self::TooManyStreams(_) | Self::RateLimited(_) | Self::BudgetSpent { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::FrontEnd { status, .. } => *status,
            Self::Overloaded | Self::DatabaseUnavailable(_) | Self::AuthUnavailable(_) | Self::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        match self {
            Self::MethodNotAllowed(allowed) => {
                response.insert_header((header::ALLOW, *allowed));
            }
            Self::RateLimited(wait) => {
                response.insert_header((header::RETRY_AFTER, whole_seconds(*wait)));
            }
            Self::BudgetSpent { retry_after, .. } => {
                response.insert_header((header::RETRY_AFTER, *retry_after));
            }
            Self::TooManyStreams(_)
            | Self::Overloaded
            | Self::DatabaseUnavailable(_)
            | Self::AuthUnavailable(_)
            | Self::Stopping => {
                response.insert_header((header::RETRY_AFTER, "2"));
            }
            // The rest of the body is not read.
            Self::BodyTooSlow => {
                response.force_close();
            }
            Self::TokenRefused(_) => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\""));
            }
            Self::UserNotFound(_)
            | Self::CrossSite
            | Self::ProfileNotFound
            | Self::KeyNotFound(_)
            | Self::ModelNotFound
            | Self::BadRequest(_)
            | Self::BodyTooLarge(_)
            | Self::RouteNotFound
            | Self::NotCounted
            | Self::Provider { .. }
            | Self::Failed { .. }
            | Self::Connection { .. }
            | Self::FrontEnd { .. }
            | Self::Internal(_) => {}
        }
        response.json(Body { message: &self.to_string() })
    }
}

/// Rounded up, so that a retry after this time is not too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl From<sqlx::Error> for Error {
    /// Tells an unavailable or busy Postgres (503) from a statement that it refuses (500).
    fn from(error: sqlx::Error) -> Self {
        let detail = format!("database: {error}");
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => Self::DatabaseUnavailable(detail),
            sqlx::Error::Database(database) if is_unavailable(&*database) => Self::DatabaseUnavailable(detail),
            _ => Self::Internal(detail),
        }
    }
}

/// SQLSTATE classes 08 connection, 53 resources, 57 shutting down or cancelled, 40 and 55P03 lost to others' transactions and
/// locks, 25006 read-only, as while a standby takes over or a disk is full; 28 and 3D: login refused, as
/// while a server is being set up. An error that ends the connection counts whatever its code: poolers refuse clients with XX000.
fn is_unavailable(error: &dyn DatabaseError) -> bool {
    let class =
        |code: &str| ["08", "25006", "28", "3D", "40", "53", "55P03", "57"].iter().any(|class| code.starts_with(class));
    ends_connection(error) || error.code().is_some_and(|code| class(&code))
}

/// Tells if Postgres, or a pooler, closes the connection after this error.
pub fn ends_connection(error: &dyn DatabaseError) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_none_or(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_providers_status_is_passed_on_where_it_is_an_error() {
        let status = |status| Error::Provider { status, message: String::new() }.status_code().as_u16();
        assert_eq!([400, 429, 503, 529, 599].map(status), [400, 429, 503, 529, 599]);
        assert_eq!([100, 204, 302, 304, 600, 999].map(status), [502; 6]);
    }
}
