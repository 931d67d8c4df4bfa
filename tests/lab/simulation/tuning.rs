//! The settings of one node: those that an operator sets, and the bounds and times of the product that none can.

use serde::{Deserialize, Serialize};

use super::plan::Draw;

/// Settings of one node; drawn anew for a restart with other ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Tuning {
    pub(super) heartbeat_ms: u64,
    pub(super) election_ms: u64,
    pub(super) journal_record_bytes: usize,
    pub(super) journal_file_records: u64,
    pub(super) commit_interval_ms: u64,
    pub(super) commit_bytes: usize,
    pub(super) overlay_bytes: usize,
    pub(super) scan_bytes: usize,
    pub(super) redb_cache_bytes: usize,
    pub(super) message_bytes: u64,
    pub(super) inflight_messages: usize,
    pub(super) uncommitted_bytes: u64,
    pub(super) committed_bytes: u64,
    pub(super) batches: usize,
    pub(super) batch_bytes: usize,
    pub(super) batch_commands: usize,
    pub(super) handed_bytes: usize,
    pub(super) inflight_bytes: u64,
    /// Latency of a step of the disk, from and to.
    pub(super) disk_us: (u64, u64),
    /// What else bounds a node; plans from before it was drawn have the product's own.
    #[serde(default)]
    pub(super) bounds: NodeBounds,
}

/// Bounds and times of a node. The default is the product's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct NodeBounds {
    /// None: supervisors forgive everything. Past these a tree gives up, and the process ends.
    pub(super) supervision: Option<Intensities>,
    /// A node that is stopped in order, and not for the last time, gets so long.
    pub(super) stop_ms: u64,
    /// How fast the wall clock goes.
    pub(super) wall_permille: u64,
    pub(super) payload_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) snapshot_bytes: u64,
    pub(super) patience_max_ms: u64,
    pub(super) look_every_ms: u64,
    pub(super) attempts: u64,
    pub(super) deaths_max: u32,
    pub(super) sibling_shutdown_ms: u64,
    /// Of entry, watch, replication, storage.
    pub(super) shutdown_ms: [u64; 4],
    pub(super) ticks_per_heartbeat: u32,
    pub(super) genesis_ticks: u64,
    pub(super) read_patience_heartbeats: u32,
    pub(super) read_rounds: usize,
    pub(super) reads_waiting: usize,
    pub(super) watch_page_bytes: usize,
    pub(super) watch_page_entries: usize,
    pub(super) watch_pause_ms: u64,
    pub(super) watch_prune_from: usize,
    pub(super) read_step_bytes: usize,
    pub(super) retry_pause_ms: u64,
    pub(super) read_elections: u32,
    pub(super) load_tries: u32,
    pub(super) chunk_bytes: usize,
    pub(super) staging: usize,
    pub(super) overload_pause_ms: u64,
    pub(super) unpacked_factor: usize,
    pub(super) apply_bytes: usize,
    pub(super) replay_bytes: usize,
    pub(super) fill_bytes: usize,
    /// A commit to the database takes so many steps of the disk.
    pub(super) commit_steps: u32,
}

/// Restarts that are forgiven, and within how many seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Intensities {
    pub(super) root: (u32, u64),
    pub(super) ledger: (u32, u64),
}

impl Default for NodeBounds {
    fn default() -> NodeBounds {
        NodeBounds {
            supervision: None,
            stop_ms: 20_000,
            wall_permille: 1000,
            payload_bytes: 4 << 10,
            response_bytes: 64 << 20,
            snapshot_bytes: 256 << 20,
            patience_max_ms: 16_000,
            look_every_ms: 100,
            attempts: 1 << 17,
            deaths_max: 2,
            sibling_shutdown_ms: 200,
            shutdown_ms: [5000, 5000, 10_000, 30_000],
            ticks_per_heartbeat: 2,
            genesis_ticks: 4,
            read_patience_heartbeats: 3,
            read_rounds: 8,
            reads_waiting: 65_536,
            watch_page_bytes: 256 << 10,
            watch_page_entries: 1024,
            watch_pause_ms: 20,
            watch_prune_from: 1024,
            read_step_bytes: 1 << 20,
            retry_pause_ms: 10,
            read_elections: 5,
            load_tries: 8,
            chunk_bytes: 64 << 10,
            staging: 4,
            overload_pause_ms: 20,
            unpacked_factor: 4,
            apply_bytes: 4 << 20,
            replay_bytes: 16 << 20,
            fill_bytes: 1 << 20,
            commit_steps: 1,
        }
    }
}

