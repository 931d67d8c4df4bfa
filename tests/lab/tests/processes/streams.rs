//! A stream of appends under which leaders are killed: its client goes on elsewhere with the first entry that is not
//! acknowledged.
#![allow(missing_docs)]

use std::time::Duration;

use crate::support::cluster::{Cluster, SETTLED, converged, read_all};
use crate::support::node::Node;
use converge_ledger::api::grpc::pb::ledger::ledger_service_client::LedgerServiceClient;
use converge_ledger::api::grpc::pb::ledger::{AppendStreamRequest, AppendStreamResponse};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};

const ENTRIES: usize = 40_000;
/// So many are acknowledged between two faults, and many more wait to be sent: a group is always in flight.
const STEP: usize = 2_000;
const CONTEXTS: [&str; 2] = ["streamed/a", "streamed/b"];
/// For an answer, or the end of a stream whose node is gone.
const PATIENCE: Duration = Duration::from_secs(30);

fn payload(number: usize) -> String {
    format!("entry {number}")
}

fn entry(number: usize) -> AppendStreamRequest {
    AppendStreamRequest {
        context_id: CONTEXTS[number % CONTEXTS.len()].to_owned(),
        payload: payload(number).into(),
        idempotency_key: format!("key {number}"),
        ..AppendStreamRequest::default()
    }
}

/// Streams all that is not acknowledged.
async fn stream(node: &Node, acknowledged: usize) -> Result<Streaming<AppendStreamResponse>, Status> {
    let entries = tokio_stream::iter((acknowledged..ENTRIES).map(entry));
    Ok(LedgerServiceClient::new(node.channel()).append_stream(entries).await?.into_inner())
}

/// Reads answers until so many are acknowledged. Nobody else appends: each entry has its place in the ledger.
async fn read(answers: &mut Streaming<AppendStreamResponse>, count: &mut usize, goal: usize) -> Result<(), Status> {
    while *count < goal.min(ENTRIES) {
        let answer = timeout(PATIENCE, answers.message()).await.expect("an answer, or the end")?;
        let answer = answer.ok_or_else(|| Status::internal("it ended well before its end"))?;
        for place in answer.places {
            assert_eq!(place.position, *count as u64 + 1, "an entry is twice in the ledger, or another one before it");
            *count += 1;
        }
    }
    Ok(())
}

/// Begins again with what is not acknowledged until the node gets on with it.
async fn go_on(node: &Node, count: &mut usize, goal: usize) {
    let end = Instant::now() + SETTLED;
    loop {
        let ended = match stream(node, *count).await {
            Ok(mut answers) => read(&mut answers, count, goal).await,
            Err(status) => Err(status),
        };
        let Err(status) = ended else { return };
        let code = status.code();
        assert!(matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded), "{status:?}");
        assert!(Instant::now() < end, "the stream does not go on: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_elsewhere_after_a_kill_of_the_leader_with_each_entry_once_and_in_order() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let mut count = 0;
    for over_the_leader in [true, false, true] {
        let leader = cluster.leader().await;
        let at = if over_the_leader { leader } else { (leader + 1) % 3 };
        let mut answers = stream(&cluster.nodes[at], count).await.unwrap();
        let goal = count + STEP;
        read(&mut answers, &mut count, goal).await.unwrap();
        cluster.nodes[leader].kill().await;
        // One over a follower may go on with the next leader.
        let goal = count + STEP;
        let broken = read(&mut answers, &mut count, goal).await.is_err();
        assert!(broken || !over_the_leader, "it goes on over a node that is gone");
        drop(answers);
        let goal = count + STEP;
        go_on(&cluster.nodes[(leader + 2) % 3], &mut count, goal).await;
        cluster.nodes[leader].start().await;
    }
    assert!(count < ENTRIES, "nothing was in flight at the last kill");
    go_on(&cluster.nodes[0], &mut count, ENTRIES).await;
    converged(&cluster.nodes.iter().collect::<Vec<_>>()).await;
    for node in &cluster.nodes {
        for (part, context) in CONTEXTS.into_iter().enumerate() {
            let entries = read_all(node, context).await;
            let payloads = entries.iter().map(|entry| entry.payload.as_slice());
            let sent: Vec<_> = (part..ENTRIES).step_by(CONTEXTS.len()).map(payload).collect();
            assert!(payloads.eq(sent.iter().map(String::as_bytes)), "{context} on node {}", node.id);
        }
    }
}
