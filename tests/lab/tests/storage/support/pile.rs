//! A journal that is always ahead of the database: a process ends with all of its files full, and the next one makes
//! one more.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use converge_actors::storage::{Executor, LogEntry, Offload, Phase, Settings, Step, Worker};
use converge_lab::disk::SimDisk;
use converge_ledger_core::LogIndex;
use tokio::sync::oneshot;

use super::{Dice, Leader, RunningStorage, Tasks, one_thread, small, write};

/// Starts that find all files full: the last one has three of them behind the one that it writes.
const STARTS: u64 = 5;
/// Processes after that, and what each writes: more than what fits into two files, so that it takes two of the full ones.
const ENDS: u64 = 6;
const WRITES: u64 = 30;
/// Turns of the one thread; an append that is not answered by then waits for a file.
const TURNS: u64 = 500;

/// Opens the database, and never commits to it.
#[derive(Debug)]
struct NeverCommits;

impl Executor for NeverCommits {
    fn spawn(&self, name: &str, mut worker: Box<dyn Worker>) -> io::Result<()> {
        let commits = name == "storage-redb";
        tokio::spawn(async move {
            while worker.step() != Step::Done {
                if commits {
                    std::future::pending::<()>().await;
                }
                tokio::task::yield_now().await;
            }
        });
        Ok(())
    }
}

fn settings(disk: &SimDisk, executor: Arc<dyn Executor>, salt: u64) -> Settings {
    let numbers = Mutex::new(Dice(salt));
    Settings {
        disk: Arc::new(disk.clone()),
        executor,
        offload: Offload::Inline,
        random: Arc::new(move || numbers.lock().unwrap().roll()),
        journal_record_bytes_max: 12 << 10,
        journal_file_bytes: 56 << 10,
        // By size alone: a clock would make runs differ.
        commit_interval: Duration::from_secs(3600),
        commit_bytes: 1,
        redb_cache_bytes: 1 << 20,
        ..small("/data")
    }
}

/// Whether an entry becomes durable, for which there may be no room.
async fn taken(node: &RunningStorage, entry: &LogEntry, leader: &Leader) -> bool {
    let (sender, mut receiver) = oneshot::channel();
    let done = Box::new(move |outcome| drop(sender.send(outcome)));
    node.storage.append(vec![entry.clone()], Some(leader.hard_state()), done).expect("storage serves");
    for _ in 0..TURNS {
        if let Ok(outcome) = receiver.try_recv() {
            outcome.expect("is durable");
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

fn next(leader: &mut Leader) -> LogEntry {
    let payload = leader.index.to_string();
    leader.batch(&[write("c", "k", payload.as_bytes())])
}

/// All files are full; what did not fit comes first when there is room again.
fn filled() -> (SimDisk, Leader, LogEntry) {
    let (mut disk, mut leader) = (SimDisk::default(), Leader::new());
    let mut waits = next(&mut leader);
    for start in 0..STARTS {
        one_thread(async {
            let node = RunningStorage::start(settings(&disk, Arc::new(NeverCommits), start)).await;
            while taken(&node, &waits, &leader).await {
                waits = next(&mut leader);
            }
            let left = disk.killed();
            std::mem::replace(&mut disk, left).cut();
        });
    }
    (disk, leader, waits)
}

fn journal_files(disk: &SimDisk) -> usize {
    disk.files().iter().filter(|(path, _)| path.to_string_lossy().contains("/journal-")).count()
}

/// Files that a start finds full are used again in the order in which they were written: whenever the process ends, the
/// next one finds no record missing between two others.
///
/// # Panics
/// When one is.
pub fn full_files_are_used_again_in_order() {
    let (mut disk, mut leader, waits) = filled();
    assert!(journal_files(&disk) as u64 >= STARTS, "only {} files", journal_files(&disk));
    let mut waits = Some(waits);
    for n in 0..ENDS {
        one_thread(async {
            let node = RunningStorage::start(settings(&disk, Arc::new(Tasks), 1000 + n)).await;
            assert_eq!(node.storage.status().phase, Phase::Serving, "a kill is no damage");
            let durable = leader.index - u64::from(waits.is_some());
            assert_eq!(node.recover().await.last_index, LogIndex(durable));
            for _ in 0..WRITES {
                let entry = waits.take().unwrap_or_else(|| next(&mut leader));
                node.append(vec![entry.clone()], Some(leader.hard_state())).await.expect("is durable");
                node.apply(vec![entry]).await;
            }
            leader.check(&node);
            let left = disk.killed();
            std::mem::replace(&mut disk, left).cut();
        });
    }
}
