//! All SQL statements, by table. Each takes the id of the user it acts for, and checks the user's permission as part of
//! the statement.

pub mod accounts;
mod connection;
pub mod files;
pub mod inspect;
pub mod missing_migrations;
pub mod models;
pub mod offered;
mod pool;
mod session_source;
pub mod usage;

pub use pool::{Db, Pooler, SessionCheck, Settings};
