//! Clients of real nodes, and what is judged of what they saw.
#![allow(unreachable_pub, dead_code, reason = "each test binary uses a part")]

use std::sync::Arc;
use std::time::Duration;

use converge_lab::history::{Counts, End, Operation, Seen, State};
use converge_lab::segments;
use converge_lab::workload::{Load, Mix, Record, Remote};
use converge_ledger::cli::client::Client;
use converge_ledger::cli::processes::look;
use converge_ledger::{NodeId, Position};

use crate::support::cluster::{Cluster, converged};
use crate::support::node::Node;

/// For a page, once nothing goes wrong any more.
const PAGE_TIME: Duration = Duration::from_secs(20);
/// For a stop in order.
const STOP: Duration = Duration::from_secs(30);

/// What clients want of nodes that die under them.
pub fn mix(contexts: u64) -> Mix {
    Mix { contexts, deadline_ms: (3_000, 3_000), read_one_in: 3, key_one_in: 1, page: 100, ..Mix::default() }
}

/// Clients that go from node to node.
pub fn load(nodes: &[&Node], clients: u64, mix: &Mix, seed: u64, record: &Arc<Record>) -> Load {
    let endpoints: Vec<String> = nodes.iter().map(|node| node.url()).collect();
    let api = |client| Remote::new(&endpoints, client, record).unwrap();
    Load::start(record, mix, seed, (0..clients).map(api).collect())
}

/// All that a node holds of a context.
pub async fn entries(node: &Node, context: &str, record: &Record) -> Vec<Seen> {
    let client = Client::new(&[node.url()], PAGE_TIME).unwrap();
    let entries = look::read_all(client.preferred(), context, PAGE_TIME).await.unwrap();
    entries.iter().map(|entry| record.seen(context, entry)).collect()
}

/// Waits until all nodes have applied the same, and judges the history, with what they hold then.
pub async fn hold(cluster: &Cluster, mix: &Mix, record: &Record) -> Counts {
    hold_on(&cluster.nodes.iter().collect::<Vec<_>>(), mix, record).await
}

/// Stops all nodes in order. Their segments are the same bytes, up to the end of the shorter; says how many.
pub async fn same_segments(cluster: &mut Cluster) -> u64 {
    for node in &mut cluster.nodes {
        assert!(node.terminate(STOP).await.success());
    }
    let files: Vec<_> = cluster.nodes.iter().map(|node| segments::of_dir(&node.data).unwrap()).collect();
    let common = |other| segments::common(&files[0], other).unwrap_or_else(|differs| panic!("{differs}"));
    files[1..].iter().map(common).min().expect("there are several nodes")
}

/// The same of some of a cluster's nodes.
pub async fn hold_on(nodes: &[&Node], mix: &Mix, record: &Record) -> Counts {
    let statuses = converged(nodes).await;
    for field in ["digest", "last_position", "cluster_id"] {
        let values: Vec<_> = statuses.iter().map(|status| &status[field]).collect();
        assert!(!values[0].is_null(), "status lacks {field}: {}", statuses[0]);
        assert!(values.iter().all(|value| *value == values[0]), "{field} differs: {values:?}");
    }
    for node in nodes {
        for context in mix.contexts() {
            let entries = entries(node, &context, record).await;
            record.add(Operation::State(State { node: NodeId(node.id), context, entries }));
        }
    }
    record.add(Operation::End(End { position: Position(statuses[0]["last_position"].as_u64().unwrap()) }));
    record.hold()
}
