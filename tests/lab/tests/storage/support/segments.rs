//! Segments that are made by lives of different rhythm, with power cuts: always the same bytes.

use std::path::Path;

use bytes::Bytes;
use converge_actors::storage::{EntryKind, HardState, LogEntry, Phase, Settings};
use converge_lab::disk::{Change, SimDisk};
use converge_lab::segments::{SegmentFiles, common, of_disk};
use converge_ledger_core::{LogIndex, NodeId, Term};

use super::{Dice, Leader, RunningStorage, one_thread, simulated, write};

const DATA: &str = "/data";
const BATCHES: u64 = 60;

fn settings(disk: &SimDisk, salt: u64, commit_bytes: usize) -> Settings {
    Settings { redb_cache_bytes: 1 << 20, ..simulated(disk, salt, commit_bytes) }
}

/// The log that every life writes: entries of all sizes, some larger than a block. Every second term is left out, for what
/// is replaced.
pub fn log() -> (Leader, Vec<LogEntry>) {
    let (mut leader, mut dice) = (Leader::new(), Dice(21));
    let batch = |n| {
        leader.term = 2 * (n + 1);
        let length = [40, 300, 900, 3000][dice.below(4) as usize];
        leader
            .batch(&[write(&format!("c{}", dice.below(3)), "k", &dice.bytes(length)), write("c", "k", &dice.bytes(20))])
    };
    let entries = (0..BATCHES).map(batch).collect();
    (leader, entries)
}

/// Writes what is not there yet. What is appended runs ahead of what is committed, and is then replaced by what the log has.
async fn write_rest(node: &RunningStorage, log: &[LogEntry], ahead: usize) {
    let from = node.recover().await.applied.get() as usize;
    for (at, entry) in log.iter().enumerate().skip(from) {
        let state = |term| HardState { term, vote: NodeId(1), commit: LogIndex(at as u64) };
        let before = Term(entry.term.get() - 1);
        let strange = |n: usize| LogEntry {
            index: LogIndex((at + n) as u64 + 1),
            term: before,
            kind: EntryKind::ConfChange,
            data: Bytes::from(vec![n as u8; 700]),
        };
        if ahead > 0 {
            node.append((0..ahead).map(strange).collect(), Some(state(before))).await.expect("is durable");
        }
        node.append(vec![entry.clone()], Some(state(entry.term))).await.expect("is durable");
        node.apply(vec![log[at].clone()]).await;
    }
}

/// A life from an empty disk to the end of the log.
fn lived(salt: u64, commit_bytes: usize, ahead: usize) -> SimDisk {
    let (leader, log) = log();
    let disk = SimDisk::default();
    one_thread(async {
        let node = RunningStorage::start(settings(&disk, salt, commit_bytes)).await;
        write_rest(&node, &log, ahead).await;
        leader.check(&node);
        assert_eq!(node.log().unwrap(), log);
        node.stop().await;
    });
    disk
}

pub fn files(disk: &SimDisk) -> SegmentFiles {
    of_disk(disk, Path::new(DATA))
}

/// The segments of lives that commit at other times, and have other uncommitted entries meanwhile.
///
/// # Panics
/// When they differ.
pub fn are_the_same_whatever_the_rhythm() {
    let all = files(&lived(1, 1, 0));
    assert!(all.len() > 3, "only {} files", all.len());
    for (salt, commit_bytes, ahead) in [(2, 1, 4), (3, 5_000, 0), (4, 20_000, 3), (5, 1 << 30, 0)] {
        let other = files(&lived(salt, commit_bytes, ahead));
        let bytes = common(&all, &other).unwrap_or_else(|differs| panic!("commits at {commit_bytes}: {differs}"));
        assert!(bytes > 30_000, "only {bytes} bytes in common");
        assert_eq!(all, other, "the same log was applied");
    }
}

/// A power cut in front of every change of a life, and the rest of the log after it.
///
/// # Panics
/// When other bytes come of it than without.
pub fn are_the_same_after_every_power_cut() {
    let whole = files(&lived(1, 1, 0));
    let (leader, log) = log();
    let disk = SimDisk::default();
    let mut dice = Dice(5);
    let moments = one_thread(async {
        let node = RunningStorage::start(settings(&disk, 1, 6_000)).await;
        disk.record();
        write_rest(&node, &log, 0).await;
        disk.recorded()
    });
    let syncs = moments.iter().filter(|moment| moment.change == Change::Sync && moment.disk.unsynced() > 0);
    let some = moments.iter().step_by(17);
    for moment in syncs.step_by(3).chain(some) {
        let left = moment.disk.crash(&mut dice);
        one_thread(async {
            let node = RunningStorage::start(settings(&left, 7, 6_000)).await;
            assert_eq!(node.storage.status().phase, Phase::Serving, "a crash is no damage");
            write_rest(&node, &log, 0).await;
            leader.check(&node);
            node.stop().await;
        });
        let found = files(&left);
        common(&whole, &found).unwrap_or_else(|differs| panic!("operation {}: {differs}", moment.op));
        assert_eq!(found, whole, "operation {}: the same log was applied", moment.op);
    }
}
