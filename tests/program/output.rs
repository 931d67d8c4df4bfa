//! Nodes whose output goes nowhere: closed, full, or without a reader. They serve, stop in order, and exit 0.
#![cfg(all(unix, feature = "cli"))]
#![allow(missing_docs, clippy::print_stderr)]

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use crate::support::cluster::{SETTLED, nodes};
use crate::support::node::{Node, READY, cli};
use crate::support::program::binary;
use crate::support::until;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// An ordered stop ends within this; it is cut short after 75 s.
const STOPPED: Duration = Duration::from_secs(60);
/// What a pipe holds on Linux.
const PIPE_BYTES: usize = 64 << 10;

/// What stands where a node writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Output {
    Closed,
    /// A pipe whose reader is gone.
    Dead,
    /// A pipe whose reader is there and does not read, as a log shipper that was stopped.
    Stuck,
    /// A full disk.
    Full,
    Fine,
}

/// Open ends that a test keeps until its node is gone.
#[derive(Default)]
struct OpenEnds(Vec<(PipeReader, PipeWriter)>);

impl Output {
    fn stdio(self, kept: &mut OpenEnds) -> Stdio {
        match self {
            Output::Closed | Output::Fine => Stdio::null(),
            Output::Full => OpenOptions::new().write(true).open("/dev/full").unwrap().into(),
            Output::Dead => std::io::pipe().unwrap().1.into(),
            Output::Stuck => {
                let (reader, mut writer) = std::io::pipe().unwrap();
                writer.write_all(&vec![b'x'; PIPE_BYTES]).unwrap();
                kept.0.push((reader, writer.try_clone().unwrap()));
                writer.into()
            }
        }
    }
}

