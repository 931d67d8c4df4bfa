//! A crowd at one node: clients that take places and memory, and give nothing back.
//!
//! Connections on which nothing is ever sent, more than a node takes, and watches of large entries that nobody reads.
//! A node may close them whenever it likes; what it must not do is turn others away, or hold more than its budget.

use std::time::Duration;

use converge_lab::history::{self, Done, Operation, Outcome};
use converge_lab::workload::{self, Record};
use converge_ledger::api::grpc::pb::context::{WatchEvent, WatchRequest};
use converge_ledger::{Config, Position, Sequence};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Request, Streaming};

use converge_ledger::cli::Failure;
use converge_ledger::cli::client::{Appended, Client};

/// Of the crowd alone, beside the clients' own.
pub(super) const CONTEXT: &str = "crowd";
/// Each of them the largest that there is.
const ENTRIES: u64 = 2;
/// The rest of such a payload, at least.
const BESIDE_PADDING: u64 = 64;
/// On one connection.
const WATCHES: usize = 200;
/// Who wrote them, in the history; the clients count from 1.
const WRITER: u64 = 0;
/// More connections than a node takes by default.
const MORE: u32 = 50;
/// A node that is down or paused gets no crowd.
const GATHERS: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(10);
/// A node never takes more than this, with the budget of its answers in full use: it holds 200 MiB of them by default,
/// and a watch that is not charged would hold one entry and its encoding.
const MEMORY_KIB_MAX: u64 = 640 << 10;

/// See the module. Goes when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    #[allow(dead_code, reason = "held for its drop")]
    silent: Vec<TcpStream>,
    #[allow(dead_code, reason = "held for its drop")]
    unread: Vec<Streaming<WatchEvent>>,
}

/// Writes what a crowd watches.
pub(super) async fn prepare(client: &Client, record: &Record) -> Result<(), Failure> {
    for number in 1..=ENTRIES {
        let (start, value) = (record.now(), format!("{CONTEXT}-{number}"));
        let done = append(client, &value, Config::default().limits.payload_bytes).await?;
        record.add(Operation::Append(history::Append {
            client: WRITER,
            start,
            end: Some(record.now()),
            context: CONTEXT.into(),
            idempotency_key: Some(value.clone()),
            value,
            expected: None,
            behind: None,
            outcome: Outcome::Done(Done {
                sequence: Sequence(done.entry.sequence),
                position: Some(Position(done.position)),
                deduplicated: done.deduplicated,
            }),
        }));
    }
    Ok(())
}

async fn append(client: &Client, value: &str, bytes: u64) -> Result<Appended, Failure> {
    let padding = usize::try_from(bytes.saturating_sub(BESIDE_PADDING)).unwrap_or_default();
    client.append(&workload::request(workload::entry(CONTEXT, value, padding)), value, None).await
}

impl Crowd {
    /// As much of one as comes together in time.
    pub(super) async fn gather(endpoint: &str) -> Crowd {
        let mut crowd = Crowd::default();
        let _ = timeout(GATHERS, crowd.join(endpoint)).await;
        crowd
    }

    /// Until the first that is not let in.
    async fn join(&mut self, endpoint: &str) {
        let Ok(client) = Client::new(&[endpoint.to_owned()], CALL) else { return };
        let mut context = client.preferred().context.clone();
        for _ in 0..WATCHES {
            let request = WatchRequest { context_id: CONTEXT.into(), ..Default::default() };
            let Ok(watch) = context.watch(Request::new(request)).await else { return };
            self.unread.push(watch.into_inner());
        }
        let address = endpoint.trim_start_matches("http://");
        for _ in 0..Config::default().grpc.connections + MORE {
            let Ok(silent) = TcpStream::connect(address).await else { return };
            self.silent.push(silent);
        }
    }
}

/// What is wrong with a node, all of whose places a crowd has taken: somebody new must be served, in bounded memory.
pub(super) async fn trouble(endpoint: &str, pid: u32) -> Option<String> {
    let crowd = Crowd::gather(endpoint).await;
    let (silent, unread) = (crowd.silent.len(), crowd.unread.len());
    let beside = format!("beside {silent} silent connections and {unread} unread watches");
    let served = match Client::new(&[endpoint.to_owned()], CALL) {
        Ok(client) => append(&client, &format!("{CONTEXT}-{pid}"), 0).await.map(drop),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = served {
        return Some(format!("somebody new is not served {beside}: {failure}"));
    }
    let Some(kib) = memory_kib(pid) else {
        return cfg!(target_os = "linux").then(|| format!("nobody can say what it took of memory {beside}"));
    };
    (kib > MEMORY_KIB_MAX).then(|| format!("it took {kib} KiB of memory {beside}, more than {MEMORY_KIB_MAX}"))
}

/// The most that a process ever had in memory.
fn memory_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim_end_matches("kB").trim().parse().ok()
}
