//! The direction of imports: a room of `src/` may import only from the rooms
//! below it, and no more than two files, such as a parent and its child, may
//! import from each other in a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

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
    let mut wrong = Vec::new();
    let mut imports = 0;
    for (name, source) in &sources() {
        let room = name.split(['/', '.']).next().unwrap_or_default();
        if matches!(room, "lib" | "main") {
            continue;
        }
        let Some(own) = layer(room) else {
            wrong.push(format!("{name}: the room {room} has no layer"));
            continue;
        };
        for path in paths(source).iter().filter(|path| path[0] == "crate") {
            let Some(other) = path.get(1) else { continue };
            imports += 1;
            match layer(other) {
                _ if other == room => {}
                Some(layer) if layer < own => {}
                _ => wrong.push(format!("{name} imports {other}, which does not lie below {room}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(imports > 100, "only {imports} imports were found: is this test still reading the sources?");
}

#[test]
fn no_three_files_import_in_a_circle() {
    let sources = sources();
    let tests_alone: BTreeSet<Vec<String>> =
        sources.iter().flat_map(|(name, source)| modules_for_tests(&module(name), source)).collect();
    let mut files: BTreeMap<Vec<String>, &str> =
        sources.iter().map(|(name, source)| (module(name), source.as_str())).collect();
    files.retain(|module, _| !module.is_empty() && !tests_alone.contains(module));
    let imports: BTreeMap<_, BTreeSet<_>> = files
        .iter()
        .map(|(module, source)| {
            (module, paths(source).iter().filter_map(|path| file_of(path, module, &files)).collect())
        })
        .collect();
    let mut reached = BTreeMap::new();
    for &module in imports.keys() {
        let (mut found, mut open) = (BTreeSet::new(), vec![module]);
        while let Some(next) = open.pop() {
            open.extend(imports[next].iter().filter(|&&other| found.insert(other)));
        }
        reached.insert(module, found);
    }
    let circles: BTreeSet<Vec<String>> = imports
        .keys()
        .map(|module| reached[module].iter().filter(|other| reached[*other].contains(module)))
        .map(|circle| circle.map(|module| module.join("::")).collect())
        .collect();
    let wrong: Vec<String> = circles.iter().filter(|circle| circle.len() > 2).map(|circle| circle.join(", ")).collect();
    assert!(wrong.is_empty(), "These files import from each other in a circle: {}", wrong.join("\nand: "));
    let count: usize = imports.values().map(BTreeSet::len).sum();
    assert!(count > 300, "only {count} imports were found: is this test still reading the sources?");
}

/// The source files, by their names below `src/`.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    files
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

/// The module that a file is; none for `lib.rs` and `main.rs`.
fn module(name: &str) -> Vec<String> {
    let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
    if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// The modules that a file declares for tests alone.
fn modules_for_tests(module: &[String], source: &str) -> Vec<Vec<String>> {
    let declared = source.split("#[cfg(test)]\nmod ").skip(1).filter_map(|rest| rest.split_once(';'));
    declared.map(|(name, _)| [module, &[name.to_owned()]].concat()).collect()
}

/// The file that a path in `module` leads to, unless it is the module's own.
fn file_of<'a>(path: &[String], module: &[String], files: &'a BTreeMap<Vec<String>, &str>) -> Option<&'a Vec<String>> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let (base, rest) = match path[0].as_str() {
        "crate" => (&[][..], &path[1..]),
        "self" => (module, &path[1..]),
        _ => (&module[..module.len().checked_sub(ups)?], &path[ups..]),
    };
    let mut whole = [base, rest].concat();
    // A name of another crate is no child of this module.
    let is_ours = path[0] == "crate" || ups > 0 || files.contains_key(&whole[..(module.len() + 1).min(whole.len())]);
    while is_ours && !whole.is_empty() {
        if let Some((file, _)) = files.get_key_value(&whole) {
            return (file != module).then_some(file);
        }
        whole.pop();
    }
    None
}

/// The paths that a file imports or names in full, comments and tests left out.
fn paths(source: &str) -> Vec<Vec<String>> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut paths = Vec::new();
    for start in ["crate::", "super::", "self::", "use "] {
        for (at, _) in code.match_indices(start) {
            // Not the end of another word, such as `$crate`, nor the middle of a path.
            let is_start = |before: char| before.is_alphanumeric() || matches!(before, '_' | '$' | ':');
            if !code[..at].ends_with(is_start) {
                let tree = if start == "use " { &code[at + start.len()..] } else { &code[at..] };
                add_paths(tree, &mut Vec::new(), &mut paths);
            }
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

/// Adds the paths of a tree of imports, and returns what stands behind it.
fn add_paths<'a>(mut tree: &'a str, path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    let depth = path.len();
    loop {
        tree = tree.trim_start();
        if let Some(list) = tree.strip_prefix('{') {
            tree = list;
            while !tree.is_empty() && !tree.trim_start().starts_with('}') {
                tree = add_paths(tree, path, paths);
                // Up to the comma: another name behind `as`, or nothing.
                tree = tree.trim_start_matches(|c| !matches!(c, ',' | '}')).trim_start_matches(',');
            }
            tree = tree.trim_start();
            tree = tree.strip_prefix('}').unwrap_or(tree);
            break;
        }
        let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
        if end > 0 {
            path.push(tree[..end].to_owned());
        }
        tree = &tree[end..];
        match tree.strip_prefix("::") {
            Some(more) => tree = more,
            None => {
                paths.push(path.clone());
                break;
            }
        }
    }
    path.truncate(depth);
    tree
}
