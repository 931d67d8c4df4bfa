//! Calls that their clients begin and do not go on with, as many as they like.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::support::until;
use super::{APPEND, GET, PATIENCE, SERVED, append, get, node, put, raw};

/// So many of this call, on one connection.
fn many(count: u32, one: &[u8]) -> Vec<u8> {
    let mut said = raw::hello(65_535);
    for number in 0..count {
        let mut frames = one.to_vec();
        raw::set_stream(&mut frames, 2 * number + 1);
        said.extend(frames);
    }
    said
}

/// Each costs memory, also where it has no place, until its connection goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_goes_on_with_are_bounded_over_all_connections() {
    const STREAMS: u32 = 200;
    const CONNECTIONS: usize = 20;
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    // Room for 800.
    node.set("grpc.requests", 300);
    node.set("grpc.watches", 200);
    node.set("grpc.streams", STREAMS);
    node.start().await;
    let said = many(STREAMS, &raw::patient_headers(1, APPEND));
    let mut held: Vec<_> = (0..CONNECTIONS).filter_map(|_| raw::silent_after(&node.grpc, &said)).collect();
    let came = held.len();
    let bounded = || {
        // Nothing is read: what leaves is no longer owed.
        held.retain_mut(|socket| !raw::is_gone(socket));
        let streams = held.len() * STREAMS as usize;
        async move { (streams <= 1_000).then_some(()) }
    };
    // Long before the requests are given up one by one.
    until("a bound", SERVED, bounded).await;
    assert!(came > CONNECTIONS / 2, "{came}");
    append(&node.channel(), "c", 10).await.unwrap_or_else(|status| panic!("beside them: {status:?}"));
    let alarms = until("a status", SERVED, || node.status()).await["alarms"].to_string();
    assert!(alarms.contains("streams (grpc.requests and grpc.watches)"), "{alarms}");
}

/// Requests that come bit by bit have as much time as they ask for, and no place until they are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_an_end_keep_no_others_out() {
    const REQUESTS: usize = 16;
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.set("grpc.requests", REQUESTS);
    node.start().await;
    put(&node.channel(), "c", 1).await;
    let said = [raw::hello(65_535), raw::patient_headers(1, APPEND), raw::data(1, &[0, 0, 0, 3, 232])].concat();
    let mut held: Vec<_> = (0..2 * REQUESTS).filter_map(|_| raw::silent_after(&node.grpc, &said)).collect();
    // More than they would need to take the places.
    for number in 0..50 {
        append(&node.channel(), "c", 1).await.unwrap_or_else(|status| panic!("append {number}: {status:?}"));
        held.iter_mut().for_each(|socket| socket.write_all(&raw::data(1, &[7])).unwrap());
    }
}

/// A stop waits for who is at work, not for who does not send or read, whatever the time that he asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_who_does_not_go_on() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root);
    node.start().await;
    put(&node.channel(), "large", 4 << 20).await;
    let half = [raw::hello(65_535), raw::patient_headers(1, APPEND), raw::data(1, &[0, 0, 0, 3, 232])].concat();
    let unread = [raw::hello(65_535), raw::call(1, GET, &get("large"))].concat();
    let mut held: Vec<_> = [half, unread].iter().map(|said| raw::silent_after(&node.grpc, said).unwrap()).collect();
    put(&node.channel(), "c", 1).await;
    let start = Instant::now();
    let stopped = node.terminate(PATIENCE).await;
    // The drain is 15 s, and a client may be silent for 10 s.
    assert!(stopped.success() && start.elapsed() < Duration::from_secs(10), "{stopped}, {:?}", start.elapsed());
    assert_eq!(raw::first_of_call(&mut held[0]), Some(raw::HEADERS), "who can be told is told");
}
