//! A killed process leaves names of files that are only in the page cache. A second one acknowledges what it writes into those
//! files, and then the power fails.

use converge_actors::storage::{Phase, Settings};
use converge_lab::disk::{Faults, SimDisk};
use converge_ledger_core::LogIndex;

use super::{Dice, Leader, RunningStorage, one_thread, simulated, write};

/// Of the first process: a journal file takes sixteen.
const WRITES: u64 = 40;

/// Each process has chance of its own: the salts of journal files never come again.
fn settings(disk: &SimDisk, process: u64) -> Settings {
    Settings { journal_file_bytes: 72 << 10, ..simulated(disk, 7 + process, 3000) }
}

/// The first process is killed at this operation of its start, in a new directory, or of a life of a few journal files.
/// False when it did not come to that.
async fn killed_at(cut: u64) -> bool {
    let (disk, mut dice, mut leader) = (SimDisk::default(), Dice(cut), Leader::new());
    disk.set_faults(Faults { cut_at: Some(cut), seed: cut, ..Faults::default() });
    if let Ok(node) = RunningStorage::try_start(settings(&disk, 1)).await {
        while leader.index < WRITES && !disk.is_off() {
            let entry = leader.batch(&[write("c", "k", &dice.bytes(900))]);
            let _ = node.append(vec![entry], Some(leader.hard_state())).await;
        }
    }
    let was_killed = disk.is_off();
    let disk = disk.killed();
    let node = RunningStorage::start(settings(&disk, 2)).await;
    leader.index = node.recover().await.last_index.get();
    // First into the file that was written to, later into the one behind it.
    for _ in 0..5 {
        for _ in 0..5 {
            let entry = leader.batch(&[write("c", "k", b"acknowledged")]);
            node.append(vec![entry], Some(leader.hard_state())).await.expect("is durable");
        }
        for _ in 0..2 {
            let node = RunningStorage::start(settings(&disk.crash(&mut dice), 3)).await;
            assert_eq!(node.storage.status().phase, Phase::Serving, "killed at operation {cut}");
            assert_eq!(node.recover().await.last_index, LogIndex(leader.index), "killed at operation {cut}");
        }
    }
    was_killed
}

/// The first process is killed at each of its operations.
pub fn names_are_durable_before_the_next_process_builds_on_them() {
    let kills = (1..).take_while(|cut| one_thread(killed_at(*cut))).count();
    assert!(kills > 100, "{kills} operations");
}
