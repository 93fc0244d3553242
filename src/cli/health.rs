//! `health`: tests if a server with these settings answers on this machine. For container images without another HTTP
//! client.

use std::{process::ExitCode, time::Duration};

use crate::config::{self, Config};

/// Longer than the database timeout of `/readyz`.
const LIMIT: Duration = Duration::from_secs(4);

/// Runs the command: requests `/healthz`, or `/readyz` if `ready`.
pub fn run(ready: bool) -> ExitCode {
    super::run(async {
        let config = Config::new(&config::variables()?).map_err(|error| error.to_string())?;
        let path = if ready { "readyz" } else { "healthz" };
        let url = format!("http://{}:{}/{path}", host(&config.host), config.port);
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(LIMIT)
            .build()
            .map_err(|error| format!("the HTTP client cannot be set up: {error}"))?;
        match client.get(&url).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("{url} answers with status {}", answer.status().as_u16())),
            Err(error) if error.is_timeout() => Err(format!("{url} gives no answer within {} s", LIMIT.as_secs())),
            Err(_) => Err(format!("{url} cannot be reached: does the server run, with the same HOST and PORT?")),
        }
    })
}

/// Returns the address under which this machine reaches a server that listens on `host`.
pub(super) fn host(host: &str) -> String {
    match host.trim_matches(['[', ']']) {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        address if address.contains(':') => format!("[{address}]"),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_to_listen_on_can_be_asked() {
        for (listens, expected) in [
            ("0.0.0.0", "127.0.0.1"),
            ("::", "[::1]"),
            ("[::]", "[::1]"),
            ("fd00::7", "[fd00::7]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host(listens), expected);
        }
    }
}
