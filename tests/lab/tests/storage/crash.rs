//! Crash consistency: one simulated disk under the journal's files and the database.
//!
//! Whatever a power cut leaves of what was not synced, and wherever it comes, recovery included:
//! acknowledged ⊆ stored ⊆ attempted, and what is stored is what the log was after some operation.
mod damage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{Dice, Leader, RunningStorage, check_page, one_thread, simulated, write};
use converge_actors::storage::{Cause, Error, HardState, LogEntry, Phase, Settings};
use converge_lab::disk::{Faults, SimDisk};
use converge_ledger_core::{Batch, Command, LogIndex, NodeId, Term};

fn settings(disk: &SimDisk, dice: &mut Dice) -> Settings {
    let salt = dice.roll();
    let commit_bytes = [1, 3000, 20_000][dice.below(3) as usize];
    Settings { journal_file_bytes: 72 << 10, redb_cache_bytes: 1 << 20, ..simulated(disk, salt, commit_bytes) }
}

/// What was asked of storage: the log and the vote after every operation, and how many of these
/// were acknowledged.
struct History {
    states: Vec<(Vec<LogEntry>, Term)>,
    acked: Arc<AtomicUsize>,
    committed: u64,
    counter: u64,
}

impl History {
    fn new() -> History {
        History { states: vec![(Vec::new(), Term(0))], acked: Arc::default(), committed: 0, counter: 0 }
    }

    /// A random append, sometimes in place of entries that are not committed.
    fn append(&mut self, node: &RunningStorage, dice: &mut Dice) -> Result<(), Error> {
        let (mut log, mut term) = self.states.last().unwrap().clone();
        if dice.below(5) == 0 || term == Term(0) {
            term = term.next();
        }
        let count = if dice.below(4) == 0 { 0 } else { 1 + dice.below(4) };
        if count > 0 && dice.below(4) == 0 {
            // There is no truncation without entries (S4), and the new ones are of a new term.
            term = term.next();
            let keep = self.committed + dice.below(log.len() as u64 - self.committed + 1);
            log.truncate(keep as usize);
        }
        let mut leader = Leader { index: log.len() as u64, term: term.get(), counter: self.counter, ..Leader::new() };
        let entries: Vec<_> = (0..count)
            .map(|_| {
                let rows = 1 + dice.below(4);
                let writes: Vec<_> = (0..rows)
                    .map(|_| {
                        let length = dice.below(700) as usize;
                        write(&format!("c{}", dice.below(3)), "k", &dice.bytes(length))
                    })
                    .collect();
                leader.batch(&writes)
            })
            .collect();
        self.counter = leader.counter;
        log.extend(entries.clone());
        self.states.push((log, term));
        let (number, acked) = (self.states.len() - 1, Arc::clone(&self.acked));
        let done = Box::new(move |outcome: Result<(), Error>| {
            if outcome.is_ok() {
                assert_eq!(acked.swap(number, Ordering::SeqCst), number - 1, "acknowledged out of order");
            }
        });
        let hard_state = HardState { term, vote: NodeId(1), commit: LogIndex(self.committed) };
        node.storage.append(entries, Some(hard_state), done)
    }

    /// Commits some of what is acknowledged and applies it.
    fn commit(&mut self, node: &RunningStorage, dice: &mut Dice) -> Result<(), Error> {
        let acked = &self.states[self.acked.load(Ordering::SeqCst)].0;
        let now = &self.states.last().unwrap().0;
        let common = acked.iter().zip(now).take_while(|(a, b)| a == b).count() as u64;
        if common <= self.committed {
            return Ok(());
        }
        let to = self.committed + 1 + dice.below(common - self.committed);
        let entries = now[self.committed as usize..to as usize].to_vec();
        self.committed = to;
        node.storage.apply(entries)
    }

