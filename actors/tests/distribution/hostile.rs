//! Bytes that no node of ours sends. The connection closes, the node goes on.
#![allow(missing_docs)]

use std::time::Duration;

use crate::support::*;
use converge_actors::distribution::{Lane, Settings};
use converge_ledger_core::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn listening(settings: Settings) -> (PeerNode, String) {
    let (socket, address) = bind();
    let peers = [(2, "unused.invalid:1".to_owned())];
    (PeerNode::start(1, CLUSTER, settings, Some(socket), &peers).await, address)
}

/// A node that is unharmed takes a peer.
async fn unharmed(node: &PeerNode, address: &str, dial: u64) {
    let (mut stream, kind) = greet(address, &hello(2, 1, dial)).await;
    assert_eq!(kind, Some(HELLO_ACK));
    stream.write_all(&raw_frame(DATA, b"still here")).await.unwrap();
    let here = |seen: &[Seen]| last_is(seen, 2, Lane::Control, b"still here");
    node.sink.until("a frame", here).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_hello_closes() {
    let (node, address) = listening(settings()).await;
    let gibibyte = |kind| [&(1u32 << 30).to_le_bytes()[..], &[1, kind, 0, 0, 0, 0]].concat();
    let mut flipped = raw_frame(HELLO, &postcard::to_stdvec(&hello(2, 1, 1)).unwrap());
    flipped[12] ^= 1;
    let mut bytes = vec![
        gibibyte(HELLO),
        gibibyte(DATA),
        flipped,
        raw_frame(DATA, b""),
        raw_frame(HELLO, b"no hello"),
        raw_frame(99, b""),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    ];
    let mut chance = StdRng::seed_from_u64(3);
    for _ in 0..20 {
        let mut garbage = vec![0; 64];
        chance.fill_bytes(&mut garbage);
        bytes.push(garbage);
    }
    for garbage in bytes {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        closed(&mut stream).await;
    }
    assert!(node.sink.seen().is_empty());
    unharmed(&node, &address, 2).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_ends_an_established_connection() {
    let (node, address) = listening(settings()).await;
    let gibibyte = [&(1u32 << 30).to_le_bytes()[..], &[1, DATA, 0, 0, 0, 0]].concat();
    let mut flipped = raw_frame(DATA, b"payload");
    flipped[12] ^= 1;
    let long_ping = raw_frame(4, b"123456789");
    let short_ping = raw_frame(4, b"1");
    let second_hello = raw_frame(HELLO, b"");
    let mut dial = 0;
    for garbage in [gibibyte, flipped, long_ping, short_ping, second_hello] {
        dial += 1;
        let (mut stream, kind) = greet(&address, &hello(2, 1, dial)).await;
        assert_eq!(kind, Some(HELLO_ACK));
        stream.write_all(&garbage).await.unwrap();
        closed(&mut stream).await;
        let last_down = |seen: &[Seen]| matches!(seen.last(), Some(Seen::Down { .. }));
        node.sink.until("down", last_down).await;
        let lane = &node.distribution.status()[0].lanes[&Lane::Control];
        assert_eq!(lane.malformed, dial);
        assert!(lane.last_error.as_ref().unwrap().contains("no frame"), "{:?}", lane.last_error);
    }
    assert!(node.sink.frames(2, Lane::Control).is_empty());
    unharmed(&node, &address, dial + 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_strangers_are_timed_out() {
    let quick = Settings { handshake_timeout: Duration::from_millis(100), ..settings() };
    let (node, address) = listening(quick).await;
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut half = TcpStream::connect(&address).await.unwrap();
    half.write_all(&[1, 2, 3]).await.unwrap();
    closed(&mut silent).await;
    closed(&mut half).await;
    unharmed(&node, &address, 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_strangers_keeps_no_peer_out() {
    const CROWD: u64 = 50;
    let narrow = Settings {
        handshakes_max: 4,
        // Nobody leaves by time in this test.
        handshake_timeout: Duration::from_secs(60),
        ..settings()
    };
    let (node, address) = listening(narrow).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    unharmed(&node, &address, 1).await;
    let made_room = CROWD + 1 - 4;
    let wait = async {
        while node.distribution.listener_status().crowded_out != made_room {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("never counted: crowded out");
    assert!(node.distribution.listener_status().crowded_out_ago.is_some(), "an operator is told when that was");
    for mut stranger in crowd.drain(..(CROWD - 4) as usize) {
        closed(&mut stranger).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_its_consumer_rejects_ends_the_connection_it_came_over() {
    let nodes = cluster(2, settings()).await;
    let epoch = nodes[0].epoch(2, Lane::Append).unwrap();
    let one = &nodes[0].distribution;
    one.reject(NodeId(2), Lane::Append, epoch + 1, "another connection");
    one.reject(NodeId(9), Lane::Append, epoch, "another peer");
    one.reject(NodeId(2), Lane::Append, epoch, "forged term");
    nodes[0].sink.until("a new epoch", |_| nodes[0].epoch(2, Lane::Append).is_some_and(|now| now > epoch)).await;
    let status = &one.status()[0];
    let error = status.lanes[&Lane::Append].last_error.as_deref();
    assert_eq!(error, Some("a frame was rejected: forged term"));
    assert_eq!(status.lanes[&Lane::Control].connections, 1, "other lanes stay");
    for node in nodes {
        node.stop().await;
    }
}
