//! What a node of a run is started with.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::SimDisk;
use converge_actors::{entry, replication, storage, watch};
use converge_ledger_core::NodeId;

use super::threads::SimThreads;
use super::tuning::Tuning;
use converge_ledger::config::{Config, IntensityConfig};
use converge_ledger::environment::Calls;

/// Where a simulated node keeps its data.
pub(super) const DIRECTORY: &str = "/data";
/// The same on all nodes, or their segments would differ; small, so that blocks and files close.
const SEGMENT_BLOCK_BYTES: usize = 2 << 10;
const SEGMENT_FILE_BYTES: u64 = 16 << 10;
/// Below it a node takes nothing new. Some full disks leave less, some more.
const FREE_BYTES: u64 = 64 << 10;
/// Restarts within seconds that no plan comes near.
const GENEROUS: (u32, u64) = (100_000, 1);

pub(super) fn storage_settings(
    tuning: &Tuning,
    disk: &SimDisk,
    executor: Arc<SimThreads>,
    random: storage::Random,
) -> storage::Settings {
    storage::Settings {
        journal_file_bytes: tuning.journal_file_records * tuning.journal_record_bytes as u64,
        // Where that is even, the first file has room for no full record.
        journal_first_bytes: match tuning.journal_file_records % 2 {
            0 => tuning.journal_record_bytes as u64,
            _ => u64::MAX,
        },
        journal_record_bytes_max: tuning.journal_record_bytes,
        commit_interval: Duration::from_millis(tuning.commit_interval_ms),
        commit_bytes: tuning.commit_bytes,
        overlay_bytes_max: tuning.overlay_bytes,
        redb_cache_bytes: tuning.redb_cache_bytes,
        segment_block_bytes: SEGMENT_BLOCK_BYTES,
        segment_file_bytes: SEGMENT_FILE_BYTES,
        kept_bytes: tuning.commit_bytes,
        segment_cache_bytes: 8 * SEGMENT_BLOCK_BYTES,
        scan_bytes_max: tuning.scan_bytes,
        apply_bytes: tuning.bounds.apply_bytes,
        replay_bytes: tuning.bounds.replay_bytes,
        fill_bytes: tuning.bounds.fill_bytes,
        shutdown: Duration::from_millis(tuning.bounds.shutdown_ms[3]),
        disk: Arc::new(disk.clone()),
        executor,
        offload: storage::Offload::Inline,
        random,
        ..storage::Settings::new(DIRECTORY)
    }
}

pub(super) fn raft_bounds(tuning: &Tuning) -> replication::Bounds {
    let bounds = &tuning.bounds;
    replication::Bounds {
        message_bytes_max: tuning.message_bytes,
        inflight_messages_max: tuning.inflight_messages,
        uncommitted_bytes_max: tuning.uncommitted_bytes,
        committed_bytes_max: tuning.committed_bytes,
        ticks_per_heartbeat: bounds.ticks_per_heartbeat,
        genesis_ticks: bounds.genesis_ticks,
        read_patience_heartbeats: bounds.read_patience_heartbeats,
        read_rounds_max: bounds.read_rounds,
        reads_waiting_max: bounds.reads_waiting,
        shutdown: Duration::from_millis(bounds.shutdown_ms[2]),
    }
}

pub(super) fn entry_bounds(tuning: &Tuning) -> entry::Bounds {
    let bounds = &tuning.bounds;
    entry::Bounds {
        batches_max: tuning.batches,
        batch_bytes_max: tuning.batch_bytes,
        batch_commands_max: tuning.batch_commands,
        handed_bytes_max: tuning.handed_bytes,
        patience_max: Duration::from_millis(bounds.patience_max_ms),
        look_every: Duration::from_millis(bounds.look_every_ms),
        attempts_max: bounds.attempts,
        deaths_max: bounds.deaths_max,
        shutdown: Duration::from_millis(bounds.shutdown_ms[0]),
    }
}

pub(super) fn watch_bounds(tuning: &Tuning) -> watch::Bounds {
    let bounds = &tuning.bounds;
    watch::Bounds {
        page_bytes_max: bounds.watch_page_bytes,
        page_entries_max: bounds.watch_page_entries,
        retry_pause: Duration::from_millis(bounds.watch_pause_ms),
        prune_from: bounds.watch_prune_from,
        shutdown: Duration::from_millis(bounds.shutdown_ms[1]),
    }
}

pub(super) fn calls(tuning: &Tuning) -> Calls {
    let bounds = &tuning.bounds;
    Calls {
        read_step_bytes: bounds.read_step_bytes,
        retry_pause: Duration::from_millis(bounds.retry_pause_ms),
        read_elections: bounds.read_elections,
        load_tries_max: bounds.load_tries,
        chunk_bytes: bounds.chunk_bytes,
        staging_max: bounds.staging,
        overload_pause: Duration::from_millis(bounds.overload_pause_ms),
        unpacked_factor: bounds.unpacked_factor,
    }
}

pub(super) fn config(id: NodeId, tuning: &Tuning, count: u64, key_window: Option<u64>) -> Config {
    let mut config = Config::default();
    config.cluster.key_window = key_window.unwrap_or(config.cluster.key_window);
    config.node.id = id.get();
    config.node.data_dir = DIRECTORY.into();
    config.listen.grpc = "off".into();
    config.listen.peer = format!("127.0.0.1:{}", 7000 + id.get());
    if count > 1 {
        config.cluster.peers = (1..=count).map(|id| format!("{id}=127.0.0.1:{}", 7000 + id)).collect();
    }
    config.raft.heartbeat_ms = tuning.heartbeat_ms;
    config.raft.election_ms = tuning.election_ms;
    let bounds = &tuning.bounds;
    config.limits.payload_bytes = bounds.payload_bytes;
    config.limits.response_bytes = bounds.response_bytes;
    config.limits.snapshot_bytes = bounds.snapshot_bytes;
    config.storage.free_bytes_min = FREE_BYTES;
    config.limits.inflight_bytes = tuning.inflight_bytes;
    let intensity = |(restarts, seconds)| IntensityConfig { restarts, seconds };
    let drawn = bounds.supervision.map(|drawn| (drawn.root, drawn.ledger));
    let (root, ledger) = drawn.unwrap_or((GENEROUS, GENEROUS));
    (config.supervision.root, config.supervision.ledger) = (intensity(root), intensity(ledger));
    config
}
