//! What works when nothing is broken: every lane, order, size bounds, names, status, the newer connection.
#![allow(missing_docs)]

use crate::support::*;
use bytes::Bytes;
use converge_actors::distribution::{Lane, LinkPhase, SendError};
use converge_ledger_core::NodeId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_exchange_on_every_lane_in_order() {
    const FRAMES: u32 = 500;
    let nodes = cluster(3, settings()).await;
    for node in &nodes {
        for peer in nodes.iter().filter(|peer| peer.id != node.id) {
            for lane in Lane::ALL {
                for n in 0..FRAMES {
                    node.send(peer.id, lane, &n.to_le_bytes()).unwrap();
                }
            }
        }
    }
    for node in &nodes {
        let all = FRAMES as usize * 2 * Lane::ALL.len();
        let frames = |seen: &[Seen]| seen.iter().filter(|s| matches!(s, Seen::Frame { .. })).count();
        node.sink.until("all frames", |seen| frames(seen) == all).await;
        for peer in nodes.iter().filter(|peer| peer.id != node.id) {
            for lane in Lane::ALL {
                let epoch = node.epoch(peer.id, lane).unwrap();
                let got = node.sink.frames(peer.id, lane);
                let sent: Vec<_> = (0..FRAMES).map(|n| (epoch, Bytes::copy_from_slice(&n.to_le_bytes()))).collect();
                assert_eq!(got, sent, "{} -> {} over {lane}", peer.id, node.id);
            }
        }
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_are_joined_and_the_longest_frame_passes() {
    let settings = settings();
    let longest = settings.frame_bytes_max;
    let nodes = cluster(2, settings).await;
    let pieces = vec![Bytes::from_static(b"head"), Bytes::from(vec![3; longest - 4])];
    nodes[0].distribution.send(NodeId(2), Lane::Append, pieces).unwrap();
    nodes[0].send(2, Lane::Append, b"").unwrap();
    nodes[1].sink.until("two frames", |seen| frames(seen, 1, Lane::Append) == 2).await;
    let frames = nodes[1].sink.frames(1, Lane::Append);
    assert_eq!(frames[0].1.len(), longest);
    assert_eq!(&frames[0].1[..6], b"head\x03\x03");
    assert!(frames[1].1.is_empty());

    let too_long = nodes[0].send(2, Lane::Append, &vec![0; longest + 1]);
    assert_eq!(too_long, Err(SendError::TooLong));
    assert_eq!(nodes[0].send(9, Lane::Append, b"x"), Err(SendError::Down));
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_may_be_a_host_name_and_the_lower_id_needs_no_address() {
    let (socket, address) = bind();
    let port = loopback(&address).port();
    let peers = [(2, "never.dialed.invalid:1".to_owned())];
    let one = PeerNode::start(1, CLUSTER, settings(), Some(socket), &peers).await;
    let peers = [(1, format!("localhost:{port}"))];
    let two = PeerNode::start(2, CLUSTER, settings(), None, &peers).await;
    one.connected().await;
    two.connected().await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_what_happened() {
    let nodes = cluster(2, settings()).await;
    nodes[0].send(2, Lane::Forward, b"four").unwrap();
    nodes[1].sink.until("the frame", |seen| frames(seen, 1, Lane::Forward) == 1).await;
    let peer = &nodes[1].distribution.status()[0];
    assert_eq!(peer.id, NodeId(1));
    assert!(peer.connected && peer.refused.is_none());
    let lane = &peer.lanes[&Lane::Forward];
    assert_eq!((lane.frames_received, lane.bytes_received, lane.connections), (1, 4, 1));
    assert_eq!(lane.phase, LinkPhase::Up { epoch: lane.epoch.unwrap() });

    let [one, two]: [PeerNode; 2] = nodes.try_into().ok().unwrap();
    two.stop().await;
    let downs = |seen: &[Seen]| seen.iter().filter(|s| matches!(s, Seen::Down { .. })).count();
    one.sink.until("each lane down", |seen| downs(seen) == Lane::ALL.len()).await;
    assert_eq!(one.send(2, Lane::Forward, b"x"), Err(SendError::Down));
    let peer = &one.distribution.status()[0];
    assert!(!peer.connected && peer.lanes[&Lane::Forward].epoch.is_none());
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_takes_over_and_an_older_one_does_not() {
    let (socket, address) = bind();
    let one = PeerNode::start(1, CLUSTER, settings(), Some(socket), &[(2, "unused.invalid:1".into())]).await;
    let (mut first, kind) = greet(&address, &hello(2, 1, 10)).await;
    assert_eq!(kind, Some(HELLO_ACK));
    one.sink.until("the first", |seen| seen.len() == 1).await;
    let (mut second, kind) = greet(&address, &hello(2, 1, 11)).await;
    assert_eq!(kind, Some(HELLO_ACK));
    closed(&mut first).await;
    one.sink.until("the second", |seen| seen.len() == 3).await;
    // A hello that was overtaken on its way is given up by its own dialer.
    let (mut late, _) = greet(&address, &hello(2, 1, 10)).await;
    closed(&mut late).await;
    let seen = one.sink.seen();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(matches!(
        (&seen[0], &seen[1], &seen[2]),
        (Seen::Up { epoch: a, .. }, Seen::Down { epoch: b, .. }, Seen::Up { epoch: c, .. }) if a == b && c > a
    ));
    // Another process of the same node counts its dials from the start.
    let (_third, kind) = greet(&address, &RawHello { incarnation: 6, ..hello(2, 1, 1) }).await;
    assert_eq!(kind, Some(HELLO_ACK));
    closed(&mut second).await;
    one.sink.until("the third", |seen| seen.len() == 5).await;
    one.stop().await;
}
