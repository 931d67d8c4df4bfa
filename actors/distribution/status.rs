//! What an operator may know about links.

use std::collections::BTreeMap;
use std::time::Duration;

use converge_ledger_core::NodeId;
use serde::Serialize;

use super::types::Lane;

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkPhase {
    /// Its actor does not run.
    Stopped,
    /// The peer, which has the higher id, is expected to dial.
    Listening,
    /// Waiting to dial, or dialing.
    Connecting {
        /// Dials since the last connection that lasted.
        attempt: u32,
    },
    /// Connected, the peer has not answered the hello.
    Handshaking {
        /// Dials since the last connection that lasted.
        attempt: u32,
    },
    /// Frames flow.
    Up {
        /// The connection.
        epoch: u64,
    },
}

/// One peer.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Its id.
    pub id: NodeId,
    /// The configured address.
    pub address: String,
    /// Whether every lane of the ledger is up.
    pub connected: bool,
    /// Each lane.
    pub lanes: BTreeMap<Lane, LaneStatus>,
    /// Why the last handshake was refused, by either side; `None` once a lane is up.
    pub refused: Option<String>,
    /// Why its name does not resolve; `None` where it does, or is an address.
    pub unresolved: Option<String>,
    /// Round-trip time of the last ping on the control lane, in microseconds.
    pub rtt_us: Option<u64>,
}

/// One link.
#[derive(Debug, Clone, Serialize)]
pub struct LaneStatus {
    /// Where it stands.
    pub phase: LinkPhase,
    /// The connection that is up.
    pub epoch: Option<u64>,
    /// Connections so far.
    pub connections: u64,
    /// Data frames written to the socket.
    pub frames_sent: u64,
    /// Their payload bytes.
    pub bytes_sent: u64,
    /// Data frames delivered.
    pub frames_received: u64,
    /// Their payload bytes.
    pub bytes_received: u64,
    /// Frames refused because the queue was full.
    pub shed: u64,
    /// Connections closed because of what the peer sent.
    pub malformed: u64,
    /// Why the last connection ended or could not be made.
    pub last_error: Option<String>,
    /// Round-trip time of the last ping, in microseconds.
    pub rtt_us: Option<u64>,
}

/// What happened at the peer port since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ListenerStatus {
    /// Connections closed to make room for newer ones.
    pub crowded_out: u64,
    /// How long ago one was closed to make room.
    pub crowded_out_ago: Option<Duration>,
}
