//! Any `Cookie` header: no panic; and a session that is found there and then
//! refreshed is found again in what the browser is given.

#![no_main]

use chatbot_ui_api::auth::cookie;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const NAME: &str = "sb-127-auth-token";

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // As it is, and as the value of our cookie, whole and in chunks.
    read(&text);
    read(&format!("{NAME}={text}"));
    let pieces: Vec<String> =
        text.split('\n').enumerate().map(|(number, piece)| format!("{NAME}.{number}={piece}")).collect();
    read(&pieces.join("; "));
});

fn read(header: &str) {
    let Some(session) = cookie::session(NAME, header.lines()) else { return };
    assert!(!session.access_token.is_empty());
    for filler in [0, 4000] {
        let new = json!({ "access_token": "n.e.w", "refresh_token": "r2", "user": "é".repeat(filler) });
        let given = session.set_cookies(NAME, &new);
        let kept: Vec<&str> = given
            .iter()
            .inspect(|cookie| assert!(cookie.is_ascii() && !cookie.contains(['\r', '\n'])))
            .filter(|cookie| !cookie.contains("; Max-Age=0;"))
            .filter_map(|cookie| cookie.split(';').next())
            .collect();
        let found = cookie::session(NAME, [kept.join("; ").as_str()].into_iter()).expect("the new session");
        assert_eq!((found.access_token.as_str(), found.refresh_token.as_str()), ("n.e.w", "r2"));
    }
}
