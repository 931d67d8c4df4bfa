//! Nodes as processes of an executable: this very one, unless another is named.
//!
//! Owns the processes: whoever drops a [`Cluster`] leaves none of them behind. Knows nothing of what is done to them
//! or asked of them, but for [`look`], which asks what they say about themselves.

mod directory;
pub mod look;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Failure;
pub use directory::Directory;

/// A start, replay included.
const READY: Duration = Duration::from_secs(60);
/// What was killed is gone within this time.
const GONE: Duration = Duration::from_secs(5);
/// Below the range from which systems take ports of outgoing connections: a port must stay free while its node is
/// down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Where a node lives.
#[derive(Clone, Debug)]
pub struct Site {
    pub id: u64,
    /// `host:port` for clients.
    pub grpc: String,
    /// `host:port` for the other nodes.
    pub peer: String,
    pub data: PathBuf,
    /// A program, and its arguments, that becomes the node: one that enters a namespace first.
    pub through: Vec<String>,
}

/// Sites on loopback, on ports that are free now.
pub fn on_loopback(directory: &Path, nodes: u64) -> Result<Vec<Site>, Failure> {
    let mut ports = free_ports(2 * nodes as usize)?.into_iter();
    let mut address = || format!("127.0.0.1:{}", ports.next().unwrap_or_default());
    let site = |id| {
        let data = directory.join(format!("node-{id}"));
        Site { id, grpc: address(), peer: address(), data, through: Vec::new() }
    };
    Ok((1..=nodes).map(site).collect())
}

/// Nodes that list each other.
pub struct Cluster {
    /// The program, and what stands before its arguments.
    program: Vec<OsString>,
    logs: PathBuf,
    peers: String,
    settings: Vec<(String, String)>,
    nodes: Vec<Process>,
}

struct Process {
    site: Site,
    child: Option<Child>,
}

impl Cluster {
    /// None of them runs yet. Their logs go to the directory.
    pub fn new(logs: &Path, sites: Vec<Site>) -> Self {
        let peers: Vec<String> = sites.iter().map(|site| format!("{}={}", site.id, site.peer)).collect();
        let nodes = sites.into_iter().map(|site| Process { site, child: None }).collect();
        Cluster { program: Vec::new(), logs: logs.to_owned(), peers: peers.join(","), settings: Vec::new(), nodes }
    }

    /// The program that becomes a node, and what stands before its arguments; this one's executable if there is none.
    #[must_use]
    pub fn program(mut self, words: Vec<OsString>) -> Self {
        self.program = words;
        self
    }

    /// A setting of all nodes, such as `raft.election_ms`.
    pub fn set(mut self, key: &str, value: u64) -> Self {
        let name = format!("CONVERGE_LEDGER__{}", key.replace('.', "__").to_uppercase());
        self.settings.push((name, value.to_string()));
        self
    }

