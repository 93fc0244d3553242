//! Programs that a test needs beyond Rust and Postgres.

use std::{io::Write, path::PathBuf};

/// Prints a message for the person who runs the tests. The harness captures
/// what is printed if a test passes; it does not see what is written.
pub fn say(words: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{words}");
}

/// The path of a program. Without it the test is skipped with a message,
/// unless `CHATBOT_UI_API_TEST_ALL=1` says that nothing may be.
pub fn find(name: &str, debian_package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let how = format!("`{name}` is not installed (apt-get install {debian_package})");
        assert!(std::env::var("CHATBOT_UI_API_TEST_ALL").as_deref() != Ok("1"), "{how}");
        say(&format!("skipped a test: {how}"));
    }
    found
}
