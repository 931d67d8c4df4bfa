//! Reads what strace recorded of a node, and holds that bytes were durable before they were answered.
//!
//! Every append carries a marker in its payload. A marker is durable on a node when a file of the
//! data directory was written with it and a sync of the same file that began after the write has
//! returned 0. A reply is a write to a client's socket that carries the marker. Deliberately does
//! not know what a journal looks like.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::node::Node;
use super::until;

/// Begins a marker; six digits follow.
pub const MARKER: &str = "marker-";
const DIGITS: usize = 6;
/// Of each buffer strace shows this much: more than a record of the test's appends.
const SHOWN_BYTES: &str = "16384";
/// For strace to write its last lines.
const WRITTEN: Duration = Duration::from_secs(20);

/// Whether strace can be used; says why not on the real standard error, which no harness captures.
#[allow(clippy::explicit_write)]
pub fn can_trace(test: &str) -> bool {
    let run = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stdin(Stdio::null()).output();
    let reason = match run {
        Ok(output) if output.status.success() => return true,
        Ok(output) => format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => format!("strace cannot be run: {error}"),
    };
    writeln!(std::io::stderr(), "skipped: {test}: {reason}").unwrap();
    false
}

pub fn marker(number: u32) -> String {
    format!("{MARKER}{number:0DIGITS$}")
}

/// What has to be recorded for the check.
pub const CALLS: &str = "pwrite64,pwritev,pwritev2,write,writev,sendto,sendmsg,sendmmsg,fdatasync,fsync,msync";

/// Arguments that make strace record a command: with the command as its child's process, so that
/// killing the process that was spawned kills the node.
pub fn wrapper(output: &str) -> Vec<String> {
    let trace = format!("trace={CALLS}");
    ["strace", "-D", "-f", "-ttt", "-T", "-yy", "-s", SHOWN_BYTES, "-e", &trace, "-o", output]
        .map(str::to_owned)
        .to_vec()
}

/// One system call. Times are microseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemCall {
    pub name: String,
    /// What the descriptor stands for: a path, or `TCP:[from->to]`.
    pub target: String,
    /// Those that stand in the call's buffers.
    pub markers: Vec<u32>,
    pub result: i64,
    pub begin_us: u64,
    pub end_us: u64,
}

impl SystemCall {
    fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fdatasync" | "fsync")
    }

    fn writes(&self, marker: u32) -> bool {
        !self.is_sync() && self.result > 0 && self.markers.contains(&marker)
    }
}

/// Parses a whole trace. Calls that never returned are left out; lines that are no calls too.
pub fn parse(text: &str) -> Vec<SystemCall> {
    let mut calls = Vec::new();
    let mut unfinished: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, begin_us, rest)) = head(line) else { continue };
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (begin_us, start.trim_end().to_owned()));
        } else if rest.starts_with("<... ") {
            let Some((_, tail)) = rest.split_once(" resumed>") else { continue };
            let Some((begin, start)) = unfinished.remove(thread) else { continue };
            calls.extend(call(&format!("{start}{tail}"), begin, Some(begin_us)));
        } else {
            calls.extend(call(rest, begin_us, None));
        }
    }
    calls
}

/// `thread seconds.micros rest`
fn head(line: &str) -> Option<(&str, u64, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (time, rest) = rest.trim_start().split_once(' ')?;
    let (seconds, micros) = time.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    Some((thread, seconds * 1_000_000 + micros.parse::<u64>().ok()?, rest))
}

/// `name(fd<target>, arguments) = result <seconds>`; the end is given where the call was resumed.
fn call(text: &str, begin_us: u64, end_us: Option<u64>) -> Option<SystemCall> {
    let (name, rest) = text.split_once('(')?;
    let (before, after) = rest.rsplit_once(") = ").or_else(|| {
        // strace pads short calls to a column: `fdatasync(3</x>)    = 0`.
        let (before, after) = rest.rsplit_once(" = ")?;
        Some((before.trim_end().strip_suffix(')')?, after))
    })?;
    let result = after.split_whitespace().next()?.parse().ok()?;
    let end_us = match end_us {
        Some(end) => end,
        None => begin_us + micros(after.rsplit_once('<')?.1.strip_suffix('>')?)?,
    };
    let (descriptor, arguments) = match before.split_once(", ") {
        Some((descriptor, arguments)) => (descriptor, arguments),
        None => (before, ""),
    };
    let target = descriptor.split_once('<').map_or("", |(_, target)| target.strip_suffix('>').unwrap_or(target));
    Some(SystemCall {
        name: name.to_owned(),
        target: target.to_owned(),
        markers: markers(arguments),
        result,
        begin_us,
        end_us,
    })
}

