//! After the last fault: writes go on, the nodes become equal, and everything that they hold is written down.

use std::path::Path;
use std::time::Duration;

use converge_lab::history::{End, Operation, State};
use converge_lab::workload::{Load, Record};
use converge_ledger::api::grpc::pb::admin::StatusResponse;
use converge_ledger::{NodeId, Position};
use tokio::time::{Instant, sleep, timeout};

use super::world::World;
use converge_ledger::cli::Failure;
use converge_ledger::cli::client::Client;
use converge_ledger::cli::processes::look::{are_level, digests_agree, read_all, statuses};

/// Each of the steps may take this long.
const SETTLE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
const PAGE_TIME: Duration = Duration::from_secs(20);
/// A panic is caught by its supervisor, and is a bug all the same.
const PANIC: &str = "panicked at";

/// What the run comes to is in the load's record afterwards.
pub(super) async fn settle(
    world: &mut World,
    client: &Client,
    load: Load,
    contexts: Vec<String>,
) -> Result<(), Failure> {
    let record = load.record.clone();
    // One more than there are clients: at least one of these appends began after the last fault.
    let enough = record.acknowledged() + load.clients() + 1;
    if within(async || (record.acknowledged() >= enough).then_some(()), world).await?.is_none() {
        record.trouble(format!("no appends are acknowledged within {} s after the last fault", SETTLE.as_secs()));
    }
    if timeout(SETTLE, load.finish()).await.is_err() {
        record.trouble(format!("clients still wait {} s after the last fault", SETTLE.as_secs()));
    }
    read_when_level(world, client, &record, &contexts).await
}

async fn read_when_level(
    world: &mut World,
    client: &Client,
    record: &Record,
    contexts: &[String],
) -> Result<(), Failure> {
    let mut settled = None;
    // What ended as unknown may still be on its way: nothing may come while the nodes are read.
    while settled.is_none() {
        let Some(level) = within(async || level(client).await, world).await? else {
            let now: Vec<String> = statuses(client).await.iter().map(shown).collect();
            record.trouble(format!("no convergence within {} s: {}", SETTLE.as_secs(), now.join("; ")));
            return Ok(());
        };
        if !digests_agree(&level) {
            let states: Vec<String> = level.iter().map(|node| format!("{} {}", node.node_id, node.digest)).collect();
            record.trouble(format!("nodes that applied the same differ: {}", states.join(", ")));
        }
        let states = match states(client, record, contexts).await {
            Ok(states) => states,
            Err(failure) => {
                record.trouble(format!("a node cannot be read in the end: {failure}"));
                return Ok(());
            }
        };
        let end = Position(level[0].last_position);
        let same = statuses(client).await.iter().all(|status| status.last_position == end.get());
        settled = same.then_some((states, end));
    }
    let (states, position) = settled.unwrap_or_default();
    states.into_iter().for_each(|state| record.add(Operation::State(state)));
    record.add(Operation::End(End { position }));
    Ok(())
}

/// What the nodes say, once all of them have applied the same, and there is nothing else in their logs.
async fn level(client: &Client) -> Option<Vec<StatusResponse>> {
    let statuses = statuses(client).await;
    let whole = statuses.iter().all(|status| status.last_index == status.commit_index);
    (whole && are_level(&statuses, client.nodes().len())).then_some(statuses)
}

/// Waits for it while the nodes are looked after; gives nothing where it does not come.
async fn within<T>(mut look: impl AsyncFnMut() -> Option<T>, world: &mut World) -> Result<Option<T>, Failure> {
    let until = Instant::now() + SETTLE;
    while Instant::now() < until {
        if let Some(found) = look().await {
            return Ok(Some(found));
        }
        world.look_after().await?;
        sleep(LOOK).await;
    }
    Ok(None)
}

fn shown(status: &StatusResponse) -> String {
    let StatusResponse { node_id, role, term, commit_index, applied_index, phase, alarms, .. } = status;
    format!("node {node_id} {role} term {term} commit {commit_index} applied {applied_index} {phase} {alarms:?}")
}

/// All that every node holds.
async fn states(client: &Client, record: &Record, contexts: &[String]) -> Result<Vec<State>, Failure> {
    let mut states = Vec::new();
    for (node, id) in client.nodes().iter().zip(1..) {
        for context in contexts {
            let entries = read_all(node, context, PAGE_TIME).await?;
            let entries = entries.iter().map(|entry| record.seen(context, entry)).collect();
            states.push(State { node: NodeId(id), context: context.clone(), entries });
        }
    }
    Ok(states)
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
