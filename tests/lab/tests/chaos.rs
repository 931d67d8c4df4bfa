//! Short runs of the chaos command: what it finds is good, it did what it says, and it leaves nothing behind.
#![allow(missing_docs)]

#[path = "../../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use converge_lab::history;
use serde_json::Value;
use support::program::binary;

const BINARY: &str = env!("CARGO_BIN_EXE_converge-lab");
/// Processes that were told to end are gone within this time.
const GONE: Duration = Duration::from_secs(20);

fn chaos(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["chaos", "--program", binary()]).args(arguments).env("TMPDIR", temporary).stdin(Stdio::null());
    command
}

fn verdict(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["ok"], true, "{verdict}");
    assert_eq!(verdict["violations"], serde_json::json!([]));
    verdict
}

/// Processes of this machine whose command line names the directory: nodes do, and whoever runs them does.
fn at_work_in(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(name)).collect()
}

fn mounts() -> BTreeSet<String> {
    std::fs::read_to_string("/proc/self/mounts").unwrap().lines().map(str::to_owned).collect()
}

fn names_in(directory: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

/// What a run could leave on the machine, beside processes and files.
fn traces(temporary: &Path) -> Vec<String> {
    let name = temporary.to_str().unwrap();
    let mounts = mounts().into_iter().filter(|mount| mount.contains(name));
    let links = names_in("/sys/class/net").into_iter().filter(|link| link.starts_with("port") || link == "bridge0");
    let spaces = names_in("/run/netns").into_iter().filter(|space| space.starts_with("node"));
    mounts.chain(links).chain(spaces).collect()
}

fn nothing_is_left(temporary: &Path) {
    let until = Instant::now() + GONE;
    // The kernel takes a moment to end what was in a namespace.
    while !at_work_in(temporary).is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(at_work_in(temporary), Vec::<String>::new());
    assert_eq!(traces(temporary), Vec::<String>::new());
}

/// Past the capture of a test that passes.
fn say_aloud(skipped: bool, why: &str) {
    if skipped {
        let _ = writeln!(std::io::stderr(), "skipped: {why}");
    }
}

#[test]
fn a_run_holds_says_what_it_did_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("history");
    let temporary = directory.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let name = file.to_str().unwrap();
    let arguments = ["--for", "12s", "--seed", "1", "--clients", "8", "--history", name, "--output", "json"];
    let verdict = verdict(&chaos(&temporary, &arguments).output().unwrap());
    for why in verdict["skipped"].as_array().unwrap() {
        say_aloud(true, why.as_str().unwrap());
    }

    let faults = verdict["faults"].as_object().unwrap();
    assert!(faults.keys().any(|kind| kind.starts_with("SIGKILL")), "{verdict}");
    assert!(faults.values().map(|count| count.as_u64().unwrap()).sum::<u64>() >= 5, "{verdict}");
    if verdict["skipped"] == serde_json::json!([]) {
        let lost = ["cut off", "hears", "heard", "not heard", "clients hear", "disk full"];
        assert!(faults.keys().any(|kind| lost.iter().any(|lost| kind.starts_with(lost))), "{verdict}");
    }
    let counts = &verdict["counts"];
    for some in ["acknowledged", "unknown", "refused", "reads", "reads_stale", "watches"] {
        assert!(counts[some].as_u64().unwrap() > 0, "no {some}: {verdict}");
    }
    assert!(verdict["longest_pause_ms"].as_u64().unwrap() > 100, "a leader was killed: {verdict}");

    let history = history::read(BufReader::new(std::fs::File::open(&file).unwrap())).unwrap();
    assert!(history::check(&history).holds());
    assert!(matches!(history.last(), Some(history::Operation::End(end)) if end.position.get() > 0));
    assert_eq!(history.len() as u64, counts["operations"].as_u64().unwrap());
    assert_eq!(names_in(temporary.to_str().unwrap()), BTreeSet::new(), "it removes its files");
    nothing_is_left(directory.path());
}

#[test]
fn without_namespaces_it_says_so_and_does_with_what_needs_none() {
    let directory = tempfile::tempdir().unwrap();
    // Without `unshare` there is no way into a namespace; `kill` is all that signals need.
    let programs = directory.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let kill = ["/bin/kill", "/usr/bin/kill"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    std::os::unix::fs::symlink(kill, programs.join("kill")).unwrap();
    let data = directory.path().join("data");
    let arguments = ["--for", "5s", "--seed", "5", "--output", "json", "--data-dir", data.to_str().unwrap()];
    let output = chaos(directory.path(), &arguments).env("PATH", &programs).output().unwrap();
    let verdict = verdict(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("skipped: partitions and full disks: `unshare`"));
    assert_eq!(verdict["skipped"].as_array().unwrap().len(), 1, "{verdict}");
    let faults = verdict["faults"].as_object().unwrap();
    let needs_none =
        |kind: &String| ["SIG", "crowd", "log that nobody reads"].iter().any(|sort| kind.starts_with(sort));
    assert!(!faults.is_empty() && faults.keys().all(needs_none), "{verdict}");
    let kept = names_in(data.to_str().unwrap());
    assert!(kept.contains("node-1") && kept.contains("node-3.log") && kept.contains("faults.log"), "{kept:?}");
    nothing_is_left(directory.path());
}

#[test]
fn a_run_that_is_interrupted_or_killed_leaves_no_process_behind() {
    for signal in ["INT", "TERM", "KILL"] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = chaos(directory.path(), &["--for", "10m", "--seed", "1"]);
        let mut running = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(running.stderr.take().unwrap()).lines();
        let isolated = !said
            .by_ref()
            .map(Result::unwrap)
            .take_while(|line| !line.contains("clients work"))
            .any(|line| line.starts_with("skipped: partitions and full disks"));
        assert!(at_work_in(directory.path()).len() >= 3, "what is looked for afterwards would be seen");
        // Namespaces end with whoever holds them; loose nodes would outlive a command that can do nothing any more.
        let signal = if signal == "KILL" && !isolated { "TERM" } else { signal };
        say_aloud(signal == "TERM" && !isolated, "SIGKILL of the command needs namespaces");
        let pid = running.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        assert!(!running.wait().unwrap().success());
        nothing_is_left(directory.path());
        let left = names_in(directory.path().to_str().unwrap());
        assert!(signal == "KILL" || left.is_empty(), "SIG{signal} left {left:?}");
    }
}
