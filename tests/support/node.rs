//! One node of a test: a process of the program that is shipped. Whatever fails, fails the test.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use converge_ledger::cli::processes::{self, Process};
use tokio::process::Command;
use tonic::transport::{Channel, Endpoint};

use super::program::{binary, program};

/// A debug binary on a busy machine, with a log to replay.
pub const READY: Duration = Duration::from_secs(30);

pub fn free_address() -> String {
    processes::free_address().unwrap()
}

pub struct Node(Process);

impl Deref for Node {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.0
    }
}

impl Node {
    /// A node alone, its files below `root`; not started.
    pub fn new(root: &Path, id: u64) -> Self {
        let mut process = Process::new(root, id, free_address(), free_address());
        process.program = program().iter().map(Into::into).collect();
        Node(process)
    }

    pub fn spawn(&mut self) {
        assert!(!self.is_running(), "node {} runs already", self.id);
        self.0.spawn().unwrap();
    }

    /// Waits for the one line that says that the node serves.
    pub async fn ready(&mut self) {
        assert!(self.is_running(), "the node was spawned");
        if let Err(failure) = self.0.ready().await {
            panic!("{failure}\n{}", self.log_tail());
        }
    }

    pub async fn start(&mut self) {
        self.spawn();
        self.ready().await;
    }

    pub fn is_running(&self) -> bool {
        self.0.pid().is_some()
    }

    pub fn pid(&self) -> u32 {
        self.0.pid().expect("the node runs")
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self) {
        self.0.kill().await.unwrap();
    }

    /// SIGTERM, and the exit status.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal("TERM").await.unwrap();
        self.exit(deadline).await
    }

    /// Waits for a process that is expected to end by itself.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let ended = self.end(deadline).await;
        ended.unwrap_or_else(|| panic!("node {} still runs after {deadline:?}\n{}", self.id, self.log_tail()))
    }

    /// Everything that the node has logged, over all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Connects when it is first used, and again when the connection broke.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url())
            .unwrap()
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .connect_lazy()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// `converge-ledger status --output json`, or nothing when the node does not answer.
    pub async fn status(&self) -> Option<serde_json::Value> {
        let output = cli(&["status", "--endpoint", &self.url(), "--output", "json"]).await;
        if !output.status.success() {
            return None;
        }
        Some(serde_json::from_slice(&output.stdout).expect("status prints JSON"))
    }

    pub async fn is_leader(&self) -> bool {
        self.is_running() && self.status().await.is_some_and(|status| status["role"] == "leader")
    }
}

/// Runs a command of the binary to its end.
pub async fn cli(arguments: &[&str]) -> Output {
    let run = Command::new(binary()).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(READY, run).await {
        Ok(output) => output.unwrap(),
        Err(_) => panic!("{arguments:?} did not end within {READY:?}"),
    }
}
