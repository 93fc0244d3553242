//! `openapi`: prints the API's OpenAPI document.

use std::process::ExitCode;

use super::help;
use crate::openapi;

/// Runs the command.
pub fn run() -> ExitCode {
    help::print(format!("{:#}\n", openapi::document()).as_bytes())
}
