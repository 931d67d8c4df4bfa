//! Killed actors, half-open peers, slow peers, a broken consumer.
#![allow(missing_docs)]

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use converge_actors::distribution::{Distribution, Identity, Lane, SendError, Settings};
use converge_ledger_core::NodeId;
use converge_supervisors::{ChildSpec, Intensity, Strategy, SupervisorSpec, Tree};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

fn paths(peer: u64) -> Vec<String> {
    let mut paths: Vec<_> = Lane::ALL.iter().map(|lane| format!("root/links/{peer}-{lane}")).collect();
    paths.extend(["root/links".to_owned(), "root/listener".to_owned()]);
    paths
}

/// Kills the actor at `path` and waits until an incarnation of its own has taken its place.
async fn kill(node: &PeerNode, path: &str) {
    let wait = async {
        let cell = loop {
            match node.tree.find(path) {
                Some(cell) => break cell,
                None => tokio::task::yield_now().await,
            }
        };
        cell.kill();
        while node.tree.find(path).is_none_or(|now| now.get_id() == cell.get_id()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{path} did not come back"));
}

/// Sends `payload` until it arrives: a connection whose end is not yet known swallows what it is given.
async fn arrives(from: &PeerNode, to: &PeerNode, lane: Lane, payload: &[u8]) {
    let came = |seen: &[Seen]| last_is(seen, from.id, lane, payload);
    let sending = async {
        loop {
            let _ = from.send(to.id, lane, payload);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = to.sink.until("the last frame", came) => {}
        () = sending => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_actor_dies_the_links_come_back_and_nothing_is_doubled() {
    const ROUNDS: usize = 40;
    let nodes = cluster(2, settings()).await;
    let mut chance = StdRng::seed_from_u64(20);
    let mut number = 0u64;
    for round in 0..ROUNDS {
        let victim = &nodes[chance.random_range(0..2)];
        let paths = paths(3 - victim.id);
        let path = &paths[chance.random_range(0..paths.len())];
        if round % 2 == 0 {
            for node in &nodes {
                node.connected().await;
            }
        }
        for _ in 0..20 {
            for (from, to) in [(0, 2), (1, 1)] {
                for lane in Lane::ALL {
                    // Down is fair while a link is away.
                    let _ = nodes[from].send(to, lane, &number.to_le_bytes());
                    number += 1;
                }
            }
        }
        kill(victim, path).await;
    }
    for (from, to) in [(0, 1), (1, 0)] {
        for lane in Lane::ALL {
            arrives(&nodes[from], &nodes[to], lane, b"last").await;
        }
    }
    for node in &nodes {
        for lane in Lane::ALL {
            // Numbers rise from frame to frame, within epochs and across them: nothing comes twice.
            let frames = node.sink.frames(3 - node.id, lane);
            let numbered = frames.iter().filter_map(|(_, payload)| payload[..].try_into().ok());
            let numbers: Vec<u64> = numbered.map(u64::from_le_bytes).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{lane}: {numbers:?}");
            assert!(numbers.len() > 20, "hardly anything was exchanged");
        }
        node.sink.check_protocol();
        let connections: u64 = node.distribution.status()[0].lanes.values().map(|lane| lane.connections).sum();
        assert!(connections > 10, "hardly a link was lost, the test kills nothing");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_link_closes_its_socket_and_empties_its_slot() {
    let (socket, address) = bind();
    let one = PeerNode::start(1, CLUSTER, settings(), Some(socket), &[(2, "unused.invalid:1".into())]).await;
    for path in ["root/links/2-control", "root/links"] {
        let (mut stream, kind) = greet(&address, &hello(2, 1, 1)).await;
        assert_eq!(kind, Some(HELLO_ACK));
        one.sink.until("up", |_| one.epoch(2, Lane::Control).is_some()).await;
        kill(&one, path).await;
        closed(&mut stream).await;
        one.sink.until("down", |seen| matches!(seen.last(), Some(Seen::Down { .. }))).await;
        assert_eq!(one.send(2, Lane::Control, b"x"), Err(SendError::Down));
    }
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_panics_costs_one_connection() {
    let nodes = cluster(2, settings()).await;
    let before = nodes[1].epoch(1, Lane::Control).unwrap();
    nodes[1].sink.panic_once.store(true, SeqCst);
    nodes[0].send(2, Lane::Control, b"poison").unwrap();
    let risen = || nodes[1].epoch(1, Lane::Control).is_some_and(|now| now > before);
    nodes[1].sink.until("a new epoch", |_| risen()).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_peer_is_noticed_on_both_sides_and_comes_back() {
    let settings = Settings {
        heartbeat: Duration::from_millis(50),
        heartbeats_missed_max: 6,
        handshake_timeout: Duration::from_millis(300),
        ..settings()
    };
    let (socket, address) = bind();
    let proxy = Proxy::start(address).await;
    let peers = [(2, "unused.invalid:1".to_owned())];
    let one = PeerNode::start(1, CLUSTER, settings.clone(), Some(socket), &peers).await;
    let two = PeerNode::start(2, CLUSTER, settings, None, &[(1, proxy.address.clone())]).await;
    one.connected().await;
    two.connected().await;
    let before = two.epoch(1, Lane::Append).unwrap();

    proxy.stall(true);
    for node in [&one, &two] {
        let downs = |seen: &[Seen]| seen.iter().filter(|s| matches!(s, Seen::Down { .. })).count();
        node.sink.until("each lane down", |seen| downs(seen) >= Lane::ALL.len()).await;
        let status = &node.distribution.status()[0];
        assert!(!status.connected);
    }
    let error = two.distribution.status()[0].lanes[&Lane::Append].last_error.clone().unwrap();
    assert!(error.contains("nothing was heard") || error.contains("in time"), "{error}");

    proxy.stall(false);
    one.connected().await;
    two.connected().await;
    assert!(two.epoch(1, Lane::Append).unwrap() > before);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_peer_sheds_within_bounds_and_is_not_taken_for_dead() {
    const FRAME_BYTES: usize = 64 << 10;
    let settings = Settings {
        frame_bytes_max: 1 << 20,
        queue_bytes_max: 4 << 20,
        inbound_bytes_max: 2 << 20,
        heartbeat: Duration::from_millis(100),
        heartbeats_missed_max: 10,
        ..settings()
    };
    let nodes = cluster(2, settings.clone()).await;
    let epoch = nodes[1].epoch(1, Lane::Append);
    nodes[1].sink.hold.store(true, SeqCst);
    // Until the queue stays full: the kernel's buffers take their share first.
    let payload = Bytes::from(vec![1; FRAME_BYTES]);
    let mut queued = 0;
    let mut refused_in_a_row = 0;
    let bound = settings.queue_bytes_max + settings.inbound_bytes_max + (16 << 20);
    while refused_in_a_row < 200 {
        match nodes[0].send(2, Lane::Append, &payload) {
            Ok(()) => {
                (queued, refused_in_a_row) = (queued + 1, 0);
                // Queue and credit are ours to bound; loopback sockets hold some MiB more.
                let waiting = queued * FRAME_BYTES;
                assert!(waiting <= bound, "{waiting} bytes are under way, {bound} are allowed");
            }
            Err(SendError::Full) => {
                refused_in_a_row += 1;
                // Time for what is under way to move: nothing tells of a frame that does not come.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(nodes[1].sink.held_bytes() <= settings.inbound_bytes_max);
    let status = &nodes[0].distribution.status()[0].lanes[&Lane::Append];
    assert!(status.shed >= 200);
    // Twice as long as silence is tolerated, yet nobody was taken for dead: signs of life still flow
    // from the slow node, and its own silence does not count while it does not listen.
    assert_eq!(nodes[1].epoch(1, Lane::Append), epoch);
    // Other lanes do not feel it.
    nodes[0].send(2, Lane::Control, b"urgent").unwrap();
    nodes[1].sink.until("control", |seen| frames(seen, 1, Lane::Control) == 1).await;

    nodes[1].sink.release();
    nodes[1].sink.until("the rest", |seen| frames(seen, 1, Lane::Append) == queued).await;
    assert_eq!(nodes[1].epoch(1, Lane::Append), epoch);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_waits_for_a_link_that_is_not_there_yet() {
    let (socket, address) = bind();
    let sink = Recorder::new();
    let peers = [(NodeId(2), "unused.invalid:1".to_owned())].into();
    let identity = Identity { cluster_id: CLUSTER, node_id: NodeId(1) };
    let distribution = Distribution::new(settings(), identity, peers, Some(socket), sink.clone());
    let [links, listener]: [ChildSpec; 2] = distribution.children().try_into().unwrap();
    let alone = |child| {
        let intensity = Intensity { restarts: 0, period: Duration::from_secs(1) };
        SupervisorSpec::new(Strategy::OneForOne, intensity, vec![child])
    };
    let port = Tree::start("port", alone(listener)).await.unwrap();
    let mut early = say_hello(&address, &hello(2, 1, 1)).await;
    // Connections are accepted in order: as this one was looked at, the hello before it is accepted, and nobody is there
    // to take it.
    let mut stranger = say_hello(&address, &RawHello { group: 9, ..hello(2, 1, 2) }).await;
    closed(&mut stranger).await;
    let links = Tree::start("links", alone(links)).await.unwrap();
    assert_eq!(answer(&mut early).await, Some(HELLO_ACK));
    sink.until("up", |seen| matches!(seen, [Seen::Up { .. }])).await;
    port.stop(PATIENCE).await.unwrap();
    links.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_the_listener_refuses_no_connection() {
    let (socket, address) = bind();
    let one = PeerNode::start(1, CLUSTER, settings(), Some(socket), &[(2, "unused.invalid:1".into())]).await;
    let mut joined = 0;
    for dial in 1..=50 {
        // Half of the time the hello arrives while nobody is there to accept it. A connection that was
        // accepted just before the kill is closed, and its node dials again: what may not happen is
        // that nobody listens, on which `greet` panics.
        let hello = hello(2, 1, dial);
        let (_, (_stream, kind)) = tokio::join!(kill(&one, "root/listener"), greet(&address, &hello));
        joined += u32::from(kind == Some(HELLO_ACK));
    }
    assert!(joined > 0, "no connection outlived the restart of the listener");
    let (_stream, kind) = greet(&address, &hello(2, 1, 51)).await;
    assert_eq!(kind, Some(HELLO_ACK));
    one.stop().await;
}