fn markers(arguments: &str) -> Vec<u32> {
    let digits = |(at, _)| arguments.get(at + MARKER.len()..at + MARKER.len() + DIGITS)?.parse().ok();
    arguments.match_indices(MARKER).filter_map(digits).collect()
}

fn micros(seconds: &str) -> Option<u64> {
    let (whole, part) = seconds.split_once('.')?;
    Some(whole.parse::<u64>().ok()? * 1_000_000 + part.parse::<u64>().ok()?)
}

/// What one node did.
pub struct Recorded {
    pub calls: Vec<SystemCall>,
    /// Files below it count as storage.
    pub data: String,
    /// Sockets of this local port are clients'.
    pub grpc_port: u16,
}

impl Recorded {
    /// Kills a node and reads what was recorded of it.
    pub async fn of(node: &mut Node, trace: &str) -> Recorded {
        let end = format!("{} ", node.pid());
        node.kill().await;
        let text = until("strace has written that the node ended", WRITTEN, || async {
            let text = std::fs::read_to_string(trace).unwrap();
            let ended = |line: &str| line.starts_with(&end) && line.contains("+++ killed by");
            text.lines().rev().take(64).any(ended).then_some(text)
        })
        .await;
        Recorded {
            calls: parse(&text),
            data: node.data.canonicalize().unwrap().display().to_string(),
            grpc_port: node.grpc.rsplit_once(':').unwrap().1.parse().unwrap(),
        }
    }

    /// When the marker was durable here for the first time.
    fn durable_us(&self, marker: u32) -> Option<u64> {
        let written = self.calls.iter().filter(|call| call.target.starts_with(&self.data) && call.writes(marker));
        let synced = written.filter_map(|write| {
            let after = |sync: &&SystemCall| {
                sync.is_sync() && sync.target == write.target && sync.begin_us >= write.end_us && sync.result == 0
            };
            self.calls.iter().filter(after).map(|sync| sync.end_us).min()
        });
        synced.min()
    }

    /// When a client was first told of the marker.
    fn replied_us(&self, marker: u32) -> Option<u64> {
        let client = format!("TCP:[127.0.0.1:{}->", self.grpc_port);
        let replies = self.calls.iter().filter(|call| call.target.starts_with(&client) && call.writes(marker));
        replies.map(|call| call.begin_us).min()
    }

    pub fn syncs(&self) -> usize {
        self.calls
            .iter()
            .filter(|call| call.is_sync() && call.target.starts_with(&self.data) && call.result == 0)
            .count()
    }
}

/// Holds that each marker was durable on `quorum` nodes before the first reply that carries it.
/// Gives what was violated; nothing, when all is well.
pub fn violations(nodes: &[Recorded], markers: &[u32], quorum: usize) -> Vec<String> {
    let mut found = Vec::new();
    if nodes.iter().all(|node| node.syncs() == 0) {
        found.push("no file of a data directory was ever synced".to_owned());
    }
    for &marker in markers {
        let Some(replied) = nodes.iter().filter_map(|node| node.replied_us(marker)).min() else {
            found.push(format!("marker {marker}: no reply was recorded"));
            continue;
        };
        let mut durable: Vec<u64> = nodes.iter().filter_map(|node| node.durable_us(marker)).collect();
        durable.sort_unstable();
        match durable.get(quorum - 1) {
            None => found.push(format!("marker {marker}: durable on {} nodes, not {quorum}", durable.len())),
            Some(durable) if *durable > replied => {
                found.push(format!(
                    "marker {marker}: the reply began {} us before it was durable on {quorum}",
                    durable - replied
                ));
            }
            Some(_) => {}
        }
    }
    found
}
