//! One node: a process on a data directory, with the same addresses over restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rand::RngExt as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use super::program::{binary, program};

/// A debug binary on a busy machine, with a log to replay.
pub const READY: Duration = Duration::from_secs(30);

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that is free and stays so while its node is down: below the range that the kernel gives
/// to outgoing connections, and given out once per test process.
pub fn free_port() -> u16 {
    for _ in 0..1000 {
        let port = rand::rng().random_range(20_000..32_000);
        let mut taken = TAKEN.lock().unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && taken.insert(port) {
            return port;
        }
    }
    panic!("no free port between 20000 and 32000");
}

pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// `1=address,2=address,…` as `--peers` takes it.
pub fn peers(addresses: &BTreeMap<u64, String>) -> String {
    let list: Vec<String> = addresses.iter().map(|(id, address)| format!("{id}={address}")).collect();
    list.join(",")
}

pub struct Node {
    pub id: u64,
    pub grpc: String,
    pub peer: String,
    pub peers: Option<String>,
    pub data: PathBuf,
    pub log: PathBuf,
    pub environment: BTreeMap<String, String>,
    /// A program and arguments in front of the binary, such as strace.
    pub wrapper: Vec<String>,
    pub ready_line: String,
    child: Option<Child>,
}

impl Node {
    /// A node alone, its files below `root`; not started.
    pub fn new(root: &Path, id: u64) -> Self {
        Self {
            id,
            grpc: free_address(),
            peer: free_address(),
            peers: None,
            data: root.join(format!("data{id}")),
            log: root.join(format!("node{id}.log")),
            environment: BTreeMap::new(),
            wrapper: Vec::new(),
            ready_line: String::new(),
            child: None,
        }
    }

    pub fn set(&mut self, key: &str, value: impl ToString) {
        let name = format!("CONVERGE_LEDGER__{}", key.replace('.', "__").to_uppercase());
        self.environment.insert(name, value.to_string());
    }

    fn arguments(&self) -> Vec<String> {
        let mut list = vec!["start".to_owned(), "--node-id".to_owned(), self.id.to_string()];
        list.extend(["--data-dir".to_owned(), self.data.display().to_string()]);
        list.extend(["--grpc".to_owned(), self.grpc.clone(), "--peer".to_owned(), self.peer.clone()]);
        if let Some(peers) = &self.peers {
            list.extend(["--peers".to_owned(), peers.clone()]);
        }
        list
    }

    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut words = self.wrapper.clone();
        words.extend_from_slice(program());
        words.extend(self.arguments());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Waits for the one line that says that the node serves.
    pub async fn ready(&mut self) {
        let child = self.child.as_mut().expect("the node was spawned");
        let mut lines = BufReader::new(child.stdout.take().expect("ready is awaited once")).lines();
        let line = tokio::time::timeout(READY, lines.next_line()).await;
        // Whatever else the node prints must find a reader.
        let rest = lines.into_inner();
        tokio::spawn(async move {
            let mut rest = rest;
            let _ = tokio::io::copy_buf(&mut rest, &mut tokio::io::sink()).await;
        });
        match line {
            Ok(Ok(Some(line))) => self.ready_line = line,
            other => panic!("node {} printed no ready line: {other:?}\n{}", self.id, self.log_tail()),
        }
    }

    pub async fn start(&mut self) {
        self.spawn();
        self.ready().await;
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("the node runs")
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// SIGTERM, and the exit status.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        self.exit(deadline).await
    }

    /// Waits for a process that is expected to end by itself.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the node was spawned");
        match tokio::time::timeout(deadline, child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("node {} still runs after {deadline:?}\n{}", self.id, self.log_tail()),
        }
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
