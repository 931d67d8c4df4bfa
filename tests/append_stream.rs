//! `LedgerService/AppendStream` of a real process.
#![cfg(feature = "cli")]
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use converge_ledger::api::grpc::names;
use converge_ledger::api::grpc::pb::ledger::ledger_service_client::LedgerServiceClient;
use converge_ledger::api::grpc::pb::ledger::{AppendStreamRequest, AppendStreamResponse, Place};
use support::node::Node;
use support::until;
use support::wire::{self, GetRequest};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(30);

async fn node(root: &tempfile::TempDir) -> Node {
    let mut node = Node::new(root.path(), 1);
    node.start().await;
    node
}

fn entry(context: &str, number: usize) -> AppendStreamRequest {
    AppendStreamRequest {
        context_id: context.to_owned(),
        key: "k".to_owned(),
        payload: Bytes::from(format!("entry {number}")),
        ..AppendStreamRequest::default()
    }
}

async fn open(
    node: &Node,
    entries: impl tonic::IntoStreamingRequest<Message = AppendStreamRequest>,
) -> Streaming<AppendStreamResponse> {
    LedgerServiceClient::new(node.channel()).append_stream(entries).await.unwrap().into_inner()
}

/// All that a stream is answered with: its places, and what it ends with.
async fn answers(mut answers: Streaming<AppendStreamResponse>) -> (Vec<Place>, Result<(), Status>) {
    let first = answers.message().await.unwrap().unwrap();
    let window = first.window.expect("the first answer grants a window");
    assert!(first.acknowledged == 0 && window.entries >= 1 && window.bytes >= 1, "{first:?}");
    let mut places = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer") {
            Ok(Some(answer)) => {
                places.extend(answer.places);
                assert_eq!(answer.acknowledged, places.len() as u64);
            }
            Ok(None) => return (places, Ok(())),
            Err(status) => return (places, Err(status)),
        }
    }
}

fn trailer(status: &Status, name: &str) -> String {
    status.metadata().get(name).unwrap_or_else(|| panic!("{name} in {status:?}")).to_str().unwrap().to_owned()
}

