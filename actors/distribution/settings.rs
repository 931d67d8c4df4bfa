//! The bounds and intervals of links.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use converge_ledger_core::levels::MIN_LEVEL;
use converge_supervisors::Intensity;

use super::calls;
use super::types::Lane;

/// Lengths on the wire have 32 bits; no frame comes near.
const FRAME_BYTES_CEILING: usize = 1 << 30;
/// Charged per frame on top of its bytes, so that empty frames are not free.
pub(super) const FRAME_OVERHEAD_BYTES: usize = 256;

/// Every bound and interval of the distribution; [`Settings::default`] suits a local network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Group whose links these are; both ends must agree.
    pub group: u64,
    /// Longest payload of one frame. A longer one from a peer closes the connection. Both nodes need
    /// the same.
    pub frame_bytes_max: usize,
    /// Frames that may wait on one link to be written.
    pub queue_frames_max: usize,
    /// Bytes that may wait on one link to be written; at least one longest frame.
    pub queue_bytes_max: usize,
    /// Bytes that consumers of one link may hold before its reader stops, what they make of frames included
    /// ([`super::Permit::weigh`]); at least one longest frame.
    pub inbound_bytes_max: usize,
    /// Interval of pings.
    pub heartbeat: Duration,
    /// A peer from which no byte came for this many intervals is dead.
    pub heartbeats_missed_max: u32,
    /// Time to look up a name and to connect.
    pub connect_timeout: Duration,
    /// Time for a handshake, on either side.
    pub handshake_timeout: Duration,
    /// Connections whose handshake may be under way at once; one more ends the oldest.
    pub handshakes_max: usize,
    /// Wait before the first new dial after a loss.
    pub backoff_first: Duration,
    /// Longest wait between dials; also the wait after a refusal.
    pub backoff_max: Duration,
    /// Abnormal ends of links within a period after which `links` gives up.
    pub links_intensity: Intensity,
    /// The level of the cluster: a peer that does not know it is refused. That of a new cluster by default.
    pub level: Arc<AtomicU32>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            group: 0,
            frame_bytes_max: 8 << 20,
            queue_frames_max: 4096,
            queue_bytes_max: 32 << 20,
            inbound_bytes_max: 16 << 20,
            heartbeat: Duration::from_millis(500),
            heartbeats_missed_max: 3,
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(2),
            handshakes_max: 64,
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            links_intensity: Intensity { restarts: 20, period: Duration::from_secs(10) },
            level: Arc::new(AtomicU32::new(MIN_LEVEL)),
        }
    }
}

impl Settings {
    /// How long a connection may be silent.
    pub(super) fn silence_max(&self) -> Duration {
        self.heartbeat.saturating_mul(self.heartbeats_missed_max.max(1))
    }

    /// The bounds of one lane: calls of hosts take none of the memory that the ledger's frames may have.
    pub(super) fn of(&self, lane: Lane) -> Settings {
        let settings = self.clone();
        match lane {
            Lane::Control | Lane::Append | Lane::Forward => settings,
            Lane::Call => Settings {
                frame_bytes_max: calls::FRAME_BYTES_MAX.min(settings.frame_bytes_max),
                queue_bytes_max: calls::QUEUE_BYTES_MAX.min(settings.queue_bytes_max),
                inbound_bytes_max: calls::QUEUE_BYTES_MAX.min(settings.inbound_bytes_max),
                ..settings
            }
            .sane(),
        }
    }

    /// Raises bounds that would stop a link for good to the least with which it works.
    pub(super) fn sane(mut self) -> Settings {
        self.frame_bytes_max = self.frame_bytes_max.min(FRAME_BYTES_CEILING);
        let least = self.frame_bytes_max + FRAME_OVERHEAD_BYTES;
        self.queue_bytes_max = self.queue_bytes_max.max(least);
        self.inbound_bytes_max = self.inbound_bytes_max.max(least);
        self.queue_frames_max = self.queue_frames_max.max(1);
        self.handshakes_max = self.handshakes_max.max(1);
        self.heartbeat = self.heartbeat.max(Duration::from_millis(1));
        self
    }
}
