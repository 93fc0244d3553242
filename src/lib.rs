//! The `/api` routes of chatbot-ui 2.0 as one server.
//!
//! One request, from the socket to the provider and back:
//!
//! 1. [`server`] accepts it, gives it an id ([`telemetry`]), admits it, counts it as in flight ([`drain`]) and finds
//!    its route in the table of [`http`].
//! 2. A handler that needs a user takes [`http::user::User`]: cookie or bearer → token → signature ([`auth`]), the
//!    user's limits ([`rate_limit`]), then one SQL statement ([`db::accounts`]) for the user, the session and the
//!    profile with its keys ([`credentials`]).
//! 3. The handler makes an [`llm::Call`] of it: a row of [`llm::providers`] and the client's messages.
//! 4. [`llm::send`] calls the provider through [`http_client`]; URLs that users choose pass its guard against
//!    server-side request forgery.
//! 5. [`llm::relay`] takes the answer back: bytes → events ([`llm::sse`]) → text ([`llm::answer`]) → the client's
//!    connection. When the client leaves, it is dropped, and closes the provider's connection.
//! 6. A failure on the way is an [`error::Error`]: a status and a sentence.
//!
//! What a request holds and what it costs is charged to an [`allowance`] before it is taken.
//!
//! Beside that way: [`tools`] are functions that a model may call; [`retrieval`] turns files into passages that can be
//! searched; [`reverse_proxy`] passes everything else on to the front end; [`config`] is every setting; [`openapi`]
//! describes the API, [`playground`] is a page to try it; [`cli`] has the commands, [`demo`] everything that only the
//! demo and the tests need: a private Postgres and stand-ins for Supabase and providers.
//!
//! Imports run one way, from the end of this list to its beginning, and in no circle between a room's files; a test
//! checks both (`tests/api/layers.rs`).

// Layer by layer, the lowest first.
pub mod error;
pub mod js;

pub mod allowance;
pub mod credentials;
pub mod drain;
pub mod http_client;
pub mod playground;
pub mod telemetry;

pub mod auth;
pub mod db;
pub mod rate_limit;
pub mod tools;

pub mod llm;

pub mod openapi;
pub mod retrieval;
pub mod usage;

pub mod http;

pub mod reverse_proxy;

pub mod config;

pub mod server;

pub mod cli;

pub mod demo;
