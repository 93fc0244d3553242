//! Black-box tests: the server as it runs, a Postgres of its own, providers
//! that are real servers. Files are named by what a client asks for.

mod chat;
mod conformance;
mod custom;
mod docs;
mod frontend;
mod health;
mod migrate;
mod process;
mod protocols;
mod refresh;
mod retrieval;
mod sessions;
mod support;
mod tools;
