//! Loads a snapshot of empty entries while four clients append, and says what that costs them.
//!
//! ```text
//! cargo run --release --example load_beside -- [ENTRIES]
//! ```
//!
//! Two loads: a quarter of the entries, then all. Linear means that the second takes about four times as long.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use converge_ledger::config::Config;
use converge_ledger::{AppendOptions, Entry, EntryId, Ledger, NewEntry, Node, Position, Sequence};
use converge_ledger_core::{Lamport, snapshot};
use tokio::task::JoinSet;

const ENTRIES: u64 = 1_000_000;
const CLIENTS: usize = 4;
const QUIET: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(600);

fn blob(count: u64) -> Bytes {
    let mut packer = snapshot::Packer::new("original", usize::MAX);
    for n in 1..=count {
        let entry = Entry {
            context_id: "original".to_owned(),
            key: String::new(),
            payload: Bytes::new(),
            metadata: BTreeMap::new(),
            id: EntryId(u128::from(n).to_be_bytes()),
            sequence: Sequence(n),
            position: Position(0),
            appended_at_ns: n,
            lamport: Lamport(n),
        };
        packer.push(&entry).expect("no limit was given");
    }
    packer.finish(1).into()
}

async fn client(ledger: Ledger, number: usize, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut times = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let context_id = format!("client {number}");
        let entry = NewEntry { context_id, payload: Bytes::from_static(&[7; 256]), ..NewEntry::default() };
        let start = Instant::now();
        ledger.append(entry, AppendOptions::default()).await.expect("an append beside a load");
        times.push(start.elapsed());
    }
    times
}

/// Runs `work` beside the clients, and says how they fared.
async fn beside<T>(ledger: &Ledger, what: &str, work: impl Future<Output = T>) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(ledger.clone(), number, over.clone()));
    }
    let (start, log) = (Instant::now(), ledger.status().applied_index);
    let done = work.await;
    let took = start.elapsed();
    over.store(true, Ordering::Relaxed);
    let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 1000];
    let log = ledger.status().applied_index - log;
    println!(
        "{what}: {:.2} s, {log} log entries, {:.0} appends/s, p50 {:.1?}, p99 {:.1?}, most {:.1?}, peak memory {}",
        took.as_secs_f64(),
        times.len() as f64 / took.as_secs_f64(),
        at(500),
        at(990),
        at(1000),
        peak(),
    );
    done
}

/// The most memory that this process had, as the system counts it.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(str::trim);
    line.unwrap_or("unknown").to_owned()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let entries = std::env::args().nth(1).map_or(Ok(ENTRIES), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let mut config = Config::default();
    config.node.data_dir = directory.path().join("data");
    config.listen.grpc = "off".into();
    let node = Node::start(config).await?;
    let ledger = node.ledger();
    beside(&ledger, "quiet", tokio::time::sleep(QUIET)).await;
    for count in [entries / 4, entries] {
        let (blob, context) = (blob(count), format!("copy of {count}"));
        let load = ledger.load(&context, blob, true, Some(DEADLINE));
        let loaded = beside(&ledger, &format!("load of {count}"), load).await?;
        assert_eq!(loaded.entries_restored, count);
    }
    node.stop(Duration::from_secs(30)).await?;
    Ok(())
}
