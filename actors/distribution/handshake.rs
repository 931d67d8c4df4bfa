//! Who may talk to whom: the decisions of the handshake, without its I/O.
//!
//! ```text
//! dialer (higher id)                          acceptor (lower id)
//!   Hello{versions, cluster, group, from, to, lane, incarnation, dial}
//!                          ───────────────▶   judge
//!                          ◀───────────────   HelloAck{version, from, incarnation}   or
//!                          ◀───────────────   Refuse{code, reason}, then close
//! ```
//!
//! A hello proves nothing: there is no secret in it. The peer port belongs on a private network; what
//! the handshake keeps out is a node that is configured wrongly, not an attacker.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use converge_ledger_core::levels::{MAX_LEVEL, MIN_LEVEL};
use converge_ledger_core::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

use super::frame::{self, FrameKind, Malformed};
use super::types::Lane;

/// Oldest and newest protocol this build speaks. A lane that is new needs no other one: a build that does not have it
/// refuses the connections of that lane, and takes those of the others.
pub(super) const PROTOCOLS: (u16, u16) = (3, 3);
/// The levels that this build knows.
const LEVELS_KNOWN: (u32, u32) = (MIN_LEVEL, MAX_LEVEL);
/// A refusal's text is cut here before it is shown or sent.
const REASON_CHARS_MAX: usize = 400;

/// The dialer's opening words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol_min: u16,
    pub(super) protocol_max: u16,
    pub(super) cluster: ClusterId,
    pub(super) group: u64,
    pub(super) from: NodeId,
    /// Whom the dialer believes to have reached.
    pub(super) to: NodeId,
    pub(super) lane: u8,
    /// Drawn anew by every process.
    pub(super) incarnation: u64,
    /// Rises with every dial of one incarnation on one lane: tells a late hello from the latest.
    pub(super) dial: u64,
    /// The lowest and the highest level that the dialer knows.
    pub(super) levels: (u32, u32),
}

/// The acceptor's consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HelloAck {
    pub(super) protocol: u16,
    pub(super) from: NodeId,
    pub(super) incarnation: u64,
    /// The lowest and the highest level that the acceptor knows.
    pub(super) levels: (u32, u32),
}

/// A refusal as it travels: a code for programs of any later version, words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    code: u16,
    reason: String,
}

/// Why an acceptor does not take a hello.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{from} speaks peer protocols {theirs:?}, {by} speaks {PROTOCOLS:?}: upgrade the older one")]
    Protocol { from: Named, by: Named, theirs: (u16, u16) },
    #[error("{from} belongs to cluster {theirs}, {by} to cluster {ours}: check cluster name and peer addresses")]
    Cluster { from: Named, by: Named, theirs: ClusterId, ours: ClusterId },
    #[error("{from} serves group {theirs}, {by} serves group {ours}")]
    Group { from: Named, by: Named, theirs: u64, ours: u64 },
    #[error("{from} dialed {to} but reached {by}: check the address of {to}")]
    Misdirected { from: Named, to: Named, by: Named },
    #[error("{by} was called by a node with its own id: two nodes are configured as {by}")]
    OwnId { by: Named },
    #[error("{from} is not among the peers that {by} is configured with")]
    Unknown { from: Named, by: Named },
    #[error("{from} dialed {by}, but of two nodes the one with the higher id dials")]
    Direction { from: Named, by: Named },
    #[error("{from} asked {by} for lane {lane}, which does not exist")]
    Lane { from: Named, by: Named, lane: u8 },
    #[error(
        "{old} knows levels {known:?}, the cluster of {by} is at level {level}: install a program on {old} that knows it"
    )]
    Level { old: Named, by: Named, known: (u32, u32), level: u32 },
}

impl Refusal {
    fn code(&self) -> u16 {
        match self {
            Refusal::Protocol { .. } => 1,
            Refusal::Cluster { .. } => 2,
            Refusal::Group { .. } => 3,
            Refusal::Misdirected { .. } => 4,
            Refusal::OwnId { .. } => 5,
            Refusal::Unknown { .. } => 6,
            Refusal::Direction { .. } => 7,
            Refusal::Lane { .. } => 8,
            Refusal::Level { .. } => 9,
        }
    }