    /// The node holds what it may hold; the history goes on from there. Says no when the disk
    /// failed meanwhile.
    async fn check(&mut self, node: &RunningStorage, seed: u64) -> bool {
        let phase = node.storage.status().phase;
        assert_eq!(phase, Phase::Serving, "seed {seed}: a crash is no damage");
        // The power may be cut at this very moment; then the next life tells.
        let (Ok(recovered), Ok(log)) = (node.storage.recover().await, node.log()) else {
            assert!(matches!(node.storage.status().phase, Phase::Fenced { cause: Cause::Io { .. } }));
            return false;
        };
        let acked = self.acked.load(Ordering::SeqCst);
        let fits = |(l, t): &(Vec<LogEntry>, Term)| *l == log && *t == recovered.hard_state.term;
        let found = self.states[acked..].iter().rposition(fits);
        let found = found.unwrap_or_else(|| {
            panic!("seed {seed}: a log of {} entries is none of those from operation {acked} on", log.len())
        });
        let at = acked + found;
        let commit = recovered.hard_state.commit.get();
        assert!(commit <= self.committed, "seed {seed}: {commit} was never committed");
        assert_eq!(recovered.applied.get(), commit);
        check_contexts(node, &log[..commit as usize]);
        let settled = node.storage.status().phase == Phase::Serving;
        self.states.truncate(at + 1);
        self.acked.store(at, Ordering::SeqCst);
        self.committed = commit;
        settled
    }
}

/// The contexts are what these log entries make of them, unless the disk fails meanwhile.
fn check_contexts(node: &RunningStorage, log: &[LogEntry]) {
    let mut contexts: BTreeMap<String, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    for entry in log {
        for command in Batch::decode(&entry.data).unwrap().commands {
            let Command::Append(append) = command else { panic!("only appends are made here") };
            let kept = contexts.entry(append.entry.context_id).or_default();
            kept.push((append.entry.key, append.entry.payload.to_vec()));
        }
    }
    for (context, kept) in &contexts {
        match node.all(context) {
            Err(Error::Fenced(Cause::Io { .. })) => return,
            page => check_page(&page.unwrap(), context, kept),
        }
    }
}

async fn breathe(dice: &mut Dice) {
    for _ in 0..dice.below(12) {
        tokio::task::yield_now().await;
    }
}

/// Runs until the disk fails or the steps are done.
async fn live(node: &RunningStorage, history: &mut History, dice: &mut Dice, steps: u64) {
    for _ in 0..steps {
        let outcome = if dice.below(3) == 0 { history.commit(node, dice) } else { history.append(node, dice) };
        if outcome.is_err() {
            return;
        }
        breathe(dice).await;
    }
}

/// One seed: lives that end in a power cut, some of them while the node recovers.
async fn lives(seed: u64) -> (u64, usize) {
    let mut dice = Dice(seed);
    let mut disk = SimDisk::default();
    let mut history = History::new();
    let mut served = 0;
    for _ in 0..4 {
        let reach = [40, 150, 500, 1500][dice.below(4) as usize];
        disk.set_faults(Faults { cut_at: Some(1 + dice.below(reach)), seed: dice.roll(), ..Faults::default() });
        let settings = settings(&disk, &mut dice);
        if let Ok(node) = RunningStorage::try_start(settings).await {
            if node.storage.status().phase == Phase::Serving {
                served += 1;
                if history.check(&node, seed).await {
                    let steps = dice.below(60);
                    live(&node, &mut history, &mut dice, steps).await;
                }
            }
            node.stop().await;
        }
        disk = disk.crash(&mut dice);
    }
    let ops = disk.counters().ops;
    let node = RunningStorage::start(settings(&disk, &mut dice)).await;
    assert!(history.check(&node, seed).await);
    node.stop().await;
    (ops + disk.counters().ops, served)
}

#[test]
fn every_power_cut_recovers_to_a_state_that_was() {
    let mut served = 0;
    let seeds = std::env::var("STORAGE_SEEDS").map_or(150, |n| n.parse().expect("a number"));
    for seed in 0..seeds {
        served += one_thread(lives(seed)).1;
    }
    assert!(served > seeds as usize, "only {served} lives got as far as serving");
}

#[test]
fn a_seed_repeats_its_run() {
    for seed in [3, 4] {
        assert_eq!(one_thread(lives(seed)), one_thread(lives(seed)), "seed {seed}");
    }
}

