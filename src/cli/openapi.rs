//! `openapi`: the API's description on standard output.

use std::process::ExitCode;

use crate::openapi;

/// Runs the command.
pub fn run() -> ExitCode {
    super::run(async {
        let document = serde_json::to_string_pretty(openapi::document()).map_err(|error| error.to_string())?;
        super::say(&document);
        Ok(())
    })
}
