//! Three nodes as processes of this executable, in a directory of their own.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::RngExt as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Failure;

const NODES: u64 = 3;
/// A start, replay included.
const READY: Duration = Duration::from_secs(60);
/// Below the range from which systems take ports of outgoing connections: a port must stay free while its node is
/// down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

pub(super) struct Cluster {
    directory: Directory,
    peers: String,
    nodes: Vec<Process>,
}

struct Process {
    id: u64,
    grpc: String,
    peer: String,
    child: Option<Child>,
}

/// Removed with the demo, unless it is the user's.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Directory {
    fn new(keep: Option<PathBuf>) -> Result<Self, Failure> {
        let directory = match keep {
            Some(path) => Directory { path, keep: true },
            None => {
                let name = format!("converge-ledger-demo-{:08x}", rand::random::<u32>());
                Directory { path: std::env::temp_dir().join(name), keep: false }
            }
        };
        let path = &directory.path;
        let failed = |why: String| Failure::error(format!("{}: {why}; name another one with --keep", path.display()));
        std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
        let mut files = std::fs::read_dir(path).map_err(|error| failed(error.to_string()))?;
        if files.next().is_some() {
            let failure = failed("the directory is not empty".into());
            std::mem::forget(directory);
            return Err(failure);
        }
        Ok(directory)
    }
}

impl Cluster {
    /// Starts all nodes and waits until each of them is ready.
    pub(super) async fn start(keep: Option<PathBuf>) -> Result<Self, Failure> {
        let directory = Directory::new(keep)?;
        let mut ports = free_ports(2 * NODES as usize)?.into_iter();
        let mut address = || format!("127.0.0.1:{}", ports.next().unwrap_or_default());
        let nodes: Vec<Process> =
            (1..=NODES).map(|id| Process { id, grpc: address(), peer: address(), child: None }).collect();
        let peers: Vec<String> = nodes.iter().map(|node| format!("{}={}", node.id, node.peer)).collect();
        let mut cluster = Cluster { directory, peers: peers.join(","), nodes };
        for at in 0..cluster.nodes.len() {
            cluster.spawn(at)?;
        }
        for at in 0..cluster.nodes.len() {
            cluster.ready(at).await?;
        }
        Ok(cluster)
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("http://{}", node.grpc)).collect()
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// SIGKILL; returns when the process is gone.
    pub(super) async fn kill(&mut self, id: u64) -> Result<(), Failure> {
        let at = self.find(id)?;
        let Some(mut child) = self.nodes[at].child.take() else { return Ok(()) };
        child.kill().await.map_err(|error| Failure::error(format!("cannot kill node {id}: {error}")))
    }

    /// The same node again, on the same data.
    pub(super) async fn restart(&mut self, id: u64) -> Result<(), Failure> {
        let at = self.find(id)?;
        self.spawn(at)?;
        self.ready(at).await
    }

    /// Ends all nodes and removes their data, unless it is to be kept.
    pub(super) async fn remove(mut self) -> Result<(), Failure> {
        for id in 1..=NODES {
            self.kill(id).await?;
        }
        Ok(())
    }

    fn find(&self, id: u64) -> Result<usize, Failure> {
        let at = self.nodes.iter().position(|node| node.id == id);
        at.ok_or_else(|| Failure::error(format!("a node says that its id is {id}, which none has")))
    }

    fn log(&self, id: u64) -> PathBuf {
        self.directory.path.join(format!("node-{id}.log"))
    }

    fn spawn(&mut self, at: usize) -> Result<(), Failure> {
        let id = self.nodes[at].id;
        let failed = |error: std::io::Error| Failure::error(format!("cannot start node {id}: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let log = OpenOptions::new().create(true).append(true).open(self.log(id)).map_err(failed)?;
        let node = &mut self.nodes[at];
        let mut command = Command::new(program);
        command
            .args(["start", "--node-id", &id.to_string(), "--peers", &self.peers])
            .args(["--grpc", &node.grpc, "--peer", &node.peer, "--data-dir"])
            .arg(self.directory.path.join(format!("node-{id}")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        // Settings of the user's own node are not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CONVERGE_LEDGER_") {
                command.env_remove(name);
            }
        }
        node.child = Some(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// Waits for the one line that says that a node serves.
    async fn ready(&mut self, at: usize) -> Result<(), Failure> {
        let log = self.log(self.nodes[at].id);
        let node = &mut self.nodes[at];
        let stdout = node.child.as_mut().and_then(|child| child.stdout.take());
        let Some(stdout) = stdout else { return Ok(()) };
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        match timeout(READY, reader.read_line(&mut line)).await {
            Ok(Ok(1..)) => Ok(()),
            _ => {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it said nothing").to_owned();
                Err(Failure::error(format!("node {} did not start: {last}", node.id)))
            }
        }
    }
}

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> Result<BTreeSet<u16>, Failure> {
    let mut ports = BTreeSet::new();
    for _ in 0..1000 {
        let port = rand::rng().random_range(PORTS);
        if ports.len() < count && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.insert(port);
        }
    }
    match ports.len() == count {
        true => Ok(ports),
        false => Err(Failure::error(format!("no free ports between {} and {} on loopback", PORTS.start, PORTS.end))),
    }
}
