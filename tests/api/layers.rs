//! The direction of imports: a room of `src/` may import only from the rooms
//! below it.

use std::{fs, path::Path};

/// The rooms of `src/`, layer by layer, the lowest first. Rooms of one layer do
/// not import from each other.
const LAYERS: [&[&str]; 12] = [
    &["error", "js"],
    &["allowance"],
    &["credentials", "drain", "http_client", "telemetry"],
    &["auth", "db", "rate_limit", "tools"],
    &["llm"],
    &["openapi", "playground", "retrieval", "usage"],
    &["http"],
    &["reverse_proxy"],
    &["config"],
    &["server"],
    &["cli"],
    &["demo"],
];

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn imports_run_one_way() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut wrong = Vec::new();
    let mut imports = 0;
    for (name, source) in &files {
        let room = name.split(['/', '.']).next().unwrap_or_default();
        if matches!(room, "lib" | "main") {
            continue;
        }
        let Some(own) = layer(room) else {
            wrong.push(format!("{name}: the room {room} has no layer"));
            continue;
        };
        for other in imported_rooms(source) {
            imports += 1;
            match layer(&other) {
                _ if other == room => {}
                Some(layer) if layer < own => {}
                _ => wrong.push(format!("{name} imports {other}, which does not lie below {room}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(imports > 100, "only {imports} imports were found: is this test still reading the sources?");
}

fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&entry).expect("a source file");
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
            let name = entry.strip_prefix(root).expect("below src").to_string_lossy().into_owned();
            files.push((name, source));
        }
    }
}

/// The rooms that a file names after `crate::`, comments and tests left out.
fn imported_rooms(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // Not the end of another word, such as `$crate`.
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => rooms.extend(first_names(list)),
            None => rooms.push(word(rest)),
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

/// The first names of a list of imports, up to its closing brace.
fn first_names(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut start) = (0_usize, Vec::new(), 0);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(word(&list[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(word(&list[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> String {
    text.trim_start().chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}
