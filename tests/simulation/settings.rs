//! What a node of a run is started with.

use std::sync::Arc;
use std::time::Duration;

use converge_actors::testing::SimDisk;
use converge_actors::{entry, replication, storage};
use converge_ledger_core::NodeId;

use super::plan::Tuning;
use super::threads::SimThreads;
use crate::config::{Config, IntensityConfig};

/// Where a simulated node keeps its data.
const DIRECTORY: &str = "/data";

pub(super) fn storage_settings(
    tuning: &Tuning,
    disk: &SimDisk,
    executor: Arc<SimThreads>,
    random: storage::Random,
) -> storage::Settings {
    storage::Settings {
        journal_file_bytes: tuning.journal_file_records * tuning.journal_record_bytes as u64,
        journal_record_bytes_max: tuning.journal_record_bytes,
        commit_interval: Duration::from_millis(tuning.commit_interval_ms),
        commit_bytes: tuning.commit_bytes,
        overlay_bytes_max: tuning.overlay_bytes,
        redb_cache_bytes: tuning.redb_cache_bytes,
        scan_bytes_max: tuning.scan_bytes,
        disk: Arc::new(disk.clone()),
        executor,
        random,
        ..storage::Settings::new(DIRECTORY)
    }
}

pub(super) fn raft_bounds(tuning: &Tuning) -> replication::Bounds {
    replication::Bounds {
        message_bytes_max: tuning.message_bytes,
        inflight_messages_max: tuning.inflight_messages,
        uncommitted_bytes_max: tuning.uncommitted_bytes,
        committed_bytes_max: tuning.committed_bytes,
    }
}

pub(super) fn entry_bounds(tuning: &Tuning) -> entry::Bounds {
    entry::Bounds {
        batches_max: tuning.batches,
        batch_bytes_max: tuning.batch_bytes,
        batch_commands_max: tuning.batch_commands,
        handed_bytes_max: tuning.handed_bytes,
        ..entry::Bounds::default()
    }
}

pub(super) fn config(id: NodeId, tuning: &Tuning, count: u64) -> Config {
    let mut config = Config::default();
    config.node.id = id.get();
    config.node.data_dir = DIRECTORY.into();
    config.listen.grpc = "off".into();
    config.listen.peer = format!("127.0.0.1:{}", 7000 + id.get());
    if count > 1 {
        config.cluster.peers = (1..=count).map(|id| format!("{id}=127.0.0.1:{}", 7000 + id)).collect();
    }
    config.raft.heartbeat_ms = tuning.heartbeat_ms;
    config.raft.election_ms = tuning.election_ms;
    config.limits.payload_bytes = 4 << 10;
    config.limits.inflight_bytes = tuning.inflight_bytes;
    let generous = IntensityConfig { restarts: 100_000, seconds: 1 };
    let supervision = &mut config.supervision;
    (supervision.root, supervision.ledger) = (generous, generous);
    config
}
