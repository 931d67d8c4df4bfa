//! Hand-made histories, each good or with one thing wrong, through the library and through the command.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use converge_lab::history::{self, Verdict};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_converge-lab");
const ERROR: i32 = 1;
const USAGE: i32 = 2;
const INTEGRITY: i32 = 5;

/// Every rule that there is.
const RULES: [&str; 18] = [
    "deduplicated",
    "diverged",
    "expected",
    "gap",
    "interval",
    "key",
    "latest",
    "ledger",
    "ledger_order",
    "lost",
    "order",
    "place",
    "position",
    "refused",
    "twice",
    "unfilled",
    "uninvoked",
    "value_reused",
];

fn histories(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories").join(kind);
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn verdict(path: &Path) -> Verdict {
    history::check(&history::read(BufReader::new(File::open(path).unwrap())).unwrap())
}

/// The rule that a file's name says it breaks.
fn rule(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap().split('-').next().unwrap()
}

fn check_history(arguments: &[&str], stdin: Stdio) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("check-history").args(arguments).stdin(stdin).output().unwrap()
}

fn on_file(path: &Path, arguments: &[&str]) -> Output {
    check_history(&[&[path.to_str().unwrap()], arguments].concat(), Stdio::null())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn good_histories_hold() {
    let paths = histories("good");
    assert!(paths.len() >= 12, "{paths:?}");
    for path in paths {
        let verdict = verdict(&path);
        assert!(verdict.holds(), "{}: {:#?}", path.display(), verdict.violations);
    }
}

#[test]
fn each_rule_catches_what_it_is_there_for() {
    let mut tried = BTreeSet::new();
    for path in histories("bad") {
        let verdict = verdict(&path);
        let broken: BTreeSet<_> = verdict.violations.iter().map(|violation| violation.rule.to_string()).collect();
        let name = path.display();
        assert_eq!(broken, [rule(&path).to_owned()].into(), "{name}: {:#?}", verdict.violations);
        for violation in &verdict.violations {
            let lines = violation.lines.iter();
            assert!(!violation.lines.is_empty(), "{name}: {violation}");
            assert!(lines.clone().all(|line| (1..=verdict.counts.operations).contains(&line.0)), "{name}: {violation}");
        }
        tried.insert(rule(&path).to_owned());
    }
    assert_eq!(tried, RULES.map(str::to_owned).into());
}

#[test]
fn a_contradiction_is_explained_by_its_lines() {
    for (name, lines, words) in [
        ("order-stale-read-served-as-fresh", [3, 2], "sequence 2 was not there when the one began at 40, but it was"),
        (
            "order-appends",
            [2, 1],
            "sequence 1 was not there when the one began at 20, but sequence 2, which follows it",
        ),
        ("ledger_order", [2, 1], "sequence 1 of another context, at a later position"),
        ("lost", [2, 4], "node 2 ends with sequence 1, but 2 was there, of 2"),
        ("twice", [3, 3], "\"a\" stands at sequence 1 for one and at 3 for the other"),
        ("deduplicated-two-firsts", [1, 2], "both say that they were the first to write \"a\""),
    ] {
        let path = histories("bad").into_iter().find(|path| path.file_stem().unwrap() == name).unwrap();
        let violations = verdict(&path).violations;
        let found = violations.iter().map(|violation| violation.lines.iter().map(|line| line.0).collect::<Vec<_>>());
        assert_eq!(found.collect::<Vec<_>>(), [lines.to_vec()], "{name}: {violations:#?}");
        assert!(violations[0].why.contains(words), "{name}: {}", violations[0]);
    }
}

#[test]
fn the_command_says_linearizable_and_ends_with_0() {
    for path in histories("good").into_iter().filter(|path| !path.ends_with("empty.jsonl")) {
        let output = on_file(&path, &[]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), text(&output.stderr));
        assert!(text(&output.stdout).contains("linearizable"), "{}", path.display());
        assert!(output.stderr.is_empty());
    }
    let path = histories("good").into_iter().find(|path| path.ends_with("good/plain.jsonl")).unwrap();
    let output = on_file(&path, &["--output", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["linearizable"], true);
    for (name, count) in [("operations", 8), ("contexts", 1), ("acknowledged", 2), ("unknown", 0), ("states", 3)] {
        assert_eq!(answer["counts"][name], count, "{name}");
    }
}

#[test]
fn the_command_names_what_is_violated_and_ends_with_5() {
    for path in histories("bad") {
        let output = on_file(&path, &[]);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(INTEGRITY), "{}: {stderr}", path.display());
        assert!(stdout.contains("violated") && stdout.contains("line"), "{stdout}");
        assert!(stdout.lines().any(|line| line.starts_with(&format!("  {}", rule(&path)))), "{stdout}");
        assert!(stderr.contains(path.to_str().unwrap()), "{stderr}");
    }
    let path = histories("bad").into_iter().find(|path| path.ends_with("bad/lost.jsonl")).unwrap();
    let output = on_file(&path, &["--output", "json"]);
    assert_eq!(output.status.code(), Some(INTEGRITY));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["linearizable"], false);
    assert_eq!(answer["violations"][0]["rule"], "lost");
    assert_eq!(answer["violations"][0]["lines"], serde_json::json!([2, 4]));
    assert_eq!(answer["violations_more"], 0);
}