#[test]
fn a_failed_sync_fences_and_what_was_acknowledged_is_there_after_a_restart() {
    for seed in 0..60 {
        one_thread(async {
            let mut dice = Dice(1000 + seed);
            let disk = SimDisk::default();
            let mut history = History::new();
            let node = RunningStorage::start(settings(&disk, &mut dice)).await;
            let at = disk.counters().syncs + 1 + dice.below(25);
            disk.set_faults(Faults { fail_sync: Some(at), seed: dice.roll(), ..Faults::default() });
            live(&node, &mut history, &mut dice, 80).await;
            let fenced = match node.storage.status().phase {
                Phase::Fenced { cause } => {
                    assert!(matches!(cause, Cause::Io { .. }), "{cause}");
                    let refused = node.append(Vec::new(), None).await;
                    assert!(matches!(refused, Err(Error::Fenced(_))), "{refused:?}");
                    assert!(node.storage.apply(Vec::new()).is_err());
                    // Reads go on: each row is checked.
                    assert!(node.all("c0").is_ok());
                    // A new incarnation in the same process does not try again.
                    node.tree.find("root/storage").unwrap().kill();
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                    assert!(matches!(node.storage.status().phase, Phase::Fenced { .. }));
                    // It has nothing open, and says why rather than to wait.
                    assert!(matches!(node.all("c0"), Err(Error::Fenced(_))), "{:?}", node.all("c0"));
                    true
                }
                _ => false,
            };
            let failed = disk.counters().syncs >= at;
            assert_eq!(fenced, failed, "seed {seed}: sync {at} failed and nobody cared");
            node.stop().await;
            let disk = if dice.below(2) == 0 { disk.killed() } else { disk.crash(&mut dice) };
            let node = RunningStorage::start(settings(&disk, &mut dice)).await;
            assert!(history.check(&node, seed).await);
            node.stop().await;
        });
    }
}

/// The page cache shows the next process a record that the disk does not have, and will not write it.
#[test]
fn a_record_whose_sync_failed_is_durable_before_the_next_process_writes_behind_it() {
    for seed in 0..20 {
        one_thread(async {
            let mut dice = Dice(1500 + seed);
            let disk = SimDisk::default();
            let mut leader = Leader::new();
            let settings = |disk: &SimDisk| Settings { commit_bytes: 1 << 30, ..settings(disk, &mut Dice(seed)) };
            let node = RunningStorage::start(settings(&disk)).await;
            furnish(&node, &mut leader, &mut dice, 3).await;
            let fail_sync = Some(disk.counters().syncs + 1);
            disk.set_faults(Faults { fail_sync, seed, ..Faults::default() });
            let entry = leader.batch(&[write("c", "k", b"who knows")]);
            node.append(vec![entry], Some(leader.hard_state())).await.expect_err("the sync failed");
            let disk = disk.killed();
            let node = RunningStorage::start(settings(&disk)).await;
            leader.index = node.recover().await.last_index.get();
            let entry = leader.batch(&[write("c", "k", b"acknowledged")]);
            node.append(vec![entry], Some(leader.hard_state())).await.expect("is durable");
            let node = RunningStorage::start(settings(&disk.crash(&mut dice))).await;
            assert_eq!(node.storage.status().phase, Phase::Serving, "seed {seed}");
            assert_eq!(node.recover().await.last_index, LogIndex(leader.index));
        });
    }
}

#[test]
fn the_names_that_a_killed_process_gave_are_durable_before_the_next_one_builds_on_them() {
    super::support::killed::names_are_durable_before_the_next_process_builds_on_them();
}

#[test]
fn full_journal_files_are_used_again_in_the_order_of_their_records() {
    super::support::pile::full_files_are_used_again_in_order();
}

#[test]
fn a_full_disk_fences_and_room_brings_the_node_back() {
    let mut fences = 0;
    for seed in 0..20 {
        one_thread(async {
            let mut dice = Dice(2000 + seed);
            let disk = SimDisk::default();
            let mut history = History::new();
            let node = RunningStorage::start(settings(&disk, &mut dice)).await;
            live(&node, &mut history, &mut dice, 10).await;
            disk.set_capacity(Some(disk.used() + dice.below(200_000)));
            for _ in 0..30 {
                live(&node, &mut history, &mut dice, 30).await;
            }
            if let Phase::Fenced { cause } = node.storage.status().phase {
                assert!(matches!(cause, Cause::DiskFull { .. }), "{cause}");
                fences += 1;
            }
            node.stop().await;
            let disk = disk.killed();
            let node = RunningStorage::start(settings(&disk, &mut dice)).await;
            assert!(history.check(&node, seed).await);
            node.stop().await;
        });
    }
    assert!(fences > 5, "the disk was full {fences} times only");
}

/// Batches of entries of chance.
async fn furnish(node: &RunningStorage, leader: &mut Leader, dice: &mut Dice, batches: u64) {
    for _ in 0..batches {
        let writes: Vec<_> = (0..1 + dice.below(6))
            .map(|_| {
                let length = dice.below(900) as usize;
                write(&format!("c{}", dice.below(3)), "k", &dice.bytes(length))
            })
            .collect();
        leader.write(node, &writes).await;
    }
}
