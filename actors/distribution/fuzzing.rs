//! Handshakes with strangers, see [`crate::fuzzing`].

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::Bytes;
use converge_ledger_core::levels::MIN_LEVEL;
use converge_ledger_core::{ClusterId, NodeId};

use super::frame::{self, FrameKind, GREETING_BYTES_MAX, HEADER_BYTES, Header};
use super::handshake::{Conclusion, HelloAnswer, Local};
use super::types::Lane;
use crate::fuzzing::Input;
use crate::fuzzing::sample::Seed;

/// Node 2 of three: 3 dials it, and it dials 1.
const NODE: NodeId = NodeId(2);
const DIALER: NodeId = NodeId(3);
const ACCEPTOR: NodeId = NodeId(1);
const DATA_BYTES_MAX: usize = 4096;
const KINDS: [FrameKind; 6] =
    [FrameKind::Hello, FrameKind::HelloAck, FrameKind::Refuse, FrameKind::Ping, FrameKind::Pong, FrameKind::Data];

fn local(node: NodeId) -> Local {
    Local {
        cluster: ClusterId([1; 16]),
        group: 0,
        node,
        incarnation: node.get() * 100,
        peers: [ACCEPTOR, NODE, DIALER].into_iter().filter(|id| *id != node).collect(),
        level: Arc::new(AtomicU32::new(MIN_LEVEL)),
    }
}

/// The bytes of a connection, frame by frame (first byte even), or one frame of a kind with these bytes as its payload
/// and the right header (first byte odd).
pub fn handshake(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    if input.flag() {
        let kind = KINDS[input.below(KINDS.len())];
        return sealed(kind, input.rest());
    }
    let mut stream = input.rest();
    let mut taken = false;
    while let Some((raw, rest)) = stream.split_first_chunk::<HEADER_BYTES>() {
        let Ok(header) = Header::parse(raw, DATA_BYTES_MAX) else { break };
        assert!(header.length <= DATA_BYTES_MAX, "a header announces more than is allowed");
        let Some((payload, rest)) = rest.split_at_checked(header.length) else { break };
        if header.verify(payload).is_err() {
            break;
        }
        let again = frame::encode(header.kind, Bytes::copy_from_slice(payload));
        assert_eq!(again[..], stream[..again.len()], "a frame is written in one way only");
        taken |= judged(header.kind, payload);
        stream = rest;
    }
    taken
}

fn sealed(kind: FrameKind, payload: &[u8]) -> bool {
    let bytes = frame::encode(kind, Bytes::copy_from_slice(payload));
    let (raw, rest) = bytes.split_first_chunk().expect("a frame has a header");
    let Ok(header) = Header::parse(raw, DATA_BYTES_MAX) else {
        assert!(payload.len() > 8, "a short frame of ours is refused");
        return false;
    };
    assert_eq!(header.verify(rest), Ok(()), "a frame of ours fails its checksum");
    judged(kind, payload)
}

fn judged(kind: FrameKind, payload: &[u8]) -> bool {
    answered(kind, payload) | concluded(kind, payload)
}

/// As the acceptor. Whom it takes is a peer that may dial; everybody else hears why not.
fn answered(kind: FrameKind, payload: &[u8]) -> bool {
    match local(NODE).answer(kind, payload) {
        HelloAnswer::Accept { hello, lane, ack } => {
            assert_eq!((kind, hello.from, hello.to), (FrameKind::Hello, DIALER, NODE), "a stranger was let in");
            assert_eq!((hello.cluster, hello.lane), (ClusterId([1; 16]), lane.code()));
            assert!(Lane::ALL.contains(&lane));
            let concluded = local(DIALER).conclude(NODE, FrameKind::HelloAck, &ack[HEADER_BYTES..]);
            assert_eq!(concluded, Conclusion::Joined { incarnation: 200 });
            true
        }
        HelloAnswer::Refuse { refusal, .. } => {
            let frame = refusal.frame();
            assert!(frame.len() <= HEADER_BYTES + GREETING_BYTES_MAX);
            let heard = local(DIALER).conclude(NODE, FrameKind::Refuse, &frame[HEADER_BYTES..]);
            assert_eq!(heard, Conclusion::Refused(refusal.to_string()), "the dialer hears another reason");
            true
        }
        HelloAnswer::Close(_) => false,
    }
}

/// As the dialer. The acceptor's words go into our log: they are short and in one line.
fn concluded(kind: FrameKind, payload: &[u8]) -> bool {
    match local(NODE).conclude(ACCEPTOR, kind, payload) {
        Conclusion::Joined { .. } => {
            assert_eq!(kind, FrameKind::HelloAck);
            true
        }
        Conclusion::Refused(reason) => {
            assert!(reason.chars().count() <= 400 && !reason.chars().any(char::is_control), "{reason:?}");
            true
        }
        Conclusion::Close(_) => false,
    }
}

/// Sound handshakes.
pub(crate) fn seeds() -> Vec<Seed> {
    let seed = |name: &str, pieces: &[&[u8]]| Seed::new("handshake", name, pieces);
    let mut seeds = Vec::new();
    for lane in Lane::ALL {
        let hello = local(DIALER).hello(NODE, lane, 1);
        seeds.push(seed(&format!("hello_{lane}"), &[&[0], &hello]));
        seeds.push(seed(&format!("hello_{lane}_sealed"), &[&[1, 0], &hello[HEADER_BYTES..]]));
    }
    let hello = local(ACCEPTOR).hello(NODE, Lane::Control, 1);
    let HelloAnswer::Refuse { refusal, .. } = local(NODE).answer(FrameKind::Hello, &hello[HEADER_BYTES..]) else {
        panic!("a lower node may not dial")
    };
    seeds.push(seed("refused", &[&[0], &hello]));
    seeds.push(seed("refusal", &[&[0], &refusal.frame()]));
    let hello = local(NODE).hello(ACCEPTOR, Lane::Append, 1);
    let HelloAnswer::Accept { ack, .. } = local(ACCEPTOR).answer(FrameKind::Hello, &hello[HEADER_BYTES..]) else {
        panic!("a higher node dials")
    };
    let data = frame::encode(FrameKind::Data, Bytes::from_static(b"data"));
    seeds.push(seed("ack_and_data", &[&[0], &ack, &data]));
    seeds
}
