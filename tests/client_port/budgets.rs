//! What clients hold in bytes: of requests that they do not end, and of answers that they read as slowly as they may.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::support::node::Node;
use super::support::{until, wire};
use super::{APPEND, GET, HEALTH_CHECK, PATIENCE, SERVED, SNAPSHOT, append, get, new, node, put, resident};

const LOAD: &str = "/converge.context.v1.ContextService/Load";

#[derive(Clone, PartialEq, prost::Message)]
struct LoadRequest {
    #[prost(string, tag = "1")]
    context_id: String,
    #[prost(bytes = "vec", tag = "2")]
    snapshot: Vec<u8>,
}

/// A call with a whole message of which it is never said that it was the last one. Ends as the node ends it.
async fn without_an_end<Q>(channel: Channel, path: &'static str, message: Q, packed: bool) -> Option<Status>
where
    Q: prost::Message + 'static,
{
    let mut grpc = Grpc::new(channel);
    if packed {
        grpc = grpc.send_compressed(CompressionEncoding::Gzip);
    }
    grpc.ready().await.ok()?;
    let messages = Request::new(tokio_stream::once(message).chain(tokio_stream::pending()));
    let codec = ProstCodec::<Q, ()>::default();
    grpc.client_streaming(messages, PathAndQuery::from_static(path), codec).await.err()
}

async fn alarm(node: &Node, of: &str) {
    let alarm = || async { node.status().await?["alarms"].to_string().contains(of).then_some(()) };
    until(of, PATIENCE, alarm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_that_nobody_ends_take_no_room_from_others() {
    const LARGE: usize = 4 << 20;
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.set("limits.snapshot_bytes", 2 * LARGE);
    // Room for three in all, and for two beside what is kept for the others.
    node.set("grpc.request_bytes", 3 * LARGE);
    node.start().await;
    let channel = node.channel();
    put(&channel, "c", 1).await;
    let context_id = "c".to_owned();
    let copied = wire::unary(&channel, SNAPSHOT, Request::new(wire::SnapshotRequest { context_id })).await.unwrap();
    let copied: wire::SnapshotResponse = copied.into_inner();

    let mut held = JoinSet::new();
    for number in 0..4 {
        let load = LoadRequest { context_id: format!("{number}"), snapshot: vec![7; LARGE] };
        held.spawn(without_an_end(node.channel(), LOAD, load, false));
    }
    alarm(&node, "grpc.request_bytes (loads)").await;
    append(&channel, "c", LARGE).await.unwrap();
    wire::get(&channel, Request::new(wire::GetRequest { limit: 1, ..get("c") })).await.unwrap();
    wire::unary::<(), ()>(&channel, HEALTH_CHECK, Request::new(())).await.unwrap();
    // Nor do they keep out other loads.
    let load = async || {
        let load = LoadRequest { context_id: "copy".into(), snapshot: copied.snapshot.clone() };
        wire::unary::<_, ()>(&channel, LOAD, Request::new(load)).await.ok()
    };
    until("a load", SERVED, load).await;
    // Who made room was told so.
    let told = tokio::time::timeout(PATIENCE, held.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(told.code(), Code::ResourceExhausted, "{told:?}");
    assert_eq!(told.metadata().get(super::OUTCOME).unwrap(), "refused", "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_unpacked_for_clients_that_may_still_send() {
    const CALLS: usize = 40;
    const LARGE: usize = 4 << 20;
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    let channel = node.channel();
    put(&channel, "c", LARGE).await;
    let before = resident(&node);
    let mut held = JoinSet::new();
    for _ in 0..CALLS {
        held.spawn(without_an_end(channel.clone(), APPEND, new("c", LARGE), true));
    }
    let (start, mut most) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(5) {
        most = most.max(resident(&node));
        // It serves others meanwhile.
        append(&channel, "c", 1).await.unwrap();
    }
    let more = most.saturating_sub(before) >> 20;
    assert!(held.try_join_next().is_none(), "they are waited for, not refused");
    assert!(more < CALLS * (LARGE >> 20) / 2, "{CALLS} requests of a few KiB take {more} MiB");
}

/// An answer that is taken window by window, each in time.
async fn unhurried<Q: prost::Message + 'static>(node: &Node, path: &'static str, message: Q) -> Streaming<()> {
    const WINDOW: u32 = 65_535;
    let endpoint = Channel::from_shared(node.url()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let mut grpc = Grpc::new(endpoint.connect().await.unwrap()).max_decoding_message_size(1 << 30);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<Q, ()>::default();
    grpc.server_streaming(Request::new(message), PathAndQuery::from_static(path), codec).await.unwrap().into_inner()
}

async fn take_slowly(mut answer: Streaming<()>) {
    const EACH: Duration = Duration::from_secs(4);
    while tokio::time::timeout(Duration::ZERO, answer.message()).await.is_err() {
        tokio::time::sleep(EACH).await;
    }
}

/// They would have all the room for two minutes, in which nobody else could append or read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_read_piece_by_piece_keep_no_others_out() {
    const LARGE: usize = 2 << 20;
    const WAITS: Duration = Duration::from_secs(60);
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    // Room for two answers to appends, and for three to reads and a part of a fourth.
    node.set("limits.inflight_bytes", (4 << 20) + (512 << 10));
    node.set("limits.response_bytes", (4 << 20) + (512 << 10));
    node.set("limits.answer_bytes", 1 << 20);
    node.start().await;
    let (appender, reader) = (node.channel(), node.channel());
    put(&appender, "large", LARGE).await;
    let mut held = JoinSet::new();
    for _ in 0..2 {
        held.spawn(take_slowly(unhurried(&node, APPEND, new("c", LARGE)).await));
    }
    for _ in 0..3 {
        held.spawn(take_slowly(unhurried(&node, GET, get("large")).await));
    }
    let start = Instant::now();
    let appends = until("an append", WAITS, async || append(&appender, "c", LARGE).await.ok());
    let reads = until("a read", WAITS, async || wire::get(&reader, Request::new(get("large"))).await.ok());
    let (_, read) = tokio::join!(appends, reads);
    assert_eq!(read.into_inner().entries[0].payload.len(), LARGE);
    eprintln!("an append and a read were served after {:?}", start.elapsed());
    for limit in ["limits.inflight_bytes (answers to appends)", "limits.answer_bytes (reads)"] {
        alarm(&node, limit).await;
    }
}