/// Starts a node with these ends as its stdout and stderr.
fn spawn(node: &Node, stdout: Output, stderr: Output, kept: &mut OpenEnds) -> Child {
    let closed = |end, number| if end == Output::Closed { format!(" {number}>&-") } else { String::new() };
    // A shell, because a standard library opens what is closed.
    let script = format!("exec \"$@\" <&-{}{}", closed(stdout, 1), closed(stderr, 2));
    Command::new("sh")
        .args(["-c", &script, "sh", binary()])
        .args(node.arguments())
        .envs(&node.environment)
        .stdin(Stdio::null())
        .stdout(stdout.stdio(kept))
        .stderr(stderr.stdio(kept))
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn alone() -> (Node, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::new(directory.path(), 1);
    // More to say than any pipe holds.
    node.environment.insert("RUST_LOG".into(), "trace".into());
    (node, directory)
}

async fn serves(node: &Node) -> serde_json::Value {
    until("the node serves", READY, || async { node.status().await.filter(|status| status["phase"] == "serving") })
        .await
}

async fn append(node: &Node) {
    until("an append is acknowledged", SETTLED, || async {
        let output = cli(&["append", "orders", "facts", "hello", "--endpoint", &node.url()]).await;
        output.status.success().then_some(())
    })
    .await;
}

fn signal(pid: u32, names: &[&str]) {
    let kills: Vec<String> = names.iter().map(|name| format!("kill -{name} {pid}")).collect();
    assert!(std::process::Command::new("sh").args(["-c", &kills.join(";")]).status().unwrap().success());
}

/// Whether this process, and so what it starts, was told to ignore SIGHUP, the first of the signals.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

async fn ended(child: &mut Child) -> ExitStatus {
    timeout(STOPPED, child.wait()).await.expect("it stops in time").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_write_serves_and_stops_in_order() {
    for (stdout, stderr) in [
        (Output::Fine, Output::Dead),
        (Output::Dead, Output::Fine),
        (Output::Dead, Output::Dead),
        (Output::Full, Output::Full),
        (Output::Stuck, Output::Stuck),
        (Output::Closed, Output::Closed),
        (Output::Closed, Output::Dead),
        (Output::Stuck, Output::Closed),
    ] {
        let (node, _directory) = alone();
        let mut kept = OpenEnds::default();
        let mut child = spawn(&node, stdout, stderr, &mut kept);
        serves(&node).await;
        append(&node).await;
        signal(child.id().expect("it runs"), &["TERM"]);
        let status = ended(&mut child).await;
        assert!(status.success(), "stdout {stdout:?}, stderr {stderr:?}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_written_is_an_alarm() {
    for (stdout, stderr, name) in [(Output::Dead, Output::Fine, "stdout"), (Output::Fine, Output::Full, "stderr")] {
        let (node, _directory) = alone();
        let _child = spawn(&node, stdout, stderr, &mut OpenEnds::default());
        let alarm = until("the alarm", READY, || async {
            let status = node.status().await?;
            let alarms = status["alarms"].as_array()?.clone();
            alarms.into_iter().find(|alarm| alarm.as_str().is_some_and(|alarm| alarm.contains("could not be written")))
        })
        .await;
        assert!(alarm.as_str().unwrap().contains(name), "{alarm}");
    }
}

/// What a log says where lines are missing.
const GAP: &str = "lines of this log could not be written";

/// A log shipper that is restarted: the log goes on, and says what is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_can_be_written_again_says_what_was_lost() {
    let (node, _directory) = alone();
    let mut kept = OpenEnds::default();
    let mut child = spawn(&node, Output::Fine, Output::Stuck, &mut kept);
    until("lines are dropped", READY, || async {
        append(&node).await;
        let status = node.status().await?;
        status["alarms"].to_string().contains("stderr").then_some(())
    })
    .await;
    // Somebody reads again, and has come to where lines are missing.
    let (mut reader, writer) = kept.0.pop().unwrap();
    drop(writer);
    let (tell, told) = tokio::sync::oneshot::channel();
    let text = tokio::task::spawn_blocking(move || {
        let (mut text, mut tell, mut part) = (String::new(), Some(tell), vec![0; PIPE_BYTES]);
        loop {
            let count = reader.read(&mut part)?;
            text.push_str(&String::from_utf8_lossy(&part[..count]));
            if text.contains(GAP) {
                tell.take().map(|tell: tokio::sync::oneshot::Sender<()>| tell.send(()));
            }
            if count == 0 {
                return std::io::Result::Ok(text);
            }
        }
    });
    timeout(READY, told).await.expect("the log goes on").expect("it says what is missing");
    signal(child.id().expect("it runs"), &["TERM"]);
    assert!(ended(&mut child).await.success());
    let text = text.await.unwrap().unwrap();
    assert!(text.contains("stopping"), "what came afterwards is missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_terminal_takes_no_node_down() {
    let (node, directory) = alone();
    let file = directory.path().join("pid");
    let mut terminal = Command::new("script");
    // A session of its own: the terminal's end is no SIGHUP, only an error of every write.
    let inside = "setsid \"$BINARY\" $ARGUMENTS & echo $! > \"$PID\"; sleep 1000";
    terminal.args(["-qec", inside, "/dev/null"]).env("SHELL", "/bin/sh");
    terminal.env("BINARY", binary()).env("ARGUMENTS", node.arguments().join(OsStr::new(" "))).env("PID", &file);
    terminal.envs(&node.environment).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let Ok(mut terminal) = terminal.spawn() else {
        eprintln!("skipped: no `script` to give a terminal");
        return;
    };
    serves(&node).await;
    let pid: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    terminal.kill().await.unwrap();
    append(&node).await;
    let status = serves(&node).await;
    signal(pid, &["TERM"]);
    until("the process is gone", STOPPED, || async { (!runs(pid)).then_some(()) }).await;
    assert!(status["alarms"].to_string().contains("Input/output error"), "{status}");
    // It was a stop in order: a node that starts there has nothing to repair, and one that still runs would refuse.
    let mut again = spawn(&node, Output::Fine, Output::Fine, &mut OpenEnds::default());
    serves(&node).await;
    again.kill().await.unwrap();
}

/// Not gone, and not waiting for its parent either.
fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_whose_log_readers_die_survive_the_loss_of_their_leader() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Vec::new();
    for node in nodes(directory.path(), 3) {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(binary());
        command.args(node.arguments()).envs(&node.environment).stdin(Stdio::null()).kill_on_drop(true);
        let child = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
        let drained = drain(reader.try_clone().unwrap());
        cluster.push((node, child, reader, drained));
    }
    let leader = until("one node leads", SETTLED, || async {
        for (place, (node, ..)) in cluster.iter().enumerate() {
            if node.status().await.is_some_and(|status| status["role"] == "leader") {
                return Some(place);
            }
        }
        None
    })
    .await;
    // All that read the logs are gone, and the leader with them.
    let mut nodes = Vec::new();
    for (node, child, reader, drained) in cluster {
        drained.abort();
        drop(reader);
        nodes.push((node, child));
    }
    let (_, mut lost) = nodes.remove(leader);
    lost.kill().await.unwrap();
    for _ in 0..3 {
        for (node, _) in &nodes {
            append(node).await;
        }
    }
    for (_, child) in &mut nodes {
        signal(child.id().expect("it runs"), &["TERM"]);
        let status = ended(child).await;
        assert!(status.success(), "{status}");
    }
}

/// Reads a pipe until it is told to stop; the pipe's other readers are for the caller to drop.
fn drain(reader: PipeReader) -> tokio::task::JoinHandle<()> {
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 4096];
        while reader.readable().await.is_ok() {
            match reader.try_read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    })
}

/// `timeout` and some service managers signal a process and its group: two within microseconds are one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_come_together_are_one_stop() {
    let (mut node, _directory) = alone();
    node.environment.clear();
    for names in [&["TERM", "INT"][..], &["TERM", "TERM", "TERM"], &["HUP", "TERM"], &["HUP"]] {
        if names == ["HUP"] && ignores_hangups() {
            eprintln!("skipped: hangups are ignored here, as under nohup, and so by the nodes");
            continue;
        }
        let mut child = spawn(&node, Output::Fine, Output::Fine, &mut OpenEnds::default());
        serves(&node).await;
        signal(child.id().expect("it runs"), names);
        let status = ended(&mut child).await;
        assert!(status.success(), "{names:?}: {status}");
    }
}

/// `nohup` is a wish to outlive the terminal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_under_nohup_does_not_mind_a_hangup() {
    let (node, _directory) = alone();
    let mut command = Command::new("nohup");
    command.arg(binary()).args(node.arguments()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    serves(&node).await;
    signal(child.id().expect("it runs"), &["HUP"]);
    append(&node).await;
    signal(child.id().expect("it runs"), &["TERM"]);
    assert!(ended(&mut child).await.success());
}
