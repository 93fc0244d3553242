//! Black-box tests: the server as it runs, a Postgres of its own, providers
//! that are real servers. Files are named by what a client asks for.

mod chat;
mod conformance;
mod custom;
mod health;
mod metrics;
mod migrate;
#[cfg(feature = "otlp")]
mod otlp;
mod process;
mod protocols;
mod refresh;
mod retrieval;
mod sessions;
mod support;
mod telemetry;
mod tools;