async fn held(node: &Node, context: &str) -> Vec<Vec<u8>> {
    let request = GetRequest { context_id: context.to_owned(), ..GetRequest::default() };
    let read = wire::get(&node.channel(), Request::new(request)).await.unwrap().into_inner();
    read.entries.into_iter().map(|entry| entry.payload).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_many_contexts_are_acknowledged_in_their_order_and_found_again_under_their_keys() {
    const ENTRIES: usize = 5_000;
    let root = tempfile::tempdir().unwrap();
    let node = node(&root).await;
    let contexts = ["a", "b", "c"];
    let keyed = |number: usize| AppendStreamRequest {
        idempotency_key: format!("key {number}"),
        ..entry(contexts[number % 3], number)
    };
    let entries: Vec<_> = (0..ENTRIES).map(keyed).collect();
    let (places, end) = answers(open(&node, tokio_stream::iter(entries.clone())).await).await;
    end.unwrap();
    assert_eq!(places.len(), ENTRIES);
    let mut latest = BTreeMap::new();
    for (number, place) in places.iter().enumerate() {
        let latest = latest.entry(number % 3).or_insert(0);
        *latest += 1;
        assert_eq!((place.sequence, place.position, place.deduplicated), (*latest, number as u64 + 1, false));
    }
    let (again, end) = answers(open(&node, tokio_stream::iter(entries)).await).await;
    end.unwrap();
    assert!(again.iter().all(|place| place.deduplicated));
    assert!(again.iter().map(|place| place.position).eq(1..=ENTRIES as u64));
    assert_eq!(held(&node, "b").await.len(), ENTRIES.div_ceil(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_entry_that_is_refused_ends_the_stream_and_nothing_behind_it_is_there() {
    let root = tempfile::tempdir().unwrap();
    let node = node(&root).await;
    let unexpected = AppendStreamRequest { expected_sequence: Some(70), ..entry("expected", 2) };
    let nameless = entry("", 2);
    let large = AppendStreamRequest { payload: vec![7; (4 << 20) + 1].into(), ..entry("large", 2) };
    // Not even read; what came in one piece with its beginning is.
    let too_long = AppendStreamRequest { payload: vec![7; 5 << 20].into(), ..entry("too long", 2) };
    let refusals = [
        ("expected", unexpected, Code::FailedPrecondition),
        ("nameless", nameless, Code::InvalidArgument),
        ("large", large, Code::ResourceExhausted),
        ("too long", too_long, Code::ResourceExhausted),
    ];
    for (context, bad, code) in refusals {
        let entries = [entry(context, 0), entry(context, 1), bad, entry(context, 3), entry(context, 4)];
        let (places, end) = answers(open(&node, tokio_stream::iter(entries)).await).await;
        let status = end.unwrap_err();
        assert_eq!((places.len(), status.code()), (2, code), "{context}: {status:?}");
        assert_eq!(trailer(&status, names::STREAM_POSITION), "3", "{context}");
        assert_eq!(trailer(&status, names::ACKNOWLEDGED), "2", "{context}");
        assert_eq!(trailer(&status, names::OUTCOME), names::REFUSED, "{context}");
        assert_eq!(held(&node, context).await, [b"entry 0", b"entry 1"], "{context}");
    }
}

/// An entry that comes alone is acknowledged at once, however long the stream is open; and a large one passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_answers_each_entry_that_its_client_waits_for_and_a_stop_does_not_wait_for_it() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root).await;
    let (sender, entries) = mpsc::channel(1);
    let mut answers = open(&node, ReceiverStream::new(entries)).await;
    answers.message().await.unwrap().unwrap();
    for number in 0..20 {
        let payload = Bytes::from(vec![7; if number % 10 == 9 { 4 << 20 } else { number }]);
        sender.send(AppendStreamRequest { payload, ..entry("c", number) }).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.acknowledged, number as u64 + 1);
    }
    let start = Instant::now();
    let (stopped, end) = tokio::join!(node.terminate(PATIENCE), answers.message());
    // The drain is 15 s.
    assert!(stopped.success() && start.elapsed() < Duration::from_secs(10), "{stopped}, {:?}", start.elapsed());
    let status = end.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(trailer(&status, names::ACKNOWLEDGED), "20");
    assert_eq!(trailer(&status, names::OUTCOME), names::REFUSED);
}

/// As many clients as there are places for have streams, however many one of them begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_has_a_share_of_the_streams() {
    const SHARE: usize = 32;
    let root = tempfile::tempdir().unwrap();
    let node = node(&root).await;
    let channel = node.channel();
    let begin = async |channel: &Channel| {
        let (sender, entries) = mpsc::channel(1);
        let answers = LedgerServiceClient::new(channel.clone()).append_stream(ReceiverStream::new(entries)).await?;
        Ok::<_, Status>((sender, answers.into_inner()))
    };
    let mut streams = Vec::new();
    for _ in 0..SHARE {
        streams.push(begin(&channel).await.unwrap());
    }
    let status = begin(&channel).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("streams of appends, which is 32"), "{status:?}");
    assert_eq!(trailer(&status, names::OUTCOME), names::REFUSED);
    begin(&node.channel()).await.unwrap();
    let (sender, mut answers) = streams.pop().unwrap();
    drop(sender);
    while answers.message().await.unwrap().is_some() {}
    until("its place is free", PATIENCE, async || begin(&channel).await.ok()).await;
}

/// A deadline ends it, also one whose client is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_its_client_gives_ends_a_stream() {
    let root = tempfile::tempdir().unwrap();
    let node = node(&root).await;
    let (_sender, entries) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(entries));
    // By hand: tonic's own clock would end the call at the same time.
    request.metadata_mut().insert("grpc-timeout", "500m".parse().unwrap());
    let (places, end) = answers(open(&node, request).await).await;
    let status = end.unwrap_err();
    assert_eq!((places.len(), status.code()), (0, Code::DeadlineExceeded), "{status:?}");
}
