//! Nodes as processes of an executable: this very one, unless another is named.
//!
//! Owns the processes: whoever drops a [`Process`] leaves none behind. Knows nothing of what is done to them
//! or asked of them, but for [`look`], which asks what they say about themselves.

mod directory;
pub mod look;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
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

/// One node's process, with the same data and addresses over its restarts.
pub struct Process {
    pub id: u64,
    /// `host:port` for clients.
    pub grpc: String,
    /// `host:port` for the other nodes.
    pub peer: String,
    /// All voters, as `--peers` has them; none for a node alone.
    pub peers: Option<String>,
    pub data: PathBuf,
    pub log: PathBuf,
    /// Its settings among them.
    pub environment: BTreeMap<String, String>,
    /// The program, and what stands before its arguments; this one's executable if there is none.
    pub program: Vec<OsString>,
    /// A program, and its arguments, that becomes the node: one that enters a namespace first.
    pub through: Vec<String>,
    /// The one line that says that it serves.
    pub ready_line: String,
    child: Option<Child>,
}

impl Process {
    /// One that does not run yet, its files below the directory.
    pub fn new(directory: &Path, id: u64, grpc: String, peer: String) -> Process {
        Process {
            id,
            grpc,
            peer,
            peers: None,
            data: directory.join(format!("node-{id}")),
            log: directory.join(format!("node-{id}.log")),
            environment: BTreeMap::new(),
            program: Vec::new(),
            through: Vec::new(),
            ready_line: String::new(),
            child: None,
        }
    }

    /// A setting, such as `raft.election_ms`.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        let name = format!("CONVERGE_LEDGER__{}", key.replace('.', "__").to_uppercase());
        self.environment.insert(name, value.to_string());
    }

    /// Of the command that it is.
    pub fn arguments(&self) -> Vec<OsString> {
        let id = self.id.to_string();
        let words = ["start", "--node-id", &id, "--grpc", &self.grpc, "--peer", &self.peer, "--data-dir"];
        let peers = self.peers.iter().flat_map(|peers| ["--peers", peers]);
        let words = words.map(OsString::from).into_iter().chain([self.data.clone().into()]);
        words.chain(peers.map(OsString::from)).collect()
    }

    /// Starts it, anew on the same data, and does not wait for it.
    pub fn spawn(&mut self) -> Result<(), Failure> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        self.spawn_to(log.map(Stdio::from))
    }

    /// Likewise; the reader of its log is gone before it says anything.
    pub fn spawn_unread(&mut self) -> Result<(), Failure> {
        self.spawn_to(std::io::pipe().map(|(_gone, log)| Stdio::from(log)))
    }

    fn spawn_to(&mut self, log: std::io::Result<Stdio>) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::error(format!("cannot start node {}: {error}", self.id));
        let program = match self.program.as_slice() {
            [] => vec![std::env::current_exe().map_err(failed)?.into_os_string()],
            words => words.to_vec(),
        };
        let words: Vec<OsString> = self.through.iter().map(OsString::from).chain(program).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(self.arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        // Settings of the user's own node are not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CONVERGE_LEDGER_") {
                command.env_remove(name);
            }
        }
        command.envs(&self.environment).stderr(log.map_err(failed)?);
        self.child = Some(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// Waits for the one line that says that it serves.
    pub async fn ready(&mut self) -> Result<(), Failure> {
        let stdout = self.child.as_mut().and_then(|child| child.stdout.take());
        let Some(stdout) = stdout else { return Ok(()) };
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        match timeout(READY, reader.read_line(&mut line)).await {
            Ok(Ok(1..)) => line.trim_end().clone_into(&mut self.ready_line),
            _ => return Err(Failure::error(format!("node {} did not start: {}", self.id, self.last_words()))),
        }
        // Whatever else it prints finds a reader.
        tokio::spawn(async move { tokio::io::copy_buf(&mut reader, &mut tokio::io::sink()).await });
        Ok(())
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().await.map_err(|error| Failure::error(format!("cannot kill node {}: {error}", self.id)))
    }

    /// Sends a signal by name, such as `STOP`.
    pub async fn signal(&self, signal: &str) -> Result<(), Failure> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let kill = Command::new("kill").args(["-s", signal, &pid.to_string()]).stderr(Stdio::null()).status().await;
        // It fails for one that is just gone: whoever looks at the processes sees that.
        kill.map(drop).map_err(|error| Failure::error(format!("cannot run `kill`: {error}; install it")))
    }

    /// If it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// How it ended, where nobody killed it; it is forgotten then.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let failed = |error| Failure::error(format!("cannot look at node {}: {error}", self.id));
        let ended = child.try_wait().map_err(failed)?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
    }

    /// Waits until it has ended by itself, for so long at most.
    pub async fn end(&mut self, within: Duration) -> Option<ExitStatus> {
        let ended = timeout(within, self.child.as_mut()?.wait()).await.ok()?.ok()?;
        self.child = None;
        Some(ended)
    }

    /// The end of what it logged.
    pub fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().last().unwrap_or("it said nothing").to_owned()
    }

    fn start_kill(&mut self) {
        if let Some(child) = &mut self.child {
            // One that is gone already needs none.
            let _ = child.start_kill();
        }
    }
}

