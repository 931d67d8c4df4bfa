//! Crash consistency: one simulated disk under the journal's files and the database.
//!
//! Whatever a power cut leaves of what was not synced, and wherever it comes, recovery included:
//! acknowledged ⊆ stored ⊆ attempted, and what is stored is what the log was after some operation.
#![allow(missing_docs, clippy::print_stderr)]

mod storage_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use converge_actors::storage::{Cause, Error, HardState, LogEntry, Phase, ReadQuery, Settings, inspect};
use converge_actors::testing::{Faults, SimDisk};
use converge_ledger_core::{Batch, Command, LogIndex, NodeId, Term};
use storage_support::{Dice, Leader, Node, check_page, one_thread, simulated, small, write};

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
    fn append(&mut self, node: &Node, dice: &mut Dice) -> Result<(), Error> {
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
    fn commit(&mut self, node: &Node, dice: &mut Dice) -> Result<(), Error> {
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
    async fn check(&mut self, node: &Node, seed: u64) -> bool {
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
fn check_contexts(node: &Node, log: &[LogEntry]) {
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
async fn live(node: &Node, history: &mut History, dice: &mut Dice, steps: u64) {
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
        if let Ok(node) = Node::try_start(settings).await {
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
    let node = Node::start(settings(&disk, &mut dice)).await;
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
            let node = Node::start(settings(&disk, &mut dice)).await;
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
            let node = Node::start(settings(&disk, &mut dice)).await;
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
            let node = Node::start(settings(&disk)).await;
            furnish(&node, &mut leader, &mut dice, 3).await;
            let fail_sync = Some(disk.counters().syncs + 1);
            disk.set_faults(Faults { fail_sync, seed, ..Faults::default() });
            let entry = leader.batch(&[write("c", "k", b"who knows")]);
            node.append(vec![entry], Some(leader.hard_state())).await.expect_err("the sync failed");
            let disk = disk.killed();
            let node = Node::start(settings(&disk)).await;
            leader.index = node.recover().await.last_index.get();
            let entry = leader.batch(&[write("c", "k", b"acknowledged")]);
            node.append(vec![entry], Some(leader.hard_state())).await.expect("is durable");
            let node = Node::start(settings(&disk.crash(&mut dice))).await;
            assert_eq!(node.storage.status().phase, Phase::Serving, "seed {seed}");
            assert_eq!(node.recover().await.last_index, LogIndex(leader.index));
        });
    }
}

#[test]
fn the_names_that_a_killed_process_gave_are_durable_before_the_next_one_builds_on_them() {
    storage_support::killed::names_are_durable_before_the_next_process_builds_on_them();
}

#[test]
fn full_journal_files_are_used_again_in_the_order_of_their_records() {
    storage_support::pile::full_files_are_used_again_in_order();
}

#[test]
fn a_full_disk_fences_and_room_brings_the_node_back() {
    let mut fences = 0;
    for seed in 0..20 {
        one_thread(async {
            let mut dice = Dice(2000 + seed);
            let disk = SimDisk::default();
            let mut history = History::new();
            let node = Node::start(settings(&disk, &mut dice)).await;
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
            let node = Node::start(settings(&disk, &mut dice)).await;
            assert!(history.check(&node, seed).await);
            node.stop().await;
        });
    }
    assert!(fences > 5, "the disk was full {fences} times only");
}

/// A directory with a few files' worth of history, closed well.
async fn furnished(dice: &mut Dice) -> (SimDisk, Leader) {
    let disk = SimDisk::default();
    let mut leader = Leader::new();
    let node = Node::start(settings(&disk, dice)).await;
    furnish(&node, &mut leader, dice, 40).await;
    node.stop().await;
    (disk, leader)
}

async fn furnish(node: &Node, leader: &mut Leader, dice: &mut Dice, batches: u64) {
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

/// Reads all there is; every answer is the truth or an error.
async fn read_all(node: &Node, leader: &Leader, entries: usize) -> Result<(), Error> {
    let recovered = node.storage.recover().await?;
    assert_eq!(recovered.last_index, LogIndex(leader.index), "a silently shorter log");
    let log = node.log()?;
    assert_eq!(log.len(), entries);
    for (context, kept) in &leader.contexts {
        let page = node.storage.read(context, ReadQuery { max_bytes: usize::MAX, ..ReadQuery::default() })?;
        let got: Vec<_> = page.entries.iter().map(|e| (e.key.clone(), e.payload.to_vec())).collect();
        assert_eq!(got, *kept, "wrong bytes in {context}");
    }
    Ok(())
}

#[test]
fn a_flipped_bit_gives_the_truth_or_an_error() {
    one_thread(async {
        let mut dice = Dice(3);
        let (disk, leader) = furnished(&mut dice).await;
        let truth = {
            let node = Node::start(settings(&disk.killed(), &mut dice)).await;
            let log = node.log().unwrap();
            node.stop().await;
            log
        };
        let files: Vec<_> = disk.files().into_iter().filter(|(_, len)| *len > 0).collect();
        let mut noticed = 0;
        std::panic::set_hook(Box::new(quiet));
        for n in 0..700 {
            let disk = disk.killed();
            let (path, len) = &files[n % files.len()];
            let content = disk.content(path).unwrap();
            // Flips in zeros of which nobody reads are not interesting.
            let bit = loop {
                let bit = dice.below(*len * 8);
                if content[(bit / 8) as usize] != 0 || dice.below(40) == 0 {
                    break bit;
                }
            };
            assert!(disk.flip(path, bit / 8, (bit % 8) as u8));
            match Node::try_start(settings(&disk, &mut dice)).await {
                Err(_) => noticed += 1,
                Ok(node) => {
                    match read_all(&node, &leader, truth.len()).await {
                        Ok(()) => assert_eq!(node.log().unwrap(), truth),
                        Err(_) => noticed += 1,
                    }
                    node.stop().await;
                }
            }
        }
        let _ = std::panic::take_hook();
        assert!(noticed > 50, "only {noticed} of 700 flips were noticed");
    });
}

/// redb panics on some damage, which storage catches: no need to print each.
fn quiet(info: &std::panic::PanicHookInfo<'_>) {
    let ours = info.location().is_some_and(|at| at.file().contains("actors"));
    if ours {
        eprintln!("{info}");
    }
}

#[test]
fn an_older_copy_of_one_file_is_refused_or_does_no_harm() {
    one_thread(async {
        let mut refused = Vec::new();
        for seed in 0..8 {
            let mut dice = Dice(40 + seed);
            let (old, mut leader) = furnished(&mut dice).await;
            let disk = old.killed();
            let node = Node::start(settings(&disk, &mut dice)).await;
            let boot = node.recover().await.boot;
            furnish(&node, &mut leader, &mut dice, 10 + 20 * seed).await;
            let log = node.log().unwrap();
            node.stop().await;
            for (path, _) in old.files() {
                let disk = disk.killed();
                disk.put_content(&path, &old.content(&path).unwrap());
                match Node::try_start(settings(&disk, &mut dice)).await {
                    Err(error) => refused.push(format!("{}: {error}", path.display())),
                    Ok(node) => {
                        match read_all(&node, &leader, log.len()).await {
                            Ok(()) => {
                                assert_eq!(node.log().unwrap(), log);
                                assert!(node.recover().await.boot > boot, "a boot number came back");
                            }
                            Err(error) => refused.push(format!("{}: {error}", path.display())),
                        }
                        node.stop().await;
                    }
                }
            }
        }
        assert!(refused.iter().any(|text| text.contains("journal")), "{refused:?}");
    });
}

#[test]
fn an_inspection_finds_all_well_and_a_rebuilt_index_is_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut leader = Leader::new();
        let node = Node::start(small(dir.path())).await;
        furnish(&node, &mut leader, &mut Dice(5), 60).await;
        let status = node.storage.status();
        let busy = inspect::summary(dir.path()).unwrap_err();
        assert!(busy.to_string().contains("another node has it open"), "{busy}");
        node.stop().await;

        let before = inspect::summary(dir.path()).unwrap();
        assert_eq!((before.applied, before.last), (status.applied, status.last));
        assert!(before.boot.get() > 0);
        let verified = inspect::verify(dir.path()).unwrap();
        assert_eq!(verified.problems, Vec::<String>::new());
        assert_eq!((verified.log_entries, verified.entries), (60, before.entries.get()));
        assert_eq!(verified.contexts, 3);
        let mut lines = Vec::new();
        let mut each = |line: inspect::LogLine| {
            lines.push(line.index.get());
            true
        };
        inspect::log(dir.path(), LogIndex(58), LogIndex(99), &mut each).unwrap();
        assert_eq!(lines, [58, 59, 60]);

        let after = inspect::rebuild_index(dir.path()).unwrap();
        assert_eq!((after.digest, after.entries, after.applied), (before.digest, before.entries, before.applied));
        assert_eq!(inspect::verify(dir.path()).unwrap().problems, Vec::<String>::new());
        let node = Node::start(small(dir.path())).await;
        leader.check(&node);
        node.stop().await;
        let nowhere = inspect::summary(&dir.path().join("nowhere")).unwrap_err();
        assert!(matches!(nowhere, Error::Refused { .. }), "{nowhere}");
    });
}

