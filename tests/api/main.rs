//! Black-box tests: the server as it runs, a Postgres of its own, providers
//! that are real servers. Files are named by a client's request.

mod access;
mod allowances;
#[cfg(target_os = "linux")]
mod attacks;
mod bodies;
mod chat;
mod check;
mod clients;
mod commands;
mod conformance;
mod custom;
mod database;
mod docs;
mod endings;
mod failover;
mod frontend;
mod headers;
mod health;
mod layers;
mod limits;
mod metrics;
mod migrate;
mod models;
mod offered;
#[cfg(feature = "otlp")]
mod otlp;
mod passages;
mod process;
mod protocols;
mod providers;
mod proxies;
mod refresh;
mod retrieval;
mod role;
mod scripted;
mod secrets;
mod sessions;
mod supabase_cli;
mod support;
mod telemetry;
mod tools;
mod usage;