    /// The frame that tells the dialer.
    pub(super) fn frame(&self) -> Bytes {
        let reason = self.to_string().chars().take(REASON_CHARS_MAX).collect();
        encode(FrameKind::Refuse, &Refused { code: self.code(), reason })
    }
}

/// A node id that reads as "node 3".
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Named(pub(super) NodeId);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the acceptor does with the first frame of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HelloAnswer {
    /// Take it: send `ack`, then hand the stream to the link of `peer` and `lane`.
    Accept { hello: Hello, lane: Lane, ack: Bytes },
    /// Send `refusal.frame()`, then close.
    Refuse { from: NodeId, refusal: Refusal },
    /// No frame of ours: close without a word.
    Close(Malformed),
}

/// What came of the dialer's hello.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// The connection is ours.
    Joined { incarnation: u64 },
    /// The acceptor, or we, will not have it.
    Refused(String),
    /// No frame of ours: close without a word.
    Close(Malformed),
}

/// What this node says of itself and knows of others.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) cluster: ClusterId,
    pub(super) group: u64,
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) peers: BTreeSet<NodeId>,
    /// The level of the cluster, as far as this node has applied it.
    pub(super) level: Arc<AtomicU32>,
}

impl Local {
    /// A node that does not know the cluster's level could not apply what comes.
    fn knows_level(&self, peer: NodeId, known: (u32, u32)) -> Result<(), Refusal> {
        let level = self.level.load(Ordering::Acquire);
        if (known.0..=known.1).contains(&level) {
            return Ok(());
        }
        Err(Refusal::Level { old: Named(peer), by: Named(self.node), known, level })
    }

    /// Of two nodes the one with the higher id dials.
    pub(super) fn dials(&self, peer: NodeId) -> bool {
        self.node > peer
    }

    /// The frame that opens a connection.
    pub(super) fn hello(&self, to: NodeId, lane: Lane, dial: u64) -> Bytes {
        encode(
            FrameKind::Hello,
            &Hello {
                protocol_min: PROTOCOLS.0,
                protocol_max: PROTOCOLS.1,
                cluster: self.cluster,
                group: self.group,
                from: self.node,
                to,
                lane: lane.code(),
                incarnation: self.incarnation,
                dial,
                levels: LEVELS_KNOWN,
            },
        )
    }

    /// The acceptor's step: one frame in, one answer out.
    pub(super) fn answer(&self, kind: FrameKind, payload: &[u8]) -> HelloAnswer {
        if kind != FrameKind::Hello {
            return HelloAnswer::Close(Malformed::OutOfPlace(kind));
        }
        let Ok(hello) = postcard::from_bytes::<Hello>(payload) else {
            return HelloAnswer::Close(Malformed::Payload(kind));
        };
        match self.judge(&hello) {
            Ok((lane, protocol)) => {
                let (from, incarnation) = (self.node, self.incarnation);
                let ack = HelloAck { protocol, from, incarnation, levels: LEVELS_KNOWN };
                HelloAnswer::Accept { hello, lane, ack: encode(FrameKind::HelloAck, &ack) }
            }
            Err(refusal) => HelloAnswer::Refuse { from: hello.from, refusal },
        }
    }

    fn judge(&self, hello: &Hello) -> Result<(Lane, u16), Refusal> {
        let (from, by) = (Named(hello.from), Named(self.node));
        let protocol = hello.protocol_max.min(PROTOCOLS.1);
        if protocol < hello.protocol_min.max(PROTOCOLS.0) {
            let theirs = (hello.protocol_min, hello.protocol_max);
            return Err(Refusal::Protocol { from, by, theirs });
        }
        if hello.cluster != self.cluster {
            return Err(Refusal::Cluster { from, by, theirs: hello.cluster, ours: self.cluster });
        }
        if hello.group != self.group {
            return Err(Refusal::Group { from, by, theirs: hello.group, ours: self.group });
        }
        if hello.from == self.node {
            return Err(Refusal::OwnId { by });
        }
        if hello.to != self.node {
            return Err(Refusal::Misdirected { from, to: Named(hello.to), by });
        }
        if !self.peers.contains(&hello.from) {
            return Err(Refusal::Unknown { from, by });
        }
        if self.dials(hello.from) {
            return Err(Refusal::Direction { from, by });
        }
        self.knows_level(hello.from, hello.levels)?;
        let lane = Lane::from_code(hello.lane).ok_or(Refusal::Lane { from, by, lane: hello.lane })?;
        Ok((lane, protocol))
    }

