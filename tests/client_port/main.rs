//! The client port of a real process: what hostile, slow and careless clients can take from the others.
//!
//! `CLIENT_PORT_FULL=1` runs it at full size: 600 watches of 4 MiB entries, 2,000 sockets of each sort against the
//! default configuration.
#![cfg(feature = "cli")]
#![allow(missing_docs, clippy::print_stderr)]

mod budgets;
#[cfg(target_os = "linux")]
mod clock;
mod raw;
mod sorts;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::node::Node;
use support::wire::{self, AppendRequest, AppendResponse, GetRequest, GetResponse, WatchRequest};
use support::{setting, until};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const PATIENCE: Duration = Duration::from_secs(30);
/// A client that comes while the port is under attack is served within this.
const SERVED: Duration = Duration::from_secs(20);
const OUTCOME: &str = "x-ledger-outcome";
const APPEND: &str = "/converge.context.v1.ContextService/Append";
const STREAM: &str = "/converge.ledger.v1.LedgerService/AppendStream";
const GET: &str = "/converge.context.v1.ContextService/Get";
const WATCH: &str = "/converge.context.v1.ContextService/Watch";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const SNAPSHOT: &str = "/converge.context.v1.ContextService/Snapshot";

fn full() -> bool {
    setting("CLIENT_PORT_FULL", 0) > 0
}

fn new(context: &str, payload: usize) -> AppendRequest {
    let (context_id, payload) = (context.to_owned(), vec![7; payload]);
    AppendRequest { context_id, key: "k".into(), payload, metadata: BTreeMap::new() }
}

async fn append(channel: &Channel, context: &str, payload: usize) -> Result<AppendResponse, Status> {
    Ok(wire::append(channel, Request::new(new(context, payload))).await?.into_inner())
}

async fn put(channel: &Channel, context: &str, payload: usize) {
    until("an append", PATIENCE, async || append(channel, context, payload).await.ok()).await;
}

fn get(context: &str) -> GetRequest {
    GetRequest { context_id: context.into(), ..GetRequest::default() }
}

fn watch(context: &str) -> WatchRequest {
    WatchRequest { context_id: context.into(), ..WatchRequest::default() }
}

/// Resident bytes of a process.
fn resident(node: &Node) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

