//! Allowances: every byte kept and every step that occupies a core is charged to its user beforehand.
//!
//! [`bytes`] bounds what requests hold in memory, in all and of one user; [`turns`] hands out cores, fairly between
//! users; [`json`] bounds what a document becomes once it is parsed.

pub mod bytes;
pub mod json;
pub mod turns;

pub use bytes::{Buffers, Charge};
pub use turns::{Turn, Turns};
