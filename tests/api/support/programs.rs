//! Programs that some tests need besides Rust and Postgres.

use std::path::PathBuf;

/// Where a program is; `None`, after one line on standard error, where this
/// machine has none: the test is skipped then. With `CHATBOT_UI_API_TEST_ALL=1`
/// in the environment nothing may be skipped, and its absence is a failure.
#[expect(clippy::print_stderr, reason = "a skipped test must not look like one that passed")]
pub fn find(name: &str, debian_package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let how = format!("it needs {name}, which is not here (Debian: `apt install {debian_package}`)");
        assert!(std::env::var_os("CHATBOT_UI_API_TEST_ALL").is_none_or(|all| all != "1"), "{how}");
        eprintln!("skipped: {how}");
    }
    found
}