fn node(root: &tempfile::TempDir) -> Node {
    Node::new(root.path(), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_says_nothing_of_the_wall_clock() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    let channel = node.channel();
    put(&channel, "c", 1).await;
    let answer = wire::get(&channel, Request::new(get("c"))).await.unwrap();
    assert!(!answer.metadata().contains_key("date"), "{:?}", answer.metadata());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_read_whatever_the_limits_are_now() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    let channel = node.channel();
    put(&channel, "c", 3 << 20).await;
    let keyed = || {
        let mut request = Request::new(new("c", 300 << 10));
        request.metadata_mut().insert("x-idempotency-key", "k".parse().unwrap());
        request
    };
    wire::append(&channel, keyed()).await.unwrap();
    node.terminate(PATIENCE).await;

    let least = (300 << 10) + (128 << 10);
    for limit in ["payload_bytes", "response_bytes", "snapshot_bytes"] {
        node.set(&format!("limits.{limit}"), if limit == "payload_bytes" { 300 << 10 } else { least });
    }
    node.start().await;
    let channel = node.channel();
    let page = |after_sequence| GetRequest { limit: 1, after_sequence, ..get("c") };
    let read = until("a read", PATIENCE, async || wire::get(&channel, Request::new(page(0))).await.ok()).await;
    assert_eq!(read.into_inner().entries[0].payload.len(), 3 << 20);
    let mut events = wire::watch(&channel, watch("c")).await.unwrap();
    for sequence in 1..=2 {
        let event = tokio::time::timeout(PATIENCE, events.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.entry.unwrap().sequence, sequence);
    }
    let again = wire::append(&channel, keyed()).await.unwrap();
    assert_eq!(again.metadata().get("x-ledger-deduplicated").unwrap(), "true");
    // Both do not fit into one answer, and a client is told to page.
    let both = wire::get(&channel, Request::new(get("c"))).await.unwrap_err();
    assert_eq!(both.code(), Code::ResourceExhausted);
    let context_id = "c".to_owned();
    let request = Request::new(wire::SnapshotRequest { context_id });
    let copy: wire::SnapshotResponse = wire::unary(&channel, SNAPSHOT, request).await.unwrap().into_inner();
    assert_eq!(copy.sequence, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_says_so_whatever_it_refuses() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    let channel = node.channel();
    let mut crowded = Request::new(get("c"));
    crowded.metadata_mut().insert("x-much", "v".repeat(20_000).parse().unwrap());
    let status = wire::get(&channel, crowded).await.unwrap_err();
    assert_eq!(status.metadata().get(OUTCOME).map(|value| value.as_bytes()), Some(&b"refused"[..]), "{status:?}");
    assert_eq!(status.code(), Code::ResourceExhausted);

    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/converge.context.v1.ContextService/Get");
    // Field 1 is a text: here a number.
    let codec = tonic_prost::ProstCodec::<wire::Misfit, GetResponse>::default();
    let status = grpc.unary(Request::new(wire::Misfit { context_id: 7 }), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(status.metadata().get(OUTCOME).map(|value| value.as_bytes()), Some(&b"refused"[..]), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_no_watch() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    let (channel, other) = (node.channel(), node.channel());
    put(&channel, "large", 4 << 20).await;
    put(&channel, "small", 1).await;
    let mut unread = Vec::new();
    for _ in 0..5 {
        unread.push(wire::watch(&channel, watch("large")).await.unwrap());
    }
    let mut read = wire::watch(&other, watch("small")).await.unwrap();
    read.message().await.unwrap().unwrap();
    let start = Instant::now();
    let stop = node.terminate(PATIENCE);
    let (stopped, end) = tokio::join!(stop, read.message());
    // The drain is 15 s.
    assert!(stopped.success() && start.elapsed() < Duration::from_secs(10), "{stopped}, {:?}", start.elapsed());
    let status = end.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status.metadata().get("x-ledger-last-sequence").unwrap(), "1", "{status:?}");
}

/// The 99th percentile of appends, one after another.
async fn append_p99(channel: &Channel, count: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        append(channel, "appends", 100).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    times[(count * 99 / 100).min(count - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_nobody_reads_take_little() {
    let (watches, bound, appends) = if full() { (600, 700 << 20, 2000) } else { (150, 450 << 20, 200) };
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    let (channel, other) = (node.channel(), node.channel());
    for _ in 0..4 {
        put(&channel, "large", 4 << 20).await;
    }
    let before = append_p99(&other, appends).await;
    let mut unread = Vec::new();
    for _ in 0..watches {
        unread.push(wire::watch(&channel, watch("large")).await.unwrap());
    }
    let p99 = append_p99(&other, appends).await;
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(resident(&node));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{watches} unread watches: {} MiB resident, append p99 {before:?} before, {p99:?} beside", most >> 20);
    // Far above what a busy machine adds, and far below what an append would take that waits for those who do not read.
    assert!(p99 < 20 * before + Duration::from_secs(3), "appends take {p99:?} beside them, {before:?} without");
    assert!(most < bound, "{} MiB", most >> 20);
    // One that is read gets its turn, and all of each entry.
    let mut read = wire::watch(&other, watch("large")).await.unwrap();
    for sequence in 1..=4 {
        let event = tokio::time::timeout(PATIENCE, read.message()).await.unwrap().unwrap().unwrap().entry.unwrap();
        assert_eq!((event.sequence, event.payload.len()), (sequence, 4 << 20));
        assert!(event.payload.iter().all(|byte| *byte == 7));
    }
    // One that was not read for long, too.
    let mut late = unread.pop().unwrap();
    // They share a window, which is full of what the others do not read.
    drop(unread);
    for sequence in 1..=4 {
        let event = tokio::time::timeout(PATIENCE, late.message()).await.unwrap().unwrap().unwrap().entry.unwrap();
        assert_eq!((event.sequence, event.payload.len()), (sequence, 4 << 20));
        assert!(event.payload.iter().all(|byte| *byte == 7));
    }
}

/// How often a slow client says something.
const DRIP: Duration = Duration::from_millis(100);

/// Sockets, and what each says next, as a position among the bits.
type Dripping = Mutex<Vec<(TcpStream, usize)>>;

/// Says the next bit on each of these sockets, again and again, until it is told to end.
fn drip(held: &Dripping, bits: &[Vec<u8>], ended: &AtomicBool) {
    while !bits.is_empty() && !ended.load(Ordering::Relaxed) {
        for (socket, at) in held.lock().unwrap().iter_mut() {
            let _ = socket.write_all(&bits[*at % bits.len()]);
            *at += 1;
        }
        std::thread::sleep(DRIP);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_begins_it_ends_in_time() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    put(&node.channel(), "c", 1).await;
    let threads: Vec<_> = sorts::slow()
        .into_iter()
        .map(|(sort, said, bits)| {
            let address = node.grpc.clone();
            std::thread::spawn(move || {
                let mut socket = raw::silent_after(&address, &said).unwrap();
                let (start, mut received) = (Instant::now(), Vec::new());
                for bit in bits.iter().cycle() {
                    let _ = socket.write_all(bit);
                    std::thread::sleep(DRIP);
                    if raw::is_over(&mut socket, &mut received) {
                        break;
                    }
                    assert!(start.elapsed() < PATIENCE, "{sort} has no end");
                }
                eprintln!("{sort}: over after {:?}", start.elapsed());
            })
        })
        .collect();
    tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap())).await.unwrap();
    assert!(node.is_running());
}

/// One connection has as many watches of health as it may have calls, and asks as often for what it does not go on with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_health_keep_no_check_out() {
    const CALLS: u32 = 1024;
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    let check = || async {
        let answer = wire::unary::<(), ()>(&node.channel(), HEALTH_CHECK, Request::new(())).await;
        answer.map(drop)
    };
    for (what, of_one) in [("watches", raw::call(1, HEALTH_WATCH, &())), ("checks", raw::headers(1, HEALTH_CHECK))] {
        let mut said = raw::hello(65_535);
        for number in 0..CALLS {
            let mut frames = of_one.clone();
            raw::set_stream(&mut frames, 2 * number + 1);
            said.extend(frames);
        }
        let mut socket = raw::silent_after(&node.grpc, &said).expect("all of it is taken");
        // Checks that are not gone on with have no answer.
        let (start, mut received) = (Instant::now(), Vec::new());
        while what == "watches" && !raw::is_over(&mut socket, &mut received) {
            assert!(start.elapsed() < SERVED, "no watch is answered");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for _ in 0..20 {
            check().await.unwrap_or_else(|status| panic!("beside {CALLS} {what}: {status:?}"));
        }
        let mut watch = tonic::client::Grpc::new(node.channel());
        watch.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(HEALTH_WATCH);
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let mut watch = watch.server_streaming(Request::new(()), path, codec).await.unwrap().into_inner();
        tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap().expect("a state");
    }
}

/// 8 KiB a second are an upload that goes on, whoever else wants its connection. Only at full size, on a machine that has
/// nothing else to do: where this client gets no turn for a second, it is cut as it should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upload_outlives_a_crowd_that_says_nothing() {
    if !full() {
        let why = "skipped: a slow upload beside a crowd: it is at the mercy of a busy machine; CLIENT_PORT_FULL=1";
        return std::io::Write::write_all(&mut std::io::stderr(), format!("{why}\n").as_bytes()).unwrap();
    }
    const PIECE: usize = 4 << 10;
    const PIECES: usize = 20;
    const PACE: Duration = Duration::from_millis(500);
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.set("grpc.connections", 16);
    node.start().await;
    put(&node.channel(), "c", 1).await;
    let ended = Arc::new(AtomicBool::new(false));
    let crowd: Vec<_> = (0..32)
        .map(|_| {
            let (address, ended) = (node.grpc.clone(), ended.clone());
            std::thread::spawn(move || {
                let mut closed = 0;
                while !ended.load(Ordering::Relaxed) {
                    let Some(mut socket) = raw::silent_after(&address, &[]) else { continue };
                    while !ended.load(Ordering::Relaxed) && !raw::is_over(&mut socket, &mut Vec::new()) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    closed += 1;
                }
                closed
            })
        })
        .collect();
    let address = node.grpc.clone();
    let upload = tokio::task::spawn_blocking(move || {
        let message = prost::Message::encode_to_vec(&new("c", PIECE * PIECES));
        let body = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
        let said = [raw::hello(65_535), raw::patient_headers(1, APPEND)].concat();
        let mut socket = raw::silent_after(&address, &said).unwrap();
        let mut received = Vec::new();
        while received.is_empty() {
            assert!(!raw::is_over(&mut socket, &mut received), "cut before it began");
            std::thread::sleep(Duration::from_millis(10));
        }
        // The node's window is what its settings say.
        socket.write_all(&raw::agreed()).unwrap();
        for (number, piece) in body.chunks(PIECE).enumerate() {
            assert!(!raw::is_over(&mut socket, &mut received), "cut after {number} pieces");
            let _ = socket.write_all(&raw::data(1, piece));
            std::thread::sleep(PACE);
        }
    });
    let uploaded = upload.await;
    ended.store(true, Ordering::Relaxed);
    let closed: usize = crowd.into_iter().map(|thread| thread.join().unwrap()).sum();
    uploaded.unwrap();
    assert!(closed > 20, "a crowd wants its place: {closed} were closed");
}

/// A watch that brings its first entry.
async fn watched(channel: &Channel) -> Result<(), Status> {
    let mut events = wire::watch(channel, watch("large")).await?;
    let first = tokio::time::timeout(PATIENCE, events.message()).await.expect("an entry is there");
    first.map(|event| assert_eq!(event.unwrap().entry.unwrap().sequence, 1))
}

/// Watches that wait keep their places for as long as they like: it is said that there is none, and by what bound.
async fn watches_are_bounded(node: &Node) {
    let refused = until("no place for a watch", SERVED, || async { watched(&node.channel()).await.err() }).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("grpc.connections"), "{refused:?}");
    assert_eq!(refused.metadata().get(OUTCOME).unwrap(), "refused", "{refused:?}");
    let status = until("a status", SERVED, || node.status()).await;
    assert!(status["alarms"].to_string().contains("grpc.connections (with watches)"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sort_of_socket_keeps_others_out() {
    let (sockets, connections) = if full() { (2000, None) } else { (200, Some(50)) };
    let only = std::env::var("CLIENT_PORT_SORT").ok();
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    if let Some(connections) = connections {
        node.set("grpc.connections", connections);
    }
    node.start().await;
    put(&node.channel(), "large", 2 << 20).await;
    for (sort, said, bits) in
        sorts::sorts().into_iter().filter(|(sort, ..)| only.as_ref().is_none_or(|only| only == sort))
    {
        let address = node.grpc.clone();
        let held = Arc::new(Dripping::default());
        let (count, hold) = (sockets, held.clone());
        let (dripped, ended) = (held.clone(), Arc::new(AtomicBool::new(false)));
        let end = ended.clone();
        let dripper = std::thread::spawn(move || drip(&dripped, &bits, &end));
        let mut crowd = tokio::task::spawn_blocking(move || {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    let (address, said, held) = (address.clone(), said.clone(), held.clone());
                    std::thread::spawn(move || {
                        for _ in 0..count / 8 {
                            let socket = raw::silent_after(&address, &said);
                            held.lock().unwrap().extend(socket.map(|socket| (socket, 0)));
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        // While they come, or when all are there.
        let came = tokio::time::timeout(Duration::from_secs(5), &mut crowd).await;
        let start = Instant::now();
        let channel = node.channel();
        until(sort, SERVED, async || tokio::time::timeout(SERVED, append(&channel, "c", 10)).await.ok()?.ok()).await;
        eprintln!("{sort}: {} sockets stood, served after {:?}", hold.lock().unwrap().len(), start.elapsed());
        // The next sort has the port to itself.
        match came {
            Ok(crowd) => crowd.unwrap(),
            Err(_) => crowd.await.unwrap(),
        }
        match sort {
            "a watch that is not read" => until(sort, SERVED, || async { watched(&node.channel()).await.ok() }).await,
            "a watch that waits" => watches_are_bounded(&node).await,
            _ if sort.contains("stream of appends") => {
                until(sort, SERVED, || async { sorts::stream_once(&node.channel()).await.ok() }).await;
            }
            _ => {}
        }
        ended.store(true, Ordering::Relaxed);
        dripper.join().unwrap();
    }
    assert!(node.is_running());
}