impl Draw {
    /// Settings around those of the cluster: clocks that drift up to a tenth, bounds that are often met.
    pub(super) fn tuning(&mut self, heartbeat: u64, factor: u64) -> Tuning {
        let drift = self.between(90, 110);
        let heartbeat_ms = (heartbeat * drift / 100).max(10);
        let record = self.pick(&[16 << 10, 32 << 10, 64 << 10]);
        let batch_bytes = self.size(512, 8 << 10);
        Tuning {
            heartbeat_ms,
            election_ms: (heartbeat * factor * drift / 100).max(heartbeat_ms * 4),
            journal_record_bytes: record,
            journal_file_records: self.between(5, 12),
            commit_interval_ms: self.pick(&[1, 5, 20, 50, 200, 1000]),
            commit_bytes: self.size(1 << 10, 64 << 10),
            overlay_bytes: self.size(16 << 10, 256 << 10),
            scan_bytes: self.size(1 << 10, 64 << 10),
            redb_cache_bytes: self.pick(&[1 << 20, 4 << 20, 16 << 20]),
            message_bytes: self.between(512, 16 << 10),
            inflight_messages: self.size(1, 16),
            uncommitted_bytes: self.between(16 << 10, 256 << 10),
            committed_bytes: self.between(1 << 10, 64 << 10),
            batches: self.size(1, 6),
            batch_bytes,
            batch_commands: self.size(1, 64),
            handed_bytes: batch_bytes + self.size(0, 16 << 10),
            inflight_bytes: self.between(136 << 10, 400 << 10),
            disk_us: self.pick(&[(0, 0), (0, 1000), (500, 2000), (1000, 5000), (0, 20_000)]),
            bounds: self.node_bounds(),
        }
    }

    fn node_bounds(&mut self) -> NodeBounds {
        let patient = self.pick(&[100, 1000, 10_000]);
        NodeBounds {
            supervision: self.one_in(3).then(|| Intensities { root: self.intensity(), ledger: self.intensity() }),
            stop_ms: self.pick(&[10, 300, 3000, 20_000, 20_000]),
            wall_permille: self.pick(&[500, 900, 1000, 1000, 1001, 1500]),
            payload_bytes: self.pick(&[300, 1 << 10, 4 << 10, 4 << 10]),
            response_bytes: (132 << 10) + self.pick(&[0, 100 << 10, 64 << 20]),
            snapshot_bytes: (132 << 10) + self.pick(&[0, 100 << 10, 256 << 20]),
            patience_max_ms: self.between(200, 16_000),
            look_every_ms: self.between(20, 500),
            // Fewer than the clients have open at once would refuse them for as long as one of their calls takes.
            attempts: self.pick(&[64, 256, 1 << 17, 1 << 17]),
            deaths_max: self.pick(&[1, 2, 2, 4]),
            sibling_shutdown_ms: self.skip().pick(&[1, 50, 200, 2000]),
            shutdown_ms: std::array::from_fn(|_| self.between(patient / 10, patient)),
            ticks_per_heartbeat: self.pick(&[1, 2, 2, 3]),
            genesis_ticks: self.between(1, 10),
            read_patience_heartbeats: self.pick(&[1, 3, 6]),
            read_rounds: self.size(1, 8),
            reads_waiting: self.pick(&[1, 3, 65_536]),
            watch_page_bytes: self.size(1, 4 << 10),
            watch_page_entries: self.size(1, 64),
            watch_pause_ms: self.skip().between(1, 100),
            watch_prune_from: self.size(1, 4),
            read_step_bytes: self.pick(&[1, 1 << 10, 16 << 10, 16 << 10, 1 << 20, 1 << 20]),
            retry_pause_ms: self.between(1, 50),
            read_elections: self.pick(&[1, 2, 5, 10]),
            load_tries: self.pick(&[1, 2, 8]),
            chunk_bytes: self.size(1, 4096),
            staging: self.size(1, 8),
            overload_pause_ms: self.between(1, 100),
            unpacked_factor: self.size(1, 4),
            apply_bytes: self.pick(&[1, 1 << 10, 32 << 10, 4 << 20]),
            replay_bytes: self.pick(&[1 << 10, 16 << 10, 256 << 10, 16 << 20]),
            fill_bytes: self.pick(&[16 << 10, 64 << 10, 1 << 20]),
            commit_steps: self.pick(&[1, 1, 4, 16]),
        }
    }

    /// From none to what an operator would take.
    fn intensity(&mut self) -> (u32, u64) {
        (self.pick(&[0, 1, 3, 5]), self.pick(&[1, 5, 60]))
    }
}
