//! Programs that a test needs beyond Rust and Postgres. A machine without
//! them skips the test, in a line that says how to get them; with
//! `CHATBOT_UI_API_TEST_ALL=1` their absence is a failure.

use std::path::PathBuf;

/// The program `name`, from `PATH` or where programs for administrators are;
/// `None` where the test is to be skipped.
#[expect(clippy::print_stderr, reason = "whoever runs the tests wants to know what was not run")]
pub fn find(name: &str, debian_package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    if found.is_none() {
        let words = format!("there is no {name} (Debian: apt install {debian_package})");
        assert!(std::env::var_os("CHATBOT_UI_API_TEST_ALL").is_none_or(|it| it != "1"), "{words}");
        eprintln!("skipped: {words}");
    }
    found
}
