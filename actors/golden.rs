//! Golden scripts: each line of a text file is what a pure machine is told, with what comes of it after the arrow.
//!
//! `UPDATE=1` writes what comes of the lines into the file, for a reader to judge.

use std::fmt::Write as _;
use std::{env, fs, path::Path};

/// Tells a machine each line of a script, and compares what comes of it. A line that begins a new machine has no outcome.
pub(crate) fn check(file: &str, mut take: impl FnMut(&[&str]) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let written = fs::read_to_string(&path).unwrap();
    let mut told = String::new();
    for line in written.lines() {
        let comment = line.is_empty() || line.starts_with('#');
        let line = if comment { line } else { line.split("=>").next().unwrap_or_default().trim_end() };
        let outcome = if comment { String::new() } else { take(&line.split_whitespace().collect::<Vec<_>>()) };
        let _ = match outcome.as_str() {
            "" => writeln!(told, "{line}"),
            outcome => writeln!(told, "{line:27} => {outcome}"),
        };
    }
    if env::var_os("UPDATE").is_some() {
        return fs::write(&path, told).unwrap();
    }
    for (n, (written, told)) in written.lines().zip(told.lines()).enumerate() {
        assert_eq!(told, written, "{file} line {}; UPDATE=1 rewrites it", n + 1);
    }
}