#[test]
fn many_violations_are_shown_in_part() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("many.jsonl");
    let line = |n: u64| {
        format!(
            r#"{{"op":"append","client":1,"start":9,"end":1,"context":"c","value":"{n}","outcome":"unknown"}}{}"#,
            '\n'
        )
    };
    fs::write(&path, (0..1500).map(line).collect::<String>()).unwrap();
    let output = on_file(&path, &[]);
    assert_eq!(output.status.code(), Some(INTEGRITY));
    let stdout = text(&output.stdout);
    assert_eq!(stdout.lines().filter(|line| line.starts_with("  interval")).count(), 20);
    assert!(stdout.ends_with("and 1480 more\n"), "{stdout}");
    assert!(text(&output.stderr).contains("1500 violations"), "{}", text(&output.stderr));
}

#[test]
fn bad_input_names_the_file_and_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("torn.jsonl");
    let good = fs::read(histories("good").iter().find(|path| path.ends_with("good/plain.jsonl")).unwrap()).unwrap();
    fs::write(&path, &good[..good.len() - 5]).unwrap();
    let output = on_file(&path, &[]);
    assert_eq!(output.status.code(), Some(ERROR));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("torn.jsonl:8:") && output.stdout.is_empty(), "{stderr}");

    let missing = on_file(&directory.path().join("missing"), &[]);
    assert_eq!(missing.status.code(), Some(ERROR));
    assert!(text(&missing.stderr).contains("missing"), "{}", text(&missing.stderr));
    let folder = on_file(directory.path(), &[]);
    assert_eq!(folder.status.code(), Some(ERROR));
    assert_eq!(check_history(&[], Stdio::null()).status.code(), Some(USAGE));
}

#[test]
fn a_history_comes_from_standard_input_too() {
    let open = |kind: &str, name: &str| {
        let path = histories(kind).into_iter().find(|path| path.file_name().unwrap() == name).unwrap();
        Stdio::from(File::open(path).unwrap())
    };
    assert_eq!(check_history(&["-"], open("good", "plain.jsonl")).status.code(), Some(0));
    let bad = check_history(&["-"], open("bad", "lost.jsonl"));
    assert_eq!(bad.status.code(), Some(INTEGRITY));
    assert!(text(&bad.stderr).contains("stdin"), "{}", text(&bad.stderr));
}

/// Whoever reads the answer may have enough of it; what the command did, and its exit code, do not depend on that.
#[test]
fn a_verdict_does_not_depend_on_its_reader() {
    let histories = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories");
    // The standard library's command leaves stdout as it is told.
    let code = |file: &str, stdout: Stdio| {
        let mut command = Command::new(BINARY);
        command.arg("check-history").arg(histories.join(file)).stdout(stdout).stderr(Stdio::piped());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let dead = || Stdio::from(std::io::pipe().unwrap().1);
    assert_eq!(code("bad/gap-watch.jsonl", dead()).0, Some(5));
    assert_eq!(code("bad/gap-watch.jsonl", full()).0, Some(5));
    assert_eq!(code("good/plain.jsonl", dead()), (Some(0), String::new()));
    let (failed, said) = code("good/plain.jsonl", full());
    assert!(failed == Some(1) && said.contains("stdout"), "{failed:?} {said}");
}
