//! Reading a provider's answer: a [`Reader`] for each protocol adds what an
//! event says to an [`Output`], which also judges the end. No IO.

pub mod anthropic;
pub mod calls;
mod event_data;
pub mod google;
pub mod openai;
pub(super) mod output;
pub(super) mod reader;
pub mod responses;
pub mod sources;
mod think_tags;

pub use self::{
    output::{Finish, Output, Wanted},
    reader::Reader,
};
