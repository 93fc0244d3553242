//! The paths of this server, in all their spellings.

use percent_encoding::percent_decode_str;

/// Tells if a path is below `/api`, however it is spelt. The front end has routes of the same names, which this server
/// replaces, so no spelling that the front end treats as equal may be passed on to it.
pub fn is_api(path: &str) -> bool {
    let path = percent_decode_str(path).decode_utf8_lossy();
    let mut parts = Vec::new();
    for part in path.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.first() == Some(&"api")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_leads_to_the_front_ends_own_api() {
        for path in [
            "/api",
            "/api/",
            "/api/keys",
            "//api/keys",
            "/%61pi/keys",
            "/x/../api/keys",
            "/x/%2e%2e/api/keys",
            "/.%2Fapi/keys",
            "/\\api",
            "/..//api",
        ] {
            assert!(is_api(path), "{path}");
        }
        for path in ["/", "/apis", "/login", "/en/api/keys", "/api/../login", "/_next/static/api.js", "/%", "/%ff"] {
            assert!(!is_api(path), "{path}");
        }
    }
}
