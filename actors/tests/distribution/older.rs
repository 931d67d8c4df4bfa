//! Peers of an older build, which do not have the lane of calls, and bytes on that lane which are no call.
#![allow(missing_docs)]

use crate::calling::*;
use crate::support::*;
use converge_actors::distribution::calls::{NotSent, RemoteError};
use converge_actors::distribution::{Lane, PeerStatus, Settings};
use converge_ledger_core::{ClusterId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A peer by hand says nothing of itself: nobody is to take it for dead.
fn patient() -> Settings {
    Settings { heartbeats_missed_max: 1000, ..settings() }
}

/// Waits until the status of its only peer is so.
async fn shows(node: &CallNode, what: &str, enough: impl Fn(&PeerStatus) -> bool) {
    let shown = async {
        while !enough(&node.distribution.status()[0]) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

type HelloFields = (u16, u16, ClusterId, u64, u64, u64, u8, u64, u64, (u32, u32));

/// Shakes hands as node 1 of a build with three lanes, answers pings, and tells which lanes were asked for.
async fn three_lanes(mut stream: TcpStream, asked: mpsc::UnboundedSender<u8>) {
    let mut header = [0; 10];
    stream.read_exact(&mut header).await.unwrap();
    let mut payload = vec![0; u32::from_le_bytes(header[..4].try_into().unwrap()) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    let (.., lane, _, _, _) = postcard::from_bytes::<HelloFields>(&payload).unwrap();
    let _ = asked.send(lane);
    if lane > 2 {
        let reason = format!("node 2 asked node 1 for lane {lane}, which does not exist");
        let refused = postcard::to_stdvec(&(8u16, reason)).unwrap();
        stream.write_all(&raw_frame(REFUSE, &refused)).await.unwrap();
        return;
    }
    let ack = postcard::to_stdvec(&(3u16, 1u64, 9u64, (1u32, 1u32))).unwrap();
    stream.write_all(&raw_frame(HELLO_ACK, &ack)).await.unwrap();
    loop {
        let ping = stream.read_exact(&mut header).await;
        let mut beat = [0; 8];
        if ping.is_err() || stream.read_exact(&mut beat).await.is_err() {
            return;
        }
        let _ = stream.write_all(&raw_frame(5, &beat)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_the_lane_of_calls_keeps_the_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peers = [(1, listener.local_addr().unwrap().to_string()), (2, "unused.invalid:1".to_owned())];
    let (asked, mut asks) = mpsc::unbounded_channel();
    let mut older = JoinSet::new();
    older.spawn(async move {
        let mut streams = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            streams.spawn(three_lanes(stream, asked.clone()));
        }
    });
    let two = CallNode::start(2, patient(), None, &peers).await;
    // Some tries of the lane that is not there.
    let mut tries = 0;
    while tries < 5 {
        tries += u32::from(timeout(PATIENCE, asks.recv()).await.unwrap() == Some(3));
    }
    shows(&two, "the lanes that are there", |status| status.connected).await;
    let status = &two.distribution.status()[0];
    assert_eq!(status.refused, None);
    assert!(Lane::OF_THE_LEDGER.iter().all(|lane| status.lanes[lane].connections == 1), "{status:?}");
    let lane = &status.lanes[&Lane::Call];
    assert!(lane.epoch.is_none() && lane.last_error.as_ref().unwrap().contains("lane 3"), "{lane:?}");
    assert_eq!(two.call(1, "shop", "hello", PATIENCE).await, Err(RemoteError::NotSent(NotSent::Down)));
    assert!(two.calls.nodes().is_empty());
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_peer_that_dials_is_taken_and_does_not_miss_the_lane() {
    let (socket, address) = bind();
    let peers = [(1, address.clone()), (2, "unused.invalid:1".to_owned())];
    let one = CallNode::start(1, patient(), Some(socket), &peers).await;
    let mut streams = Vec::new();
    for lane in 0..3 {
        let (stream, kind) = greet(&address, &RawHello { lane, ..hello(2, 1, 1) }).await;
        assert_eq!(kind, Some(HELLO_ACK));
        streams.push(stream);
    }
    shows(&one, "the three lanes", |status| status.connected).await;
    assert_eq!(one.call(2, "shop", "hello", PATIENCE).await, Err(RemoteError::NotSent(NotSent::Down)));
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_call_closes_the_lane_of_calls_alone() {
    let (socket, address) = bind();
    let peers = [(1, address.clone()), (2, "unused.invalid:1".to_owned())];
    let (one, shop) = (CallNode::start(1, patient(), Some(socket), &peers).await, Shop::default());
    let _open = shop.open_at(&one);
    let (_control, kind) = greet(&address, &hello(2, 1, 1)).await;
    assert_eq!(kind, Some(HELLO_ACK));
    let call = |id: u8, text: &[u8]| {
        let header = [&[1, 0, id, 4][..], b"shop", &[9], b"test.Text", &[100]].concat();
        raw_frame(DATA, &[&header[..], text].concat())
    };
    let twice = [call(1, b"once"), call(1, b"once")].concat();
    let falls = [call(3, b"three"), call(2, b"two")].concat();
    let cut_short = raw_frame(DATA, &[1, 0]);
    for (dial, garbage) in (1..).zip([cut_short, raw_frame(DATA, b""), raw_frame(DATA, &[1, 99]), twice, falls]) {
        let (mut stream, kind) = greet(&address, &RawHello { lane: 3, ..hello(2, 1, dial) }).await;
        assert_eq!(kind, Some(HELLO_ACK));
        stream.write_all(&garbage).await.unwrap();
        closed(&mut stream).await;
        // The next dial could take its place before it is counted.
        shows(&one, "its count", |status| status.lanes[&Lane::Call].malformed == dial).await;
    }
    shop.ended("once").await;
    shop.ended("three").await;
    assert_eq!([shop.runs("once"), shop.runs("three"), shop.runs("two")], [1, 1, 0]);
    let status = &one.distribution.status()[0];
    assert_eq!((status.lanes[&Lane::Call].malformed, status.lanes[&Lane::Control].connections), (5, 1));
    assert!(one.distribution.epoch(NodeId(2), Lane::Control).is_some());
    one.stop().await;
}