    /// Starts all nodes and waits until each of them is ready.
    pub async fn start(&mut self) -> Result<(), Failure> {
        for id in self.ids() {
            self.spawn(id)?;
        }
        for id in self.ids() {
            self.ready(id).await?;
        }
        Ok(())
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.site.id).collect()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("http://{}", node.site.grpc)).collect()
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self, id: u64) -> Result<(), Failure> {
        let at = self.find(id)?;
        let Some(mut child) = self.nodes[at].child.take() else { return Ok(()) };
        child.kill().await.map_err(|error| Failure::error(format!("cannot kill node {id}: {error}")))
    }

    /// SIGKILL to several; returns when all of them are gone.
    pub async fn kill_at_once(&mut self, ids: &[u64]) -> Result<(), Failure> {
        for id in ids {
            let at = self.find(*id)?;
            if let Some(child) = &mut self.nodes[at].child {
                // One that is gone already needs none.
                let _ = child.start_kill();
            }
        }
        for id in ids {
            self.kill(*id).await?;
        }
        Ok(())
    }

    /// Sends a signal by name, such as `STOP`.
    pub async fn signal(&mut self, id: u64, signal: &str) -> Result<(), Failure> {
        let Some(pid) = self.pid(id)? else { return Ok(()) };
        let kill = Command::new("kill").args(["-s", signal, &pid.to_string()]).stderr(Stdio::null()).status().await;
        // It fails for one that is just gone: whoever looks at the processes sees that.
        kill.map(drop).map_err(|error| Failure::error(format!("cannot run `kill`: {error}; install it")))
    }

    /// Of its process, if it runs.
    pub fn pid(&self, id: u64) -> Result<Option<u32>, Failure> {
        Ok(self.nodes[self.find(id)?].child.as_ref().and_then(Child::id))
    }

    /// How a node ended that nobody killed; it is forgotten then.
    pub fn ended(&mut self, id: u64) -> Result<Option<ExitStatus>, Failure> {
        let at = self.find(id)?;
        let Some(child) = &mut self.nodes[at].child else { return Ok(None) };
        let ended = child.try_wait().map_err(|error| Failure::error(format!("cannot look at node {id}: {error}")))?;
        if ended.is_some() {
            self.nodes[at].child = None;
        }
        Ok(ended)
    }

    fn find(&self, id: u64) -> Result<usize, Failure> {
        let at = self.nodes.iter().position(|node| node.site.id == id);
        at.ok_or_else(|| Failure::error(format!("a node says that its id is {id}, which none has")))
    }

    fn log(&self, id: u64) -> PathBuf {
        self.logs.join(format!("node-{id}.log"))
    }

    /// The end of what a node logged.
    pub fn last_words(&self, id: u64) -> String {
        let log = std::fs::read(self.log(id)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Starts a node, anew on the same data, and does not wait for it.
    pub fn spawn(&mut self, id: u64) -> Result<(), Failure> {
        let log = OpenOptions::new().create(true).append(true).open(self.log(id));
        self.spawn_to(id, log.map(Stdio::from))
    }

    /// Likewise; the reader of its log is gone before it says anything.
    pub fn spawn_unread(&mut self, id: u64) -> Result<(), Failure> {
        self.spawn_to(id, std::io::pipe().map(|(_gone, log)| Stdio::from(log)))
    }

    fn spawn_to(&mut self, id: u64, log: std::io::Result<Stdio>) -> Result<(), Failure> {
        let at = self.find(id)?;
        let failed = |error: std::io::Error| Failure::error(format!("cannot start node {id}: {error}"));
        let log = log.map_err(failed)?;
        let node = &mut self.nodes[at];
        let program = match self.program.as_slice() {
            [] => vec![std::env::current_exe().map_err(failed)?.into_os_string()],
            words => words.to_vec(),
        };
        let words: Vec<OsString> = node.site.through.iter().map(OsString::from).chain(program).collect();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["start", "--node-id", &id.to_string(), "--peers", &self.peers])
            .args(["--grpc", &node.site.grpc, "--peer", &node.site.peer, "--data-dir"])
            .arg(&node.site.data)
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
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        node.child = Some(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// Waits for the one line that says that a node serves.
    pub async fn ready(&mut self, id: u64) -> Result<(), Failure> {
        let at = self.find(id)?;
        let stdout = self.nodes[at].child.as_mut().and_then(|child| child.stdout.take());
        let Some(stdout) = stdout else { return Ok(()) };
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        match timeout(READY, reader.read_line(&mut line)).await {
            Ok(Ok(1..)) => Ok(()),
            _ => Err(Failure::error(format!("node {id} did not start: {}", self.last_words(id)))),
        }
    }
}

impl Drop for Cluster {
    /// Returns when the processes are gone, so that what they wrote to can be removed.
    fn drop(&mut self) {
        let mut children: Vec<Child> = self.nodes.iter_mut().filter_map(|node| node.child.take()).collect();
        for child in &mut children {
            let _ = child.start_kill();
        }
        let until = Instant::now() + GONE;
        while children.iter_mut().any(|child| matches!(child.try_wait(), Ok(None))) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
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
