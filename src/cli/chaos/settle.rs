//! After the last fault: writes go on, the nodes become equal, and everything that they hold is written down.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use converge_ledger::api::grpc::pb::admin::StatusResponse;
use converge_ledger::history::{End, Operation, State};
use converge_ledger::{NodeId, Position};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::Failure;
use super::super::client::Client;
use super::super::processes::look::{are_level, digests_agree, read_all, statuses};
use super::clients::{contexts, seen};
use super::record::Record;
use super::world::World;

/// Each of the steps may take this long.
const SETTLE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
const PAGE_TIME: Duration = Duration::from_secs(20);
/// A panic is caught by its supervisor, and is a bug all the same.
const PANIC: &str = "panicked at";

/// What the run comes to is in the record afterwards.
pub(super) async fn settle(
    world: &mut World,
    client: &Client,
    workers: &mut JoinSet<()>,
    record: &Arc<Record>,
) -> Result<(), Failure> {
    // One more than there are clients: at least one of these appends began after the last fault.
    let enough = record.acknowledged() + workers.len() as u64 + 1;
    if !within(async || record.acknowledged() >= enough, world).await? {
        record.trouble(format!("no appends are acknowledged within {} s after the last fault", SETTLE.as_secs()));
    }
    record.end();
    let finished = async {
        while let Some(worker) = workers.join_next().await {
            worker.map_err(|error| Failure::error(format!("a client failed: {error}")))?;
        }
        Ok(())
    };
    match timeout(SETTLE, finished).await {
        Ok(finished) => finished?,
        Err(_) => record.trouble(format!("clients still wait {} s after the last fault", SETTLE.as_secs())),
    }
    workers.abort_all();
    let nodes = client.nodes().len();
    if !within(async || are_level(&statuses(client).await, nodes), world).await? {
        let now: Vec<String> = statuses(client).await.iter().map(shown).collect();
        record.trouble(format!("no convergence within {} s: {}", SETTLE.as_secs(), now.join("; ")));
        return Ok(());
    }
    let statuses = statuses(client).await;
    if !digests_agree(&statuses) {
        let states: Vec<String> =
            statuses.iter().map(|status| format!("{} {}", status.node_id, status.digest)).collect();
        record.trouble(format!("nodes that applied the same differ: {}", states.join(", ")));
    }
    states(client, &statuses, record).await
}

/// Waits for it while the nodes are looked after.
async fn within(mut holds: impl AsyncFnMut() -> bool, world: &mut World) -> Result<bool, Failure> {
    let look = async {
        while !holds().await {
            world.look_after().await?;
            sleep(LOOK).await;
        }
        Ok(())
    };
    match timeout(SETTLE, look).await {
        Ok(done) => done.map(|()| true),
        Err(_) => Ok(false),
    }
}

fn shown(status: &StatusResponse) -> String {
    let StatusResponse { node_id, role, term, commit_index, applied_index, phase, alarms, .. } = status;
    format!("node {node_id} {role} term {term} commit {commit_index} applied {applied_index} {phase} {alarms:?}")
}

/// All that every node holds, and how much that is.
async fn states(client: &Client, statuses: &[StatusResponse], record: &Record) -> Result<(), Failure> {
    let last = statuses.first().map_or(0, |status| status.last_position);
    for (node, id) in client.nodes().iter().zip(1..) {
        for context in contexts() {
            let entries = read_all(node, &context, PAGE_TIME).await?;
            let entries = entries.iter().map(seen).collect();
            record.add(Operation::State(State { node: NodeId(id), context, entries }));
        }
    }
    record.add(Operation::End(End { position: Position(last) }));
    Ok(())
}

/// Panics that the nodes logged.
pub(super) fn panics(logs: &Path, nodes: u64, record: &Record) {
    for id in 1..=nodes {
        let log = std::fs::read(logs.join(format!("node-{id}.log"))).unwrap_or_default();
        for line in String::from_utf8_lossy(&log).lines().filter(|line| line.contains(PANIC)) {
            record.trouble(format!("node {id}: {line}"));
        }
    }
}