    /// The dialer's step: the acceptor's frame in, what came of it out.
    pub(super) fn conclude(&self, peer: NodeId, kind: FrameKind, payload: &[u8]) -> Conclusion {
        match kind {
            FrameKind::HelloAck => match postcard::from_bytes::<HelloAck>(payload) {
                Ok(ack) if ack.from != peer => Conclusion::Refused(
                    Refusal::Misdirected { from: Named(self.node), to: Named(peer), by: Named(ack.from) }.to_string(),
                ),
                Ok(ack) if !(PROTOCOLS.0..=PROTOCOLS.1).contains(&ack.protocol) => Conclusion::Refused(format!(
                    "node {peer} chose peer protocol {}, which was not offered",
                    ack.protocol
                )),
                Ok(ack) => match self.knows_level(peer, ack.levels) {
                    Ok(()) => Conclusion::Joined { incarnation: ack.incarnation },
                    Err(refusal) => Conclusion::Refused(refusal.to_string()),
                },
                Err(_) => Conclusion::Close(Malformed::Payload(kind)),
            },
            FrameKind::Refuse => match postcard::from_bytes::<Refused>(payload) {
                // The text is another node's: no control characters into our log.
                Ok(refused) => Conclusion::Refused(
                    refused
                        .reason
                        .chars()
                        .take(REASON_CHARS_MAX)
                        .map(|c| if c.is_control() { ' ' } else { c })
                        .collect(),
                ),
                Err(_) => Conclusion::Close(Malformed::Payload(kind)),
            },
            _ => Conclusion::Close(Malformed::OutOfPlace(kind)),
        }
    }
}

