//! Programs that some tests need besides Rust and Postgres.

use std::path::PathBuf;

/// Where `name` is. A machine without it skips the test that asks, and says
/// so; with `CHATBOT_UI_API_TEST_ALL=1` the test fails instead.
#[expect(clippy::print_stderr, reason = "whoever runs the tests wants to know what was not tested")]
pub fn find(name: &str, debian_package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = ["/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(others).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let all = std::env::var("CHATBOT_UI_API_TEST_ALL").is_ok_and(|all| all == "1");
        assert!(!all, "{name} is not on this machine: apt-get install {debian_package}");
        eprintln!("skipped, since {name} is not on this machine: apt-get install {debian_package}");
    }
    found
}
