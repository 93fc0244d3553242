//! The `/api` routes of chatbot-ui 2.0 as one server.
//!
//! One request, from the socket to the provider and back:
//!
//! 1. [`app`] accepts it, gives it an id ([`telemetry`]), lets it in ([`door`])
//!    and finds its route in the table of [`routes`].
//! 2. A handler that wants a user takes [`auth::User`]: cookie or bearer →
//!    token → signature, then one SQL statement ([`db`]) for the user, the
//!    session and the profile with its keys ([`keys`]). On the way the user's
//!    request is counted ([`limits`]).
//! 3. The handler makes an [`llm::Call`] of it: a row of
//!    [`llm::providers`] and the client's messages.
//! 4. [`llm::send`] asks the provider through one of the clients of
//!    [`outbound`] ([`outbound::http1`]); URLs that users choose pass its guard.
//! 5. [`llm::relay`] takes the answer back: bytes → events ([`llm::sse`]) →
//!    text ([`llm::openai`]) → the client's connection.
//! 6. What fails on the way is an [`error::Error`]: a status and a sentence.
//!
//! [`tools`] is what a model may call besides, [`retrieval`] how files become
//! passages that can be found; [`config`] is every setting, [`cli`] what the commands do besides serving,
//! [`openapi`] what all of it looks like to a client.
//! [`frontend`] is where everything else is passed on to.
//! [`playground`] a page to try it all with.

pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod cors;
pub mod db;
pub mod door;
pub mod error;
pub mod frontend;
pub mod idle;
pub mod js;
pub mod keys;
pub mod limits;
pub mod llm;
pub mod openapi;
pub mod outbound;
pub mod playground;
pub mod retrieval;
pub mod routes;
pub mod telemetry;
pub mod tools;
