//! What a newcomer counts on: one name has one meaning, and a file is a chapter.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

mod dependencies;

/// So often a name may be given.
const TIMES: usize = 3;

/// So long a file may be.
const LINES: usize = 500;

/// So long a function may be.
const FUNCTION_LINES: usize = 70;

/// What every module may call its own by these names: they are read with the module's.
const OF_A_MODULE: [&str; 6] = ["Arguments", "Error", "Inner", "Message", "Settings", "State"];

const FOLDERS: [&str; 8] = ["actors", "benches", "core", "examples", "log", "src", "supervisors", "tests"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The name of a type that this line defines. A type inside an `impl` has the name that its trait gives it.
fn defined(line: &str) -> Option<&str> {
    let text = line.trim_start();
    let text = match text.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => text,
    };
    let (keyword, name) = text.split_once(' ')?;
    let defines =
        matches!(keyword, "struct" | "enum" | "trait") || keyword == "type" && !line.starts_with(char::is_whitespace);
    let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
    (defines && name.starts_with(char::is_uppercase)).then(|| &name[..end])
}

#[test]
fn a_file_is_a_chapter() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let lines = |file: &PathBuf| fs::read_to_string(file).unwrap().lines().count();
    let long: Vec<_> = files.iter().filter(|file| lines(file) > LINES).collect();
    assert!(long.is_empty(), "longer than {LINES} lines; something in them wants a file of its own: {long:#?}");
}

/// Where a function of this file is longer than that: its first line, its length. It counts on the format.
fn long_functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let is_function = |line: &str| {
        let words = line.trim_start().split(' ');
        words.take_while(|word| !word.contains('"')).take(5).any(|word| word == "fn") && line.ends_with(['{', '('])
    };
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let ends = |line: &str| {
            line.strip_prefix(indent).is_some_and(|rest| rest == "}" || rest.ends_with(';') && rest.starts_with(')'))
        };
        let length = lines[n..].iter().position(|line| ends(line)).map_or(0, |last| last + 1);
        if length > FUNCTION_LINES {
            found.push((n + 1, length));
        }
    }
    found
}

#[test]
fn a_function_is_a_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let long: Vec<_> = files
        .iter()
        .map(|file| (file, long_functions(&fs::read_to_string(file).unwrap())))
        .filter(|(_, found)| !found.is_empty())
        .collect();
    assert!(long.is_empty(), "functions longer than {FUNCTION_LINES} lines, by line and length: {long:#?}");
    let long = format!("    pub async fn f(\n    ) {{\n{}    }}\n", "        g();\n".repeat(FUNCTION_LINES));
    assert_eq!(long_functions(&long), [(1, FUNCTION_LINES + 3)]);
}

#[test]
fn a_name_is_not_given_a_fourth_time() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        for name in text.lines().filter_map(defined) {
            given.entry(name.to_owned()).or_default().push(file.strip_prefix(&root).unwrap().display().to_string());
        }
    }
    given.retain(|name, places| places.len() > TIMES && !OF_A_MODULE.contains(&name.as_str()));
    assert!(given.is_empty(), "names with more than {TIMES} meanings; find others for the newest: {given:#?}");
}

#[test]
fn definitions_are_told_from_the_rest() {
    for (line, name) in [
        ("pub(crate) struct Call<T> {", Some("Call")),
        ("    enum Ask { Next }", Some("Ask")),
        ("pub trait Disk: Send {", Some("Disk")),
        ("pub type Rows = Vec<Row>;", Some("Rows")),
        ("    type State = u64;", None),
        ("// struct Call", None),
        ("let structure = Call;", None),
    ] {
        assert_eq!(defined(line), name, "{line}");
    }
}
