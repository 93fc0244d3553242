//! The handlers, one file for each area of routes.

pub mod assistants;
pub mod chat;
pub mod command;
pub mod docs;
pub mod health;
pub mod keys;
pub mod retrieval;
pub mod tools;
pub mod usage;
pub mod username;