impl Drop for Process {
    /// Returns when it is gone, so that what it wrote to can be removed.
    fn drop(&mut self) {
        self.start_kill();
        let until = Instant::now() + GONE;
        while self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Nodes 1 to so many on loopback, at addresses that are free now.
pub fn on_loopback(directory: &Path, nodes: u64) -> Result<Vec<Process>, Failure> {
    (1..=nodes).map(|id| Ok(Process::new(directory, id, free_address()?, free_address()?))).collect()
}

/// Nodes that list each other.
pub struct Cluster {
    nodes: Vec<Process>,
}

impl Cluster {
    /// None of them runs yet.
    pub fn new(mut nodes: Vec<Process>) -> Self {
        let peers = peers(nodes.iter().map(|node| (node.id, node.peer.as_str())));
        nodes.iter_mut().for_each(|node| node.peers = Some(peers.clone()));
        Cluster { nodes }
    }

    /// Starts all nodes and waits until each of them is ready.
    pub async fn start(&mut self) -> Result<(), Failure> {
        self.nodes.iter_mut().try_for_each(Process::spawn)?;
        for node in &mut self.nodes {
            node.ready().await?;
        }
        Ok(())
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("http://{}", node.grpc)).collect()
    }

    /// SIGKILL to several; returns when all of them are gone.
    pub async fn kill_at_once(&mut self, ids: &[u64]) -> Result<(), Failure> {
        for id in ids {
            self.node(*id)?.start_kill();
        }
        for id in ids {
            self.node(*id)?.kill().await?;
        }
        Ok(())
    }

    /// The one with this id.
    pub fn node(&mut self, id: u64) -> Result<&mut Process, Failure> {
        let found = self.nodes.iter_mut().find(|node| node.id == id);
        found.ok_or_else(|| Failure::error(format!("a node says that its id is {id}, which none has")))
    }
}

impl Drop for Cluster {
    /// All of them at once; each is waited for then.
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Process::start_kill);
    }
}

/// `1=address,2=address,…`, as `--peers` takes it.
pub fn peers<'a>(addresses: impl Iterator<Item = (u64, &'a str)>) -> String {
    addresses.map(|(id, address)| format!("{id}={address}")).collect::<Vec<_>>().join(",")
}

/// An address on loopback where nobody listens now; each is given out once.
pub fn free_address() -> Result<String, Failure> {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1000 {
        let port = rand::rng().random_range(PORTS);
        let mut taken = TAKEN.lock().expect("nothing panics while it holds this lock");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && taken.insert(port) {
            return Ok(format!("127.0.0.1:{port}"));
        }
    }
    Err(Failure::error(format!("no free port between {} and {} on loopback", PORTS.start, PORTS.end)))
}