fn encode<T: Serialize>(kind: FrameKind, message: &T) -> Bytes {
    let payload = postcard::to_stdvec(message).expect("a greeting has no unencodable part");
    assert!(payload.len() <= frame::GREETING_BYTES_MAX, "a greeting outgrew its bound");
    frame::encode(kind, Bytes::from(payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::frame::HEADER_BYTES;
    use proptest::prelude::*;

    fn local(node: u64) -> Local {
        Local {
            cluster: ClusterId([1; 16]),
            group: 0,
            node: NodeId(node),
            incarnation: node * 100,
            peers: (1..=3).filter(|id| *id != node).map(NodeId).collect(),
            level: Arc::new(AtomicU32::new(MIN_LEVEL)),
        }
    }

    fn hello(from: u64, to: u64) -> Hello {
        Hello {
            protocol_min: PROTOCOLS.0,
            protocol_max: PROTOCOLS.1,
            cluster: ClusterId([1; 16]),
            group: 0,
            from: NodeId(from),
            to: NodeId(to),
            lane: 0,
            incarnation: 9,
            dial: 1,
            levels: LEVELS_KNOWN,
        }
    }

    fn refusal(hello: Hello) -> Refusal {
        let payload = postcard::to_stdvec(&hello).unwrap();
        match local(2).answer(FrameKind::Hello, &payload) {
            HelloAnswer::Refuse { refusal, .. } => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn two_nodes_join_on_each_lane() {
        for lane in Lane::ALL {
            let opening = local(3).hello(NodeId(2), lane, 1);
            let HelloAnswer::Accept { hello, lane: got, ack } =
                local(2).answer(FrameKind::Hello, &opening[HEADER_BYTES..])
            else {
                panic!("refused")
            };
            assert_eq!((hello.from, got), (NodeId(3), lane));
            assert_eq!(
                local(3).conclude(NodeId(2), FrameKind::HelloAck, &ack[HEADER_BYTES..]),
                Conclusion::Joined { incarnation: 200 }
            );
        }
    }

    #[test]
    fn each_wrong_hello_has_its_refusal() {
        assert!(matches!(refusal(hello(2, 2)), Refusal::OwnId { .. }));
        assert!(matches!(refusal(hello(3, 1)), Refusal::Misdirected { .. }));
        assert!(matches!(refusal(hello(9, 2)), Refusal::Unknown { .. }));
        assert!(matches!(refusal(hello(1, 2)), Refusal::Direction { .. }));
        let wrong = Hello { cluster: ClusterId([2; 16]), ..hello(3, 2) };
        assert!(matches!(refusal(wrong), Refusal::Cluster { .. }));
        assert!(matches!(refusal(Hello { group: 7, ..hello(3, 2) }), Refusal::Group { .. }));
        assert!(matches!(refusal(Hello { lane: 4, ..hello(3, 2) }), Refusal::Lane { .. }));
        let (oldest, newest) = PROTOCOLS;
        // A newer one, an older one, and one whose bounds are the wrong way round.
        for (protocol_min, protocol_max) in [(newest + 1, newest + 3), (1, oldest - 1), (oldest, oldest - 1)] {
            let wrong = Hello { protocol_min, protocol_max, ..hello(3, 2) };
            assert!(matches!(refusal(wrong), Refusal::Protocol { .. }));
        }
    }

    #[test]
    fn a_node_that_does_not_know_the_clusters_level_is_refused_by_either_side() {
        let ahead = |node| Local { level: Arc::new(AtomicU32::new(MAX_LEVEL + 1)), ..local(node) };
        let says = |text: &str, old: u64| {
            let expected = format!("node {old} knows levels {LEVELS_KNOWN:?}, the cluster of node");
            assert!(text.starts_with(&expected) && text.contains(&format!("level {}:", MAX_LEVEL + 1)), "{text}");
        };
        let opening = local(3).hello(NodeId(2), Lane::Append, 1);
        let HelloAnswer::Refuse { refusal, .. } = ahead(2).answer(FrameKind::Hello, &opening[HEADER_BYTES..]) else {
            panic!("it was let in")
        };
        says(&refusal.to_string(), 3);
        let HelloAnswer::Accept { ack, .. } = local(2).answer(FrameKind::Hello, &opening[HEADER_BYTES..]) else {
            panic!("refused")
        };
        let Conclusion::Refused(refusal) = ahead(3).conclude(NodeId(2), FrameKind::HelloAck, &ack[HEADER_BYTES..])
        else {
            panic!("it was joined")
        };
        says(&refusal, 2);
    }

    #[test]
    fn both_sides_speak_of_a_refusal_in_the_same_words() {
        let refusal = refusal(hello(9, 2));
        let frame = refusal.frame();
        assert_eq!(
            local(3).conclude(NodeId(2), FrameKind::Refuse, &frame[HEADER_BYTES..]),
            Conclusion::Refused(refusal.to_string())
        );
    }

    #[test]
    fn an_ack_from_another_node_is_refused() {
        let ack = postcard::to_stdvec(&HelloAck {
            protocol: PROTOCOLS.0,
            from: NodeId(1),
            incarnation: 1,
            levels: LEVELS_KNOWN,
        });
        assert!(matches!(local(3).conclude(NodeId(2), FrameKind::HelloAck, &ack.unwrap()), Conclusion::Refused(_)));
    }

    #[test]
    fn a_frame_out_of_place_closes() {
        assert!(matches!(local(2).answer(FrameKind::Data, b""), HelloAnswer::Close(_)));
        assert!(matches!(local(3).conclude(NodeId(2), FrameKind::Ping, b""), Conclusion::Close(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn garbage_is_neither_joined_nor_a_panic(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            // Sixteen right bytes of cluster id do not come up by chance.
            let accepted = matches!(local(2).answer(FrameKind::Hello, &payload), HelloAnswer::Accept { .. });
            prop_assert!(!accepted);
            let _ = local(3).conclude(NodeId(2), FrameKind::Refuse, &payload);
        }
    }
}
