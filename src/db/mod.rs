//! Every SQL statement, by table. Each takes the id of the user it acts for,
//! and the check that the user may do so is part of the statement.

pub mod accounts;
pub mod files;
pub mod inspect;
pub mod models;
mod pool;
mod vector;

pub use pool::{Db, SessionCheck, Settings};
