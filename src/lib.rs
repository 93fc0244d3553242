//! The `/api` routes of chatbot-ui 2.0 as one server.
//!
//! One request, from the socket to the provider and back:
//!
//! 1. [`app`] accepts it, gives it an id ([`telemetry`]) and finds its route
//!    in the table of [`routes`].
//! 2. A handler that wants a user takes [`auth::User`]: cookie or bearer →
//!    token → signature, then one SQL statement ([`db`]) for the user, the
//!    session and the profile with its keys ([`keys`]).
//! 3. The handler makes an [`llm::Call`] of it: a row of
//!    [`llm::providers`] and the client's messages.
//! 4. [`llm::send`] asks the provider through one of the clients of
//!    [`outbound`]; URLs that users choose pass its guard.
//! 5. [`llm::relay`] takes the answer back: bytes → events ([`llm::sse`]) →
//!    text ([`llm::openai`]) → the client's connection.
//! 6. What fails on the way is an [`error::Error`]: a status and a sentence.
//!
//! [`tools`] is what a model may call besides, [`retrieval`] how files become
//! passages that can be found; [`config`] is every setting, [`cli`] what the commands do besides serving,
//! [`playground`] a page to try it all with.

pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod db;
pub mod error;
pub mod js;
pub mod keys;
pub mod llm;
pub mod outbound;
pub mod playground;
pub mod retrieval;
pub mod routes;
pub mod telemetry;
pub mod tools;