#[test]
fn a_start_that_finds_the_index_behind_makes_it_anew_from_the_log() {
    one_thread(async {
        let dir = tempfile::tempdir().unwrap();
        let mut leader = Leader::new();
        let node = Node::start(small(dir.path())).await;
        furnish(&node, &mut leader, &mut Dice(5), 60).await;
        let before = node.storage.status();
        node.stop().await;

        // The state says how far the index is: without it, it is nowhere.
        let db = redb::Database::open(dir.path().join("ledger.redb")).unwrap();
        let txn = db.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        assert!(txn.open_table(meta).unwrap().remove("state").unwrap().is_some());
        txn.commit().unwrap();
        drop(db);

        let node = Node::start(small(dir.path())).await;
        leader.check(&node);
        let after = node.storage.status();
        assert_eq!((after.digest, after.applied), (before.digest, before.applied));
        assert_eq!(after.last_position, before.last_position);
        node.stop().await;
        assert_eq!(inspect::verify(dir.path()).unwrap().problems, Vec::<String>::new());
    });
}

#[test]
fn a_verification_names_what_is_wrong() {
    one_thread(async {
        let dir = tempfile::tempdir().unwrap();
        let mut leader = Leader::new();
        let node = Node::start(small(dir.path())).await;
        furnish(&node, &mut leader, &mut Dice(5), 30).await;
        node.stop().await;
        let path = dir.path().join("ledger.redb");
        let needle = &leader.contexts["c0"].iter().find(|(_, payload)| payload.len() > 100).unwrap().1;
        let mut bytes = std::fs::read(&path).unwrap();
        let places: Vec<_> = (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
        for at in places {
            bytes[at + 50] ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
        std::panic::set_hook(Box::new(quiet));
        let found = inspect::verify(dir.path());
        let _ = std::panic::take_hook();
        match found {
            Ok(verified) => assert!(!verified.problems.is_empty()),
            Err(error) => assert!(matches!(error, Error::DataLoss(_)), "{error}"),
        }
    });
}

#[test]
fn a_read_only_directory_is_refused_with_the_reason() {
    use std::os::unix::fs::PermissionsExt;
    one_thread(async {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        if std::fs::write(dir.path().join("probe"), "").is_ok() {
            // Root writes everywhere: the file system's own root that nobody writes to, then.
            std::fs::remove_file(dir.path().join("probe")).unwrap();
            let error = Node::try_start(small("/proc/ledger")).await.err().unwrap().to_string();
            assert!(error.contains("/proc/ledger"), "{error}");
            return;
        }
        let error = Node::try_start(small(dir.path())).await.err().unwrap().to_string();
        assert!(error.contains("make it writable"), "{error}");
    });
}
