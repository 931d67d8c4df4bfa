//! A life of storage with the power cut wherever it can be, and what must be found after each cut.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use converge_actors::storage::{
    Direction, EntryKind, Genesis, HardState, LogEntry, Offload, Ordinal, Phase, Settings, StreamOf, StreamQuery,
    inspect,
};
use converge_lab::disk::{Faults, Moment, SimDisk};
use converge_ledger_core::chance::Dice;
use converge_ledger_core::{Boot, Entry, LogIndex, NodeId, StoreId, Term};

use super::workload::{Asked, History};
use super::{RunningStorage, copy_out, one_thread, small};

/// A life, and the disk in front of each of its changes.
pub struct Life {
    pub seed: u64,
    pub history: History,
    pub moments: Vec<Moment>,
    /// All entries there ever are, for those of an earlier moment are the first of them.
    contexts: BTreeMap<String, Vec<Entry>>,
    /// What the life began with, once it served, and the operations of the disk until then.
    served: Option<(u64, Boot, StoreId)>,
}

/// How a disk came to be as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// All that is there is durable, so every recovery finds the same.
    ByPowerCut,
    /// Something may be in the page cache alone, and can still be lost.
    ByKill,
}

/// What a recovery came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The last append of which something is there, and the length of the log.
    pub at: usize,
    pub log: usize,
    pub term: Term,
    pub vote: NodeId,
    pub commit: u64,
    pub genesis: Option<Genesis>,
    pub digest: [u8; 32],
    pub boot: Boot,
    pub store_id: StoreId,
}

/// Small files that are switched and used again, and a rhythm of commits that the seed chooses.
pub fn settings(disk: &SimDisk, seed: u64, salt: u64) -> Settings {
    let numbers = Mutex::new(Dice(salt));
    let commit_bytes = [1, 2000, 8000, 40_000][Dice(seed).below(4) as usize];
    Settings {
        disk: Arc::new(disk.clone()),
        executor: Arc::new(super::Tasks),
        offload: Offload::Inline,
        random: Arc::new(move || numbers.lock().unwrap().roll()),
        journal_record_bytes_max: 12 << 10,
        journal_file_bytes: 56 << 10,
        // By size alone: a clock would make runs differ.
        commit_interval: Duration::from_secs(3600),
        commit_bytes,
        redb_cache_bytes: 1 << 20,
        ..small("/data")
    }
}

/// Where a life begins: on a new disk, or where earlier lives ended in a power cut or a kill.
pub struct Start {
    seed: u64,
    history: History,
    disk: SimDisk,
    dice: Dice,
    redb_cache_bytes: usize,
}

/// How a life ended, and on which disk.
pub struct EndedLife {
    pub life: Life,
    pub disk: SimDisk,
    /// Where storage was in its life; none when it refused to start.
    pub phase: Option<Phase>,
    /// Operations of the disk when it was told to stop.
    pub told_to_stop: u64,
    /// Reads of the disk until it served.
    pub reads_in_start: u64,
}

impl Start {
    pub fn draw(seed: u64) -> Start {
        let mut dice = Dice(seed.wrapping_mul(0x1_0000_0001));
        let (mut disk, mut history) = (SimDisk::default(), History::new());
        for _ in 0..dice.below(3) {
            one_thread(async {
                let node = RunningStorage::start(settings(&disk, seed, dice.roll())).await;
                let steps = 5 + dice.below(30);
                history.live(&disk, &node, &mut dice, steps).await;
                let left = if dice.one_in(3) { disk.killed() } else { disk.crash(&mut dice) };
                std::mem::replace(&mut disk, left).cut();
            });
            let life = Life::of(seed, history, Vec::new(), None);
            let salt = dice.roll();
            let found = one_thread(life.check(&disk.killed(), u64::MAX, salt));
            history = life.history.settled(found.at, found.log, found.commit, found.genesis.is_some());
        }
        Start { seed, history, disk, dice, redb_cache_bytes: settings(&SimDisk::default(), seed, 0).redb_cache_bytes }
    }

    /// The same, but the database reads every page from the disk.
    pub fn uncached(self) -> Start {
        Start { redb_cache_bytes: 0, ..self }
    }

    /// What a life takes up on the disk that it begins with.
    pub fn used(&self) -> u64 {
        self.disk.used()
    }

    /// Lives, always the same as far as the faults let it.
    pub fn live(&self, faults: Faults) -> EndedLife {
        let (mut history, mut dice) = (self.history.again(), self.dice.clone());
        let disk = self.disk.killed();
        disk.set_faults(faults);
        disk.record();
        let mut reads_in_start = 0;
        let (served, phase, told_to_stop) = one_thread(async {
            let settings = settings(&disk, self.seed, dice.roll());
            let node =
                RunningStorage::try_start(Settings { redb_cache_bytes: self.redb_cache_bytes, ..settings }).await;
            let Ok(node) = node else { return (None, None, disk.counters().ops) };
            let storage = node.storage.clone();
            let phase = || Some(storage.status().phase);
            let Ok(recovered) = storage.recover().await else {
                return (None, phase(), disk.counters().ops);
            };
            let served = (disk.counters().ops, recovered.boot, recovered.store_id);
            reads_in_start = disk.counters().reads;
            let steps = 10 + dice.below(40);
            history.live(&disk, &node, &mut dice, steps).await;
            let (phase, ops) = (phase(), disk.counters().ops);
            if dice.one_in(2) {
                node.stop().await;
            }
            (Some(served), phase, ops)
        });
        let moments = disk.recorded();
        EndedLife { life: Life::of(self.seed, history, moments, served), disk, phase, told_to_stop, reads_in_start }
    }
}

impl Life {
    /// A life in which nothing fails but the power.
    pub fn draw(seed: u64) -> Life {
        let ended = Start::draw(seed).live(Faults::default());
        assert_eq!(ended.phase, Some(Phase::Serving), "nothing failed");
        ended.life
    }

    fn of(seed: u64, history: History, moments: Vec<Moment>, served: Option<(u64, Boot, StoreId)>) -> Life {
        let contexts = history.contexts();
        Life { seed, history, moments, contexts, served }
    }

    /// Recovers from a disk as a power cut in front of an operation left it, and says what was found
    /// if it is what may be there.
    pub async fn check(&self, disk: &SimDisk, op: u64, salt: u64) -> Found {
        let node = RunningStorage::start(settings(disk, self.seed, salt)).await;
        let found = self.check_node(&node, op).await;
        // Nothing of this is needed any more, the closing of the database neither.
        disk.cut();
        found
    }

    async fn check_node(&self, node: &RunningStorage, op: u64) -> Found {
        assert_eq!(node.storage.status().phase, Phase::Serving, "a crash is no damage");
        let recovered = node.recover().await;
        let log = node.log().expect("the log is readable");
        let state = recovered.hard_state;
        let (acked, asked) = self.history.before(op);
        let at = (acked..=asked).rev().find(|at| holds(&self.history.asked[*at], *at > acked, &log, &state));
        let Some(at) = at else {
            let (must, may) = (&self.history.asked[acked], &self.history.asked[asked]);
            let (terms, lengths) = ((must.term, may.term), (must.log.len(), may.log.len()));
            panic!(
                "{} log entries and {state:?} were never there together: between {lengths:?} entries and {terms:?}",
                log.len()
            );
        };
        for (entry, index) in log.iter().zip(1..) {
            assert_eq!(entry.index, LogIndex(index), "the log has a gap");
            assert_eq!(node.storage.log_term(entry.index).unwrap(), Some(entry.term));
        }
        let commit = state.commit.get();
        let (least, most) = (self.history.asked[at].commit, self.history.told_before(op));
        assert!((least..=most).contains(&commit), "commit {commit} is not in {least}..={most}");
        assert_eq!((recovered.applied, recovered.last_index), (state.commit, LogIndex(log.len() as u64)));
        self.check_ledger(node, commit);
        self.check_positions(node, commit).await;
        self.check_names(&recovered, op);
        Found {
            at,
            log: log.len(),
            term: state.term,
            vote: state.vote,
            commit,
            genesis: recovered.genesis,
            digest: node.storage.status().digest,
            boot: recovered.boot,
            store_id: recovered.store_id,
        }
    }

    /// The ledger is what the model makes of the log up to this entry.
    fn check_ledger(&self, node: &RunningStorage, commit: u64) {
        let mark = self.history.mark(commit);
        assert_eq!(node.storage.status().digest, mark.digest, "digest at log entry {commit}");
        for (context, entries) in &self.contexts {
            let latest = mark.latest.get(context).copied().unwrap_or_default();
            let page = node.all(context).expect("a context is readable");
            assert_eq!(page.latest.get(), latest, "latest of {context}");
            assert!(page.entries[..] == entries[..latest as usize], "entries of {context}");
        }
    }

    /// The ledger by position is what the contexts hold.
    async fn check_positions(&self, node: &RunningStorage, commit: u64) {
        let latest = self.history.mark(commit).latest;
        let kept = |context| latest.get(context).map_or(0, |latest| *latest as usize);
        let all = self.contexts.iter().flat_map(|(context, entries)| &entries[..kept(context)]);
        let all: BTreeMap<_, &Entry> = all.map(|entry| (entry.position, entry)).collect();
        let mut read = Vec::new();
        let (of, direction, max_bytes) = (StreamOf::All, Direction::Forwards, usize::MAX);
        let mut query = StreamQuery { of, direction, from: Ordinal(1), limit: 0, key: None, max_bytes };
        loop {
            let page = node.storage.stream(query.clone()).await.expect("the ledger is readable");
            read.extend(page.entries);
            let Some(next) = page.next else { break };
            query.from = next;
        }
        assert!(read.iter().eq(all.into_values()), "entries by position at log entry {commit}");
    }

    /// Genesis, store id and boot number are those that were told, and a boot number is new.
    fn check_names(&self, recovered: &converge_actors::storage::Recovered, op: u64) {
        match &self.history.genesis {
            Some((genesis, begun, _)) if *begun < op && recovered.genesis.is_some() => {
                assert_eq!(recovered.genesis.as_ref(), Some(genesis));
            }
            Some((_, _, Some(acked))) if *acked < op => panic!("the genesis is gone"),
            _ => assert_eq!(recovered.genesis, None),
        }
        if let Some((_, boot, store_id)) = self.served.filter(|(served, ..)| *served < op) {
            assert!(recovered.boot > boot, "boot {} after {boot}", recovered.boot);
            assert_eq!(recovered.store_id, store_id);
        }
    }

    /// Recovering again gives the same, also when the power is cut right after the first time.
    pub fn check_twice(&self, disk: &SimDisk, op: u64, dice: &mut Dice) {
        let (first, left) = one_thread(async {
            let node = RunningStorage::start(settings(disk, self.seed, dice.roll())).await;
            let found = self.check_node(&node, op).await;
            let left = if dice.one_in(4) { disk.killed() } else { disk.crash(dice) };
            disk.cut();
            (found, left)
        });
        let second = one_thread(self.check(&left, op, dice.roll()));
        assert!(second.boot > first.boot, "boot {} after {}", second.boot, first.boot);
        assert_eq!(second.store_id, first.store_id);
        same(&first, &second);
    }

    /// Life goes on: every request with an idempotency key is known, the index grows as the model's,
    /// and what is acknowledged now outlives the next power cut.
    pub fn check_onward(&self, disk: &SimDisk, op: u64, dice: &mut Dice) {
        let (left, index, digest) = one_thread(async {
            let node = RunningStorage::start(settings(disk, self.seed, dice.roll())).await;
            let found = self.check_node(&node, op).await;
            let mut memory = self.history.memory(found.commit);
            let batch = self.history.retries(found.commit);
            let (index, term) = (LogIndex(found.commit + 1), found.term.next());
            let entry = LogEntry { index, term, kind: EntryKind::Normal, data: batch.encode() };
            let state = HardState { term, vote: NodeId(1), commit: index };
            node.append(vec![entry.clone()], Some(state)).await.expect("is durable");
            node.apply(vec![entry]).await;
            let wanted = memory.apply(Some(batch));
            let got = node.outcomes.lock().unwrap().last().unwrap().clone();
            let got: Vec<_> = got.outcomes.iter().map(|(_, outcome)| *outcome).collect();
            assert_eq!(got, wanted.outcomes);
            let left = if dice.one_in(3) { disk.killed() } else { disk.crash(dice) };
            disk.cut();
            (left, index, memory.state.digest)
        });
        one_thread(async {
            let node = RunningStorage::start(settings(&left, self.seed, dice.roll())).await;
            assert_eq!(node.storage.status().phase, Phase::Serving, "a second crash is no damage");
            let recovered = node.recover().await;
            assert_eq!((recovered.last_index, recovered.applied), (index, index), "what was acknowledged last");
            assert_eq!(node.storage.status().digest, digest);
            left.cut();
        });
    }

    /// An inspection finds nothing wrong, and an index made anew is the same.
    pub fn check_inspection(&self, disk: &SimDisk, op: u64, salt: u64) {
        let found = one_thread(async {
            let node = RunningStorage::start(settings(disk, self.seed, salt)).await;
            let found = self.check_node(&node, op).await;
            node.stop().await;
            found
        });
        let dir = tempfile::tempdir().unwrap();
        copy_out(disk, dir.path());
        let digest: String = found.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let before = inspect::verify(dir.path()).unwrap();
        assert_eq!(before.problems, Vec::<String>::new());
        let rebuilt = inspect::rebuild_index(dir.path()).unwrap();
        assert_eq!((&rebuilt.digest, rebuilt.applied, rebuilt.boot), (&digest, LogIndex(found.commit), found.boot));
        let after = inspect::verify(dir.path()).unwrap();
        assert_eq!(after.problems, Vec::<String>::new());
        let rows = |it: &inspect::Verified| (it.log_entries, it.contexts, it.entries, it.keys);
        assert_eq!(rows(&before), rows(&after));
    }

    /// Cuts the power in front of each change of the recovery of a disk; says how often.
    pub fn check_recovery(&self, disk: &SimDisk, left: Left, op: u64, dice: &mut Dice) -> u64 {
        let salt = dice.roll();
        disk.record();
        let found = one_thread(self.check(disk, op, salt));
        let moments = disk.recorded();
        for moment in &moments {
            let again = one_thread(self.check(&moment.disk.crash(dice), op, dice.roll()));
            if left == Left::ByPowerCut {
                same(&found, &again);
            }
        }
        moments.len() as u64
    }
}

/// Whether an append, or when it was not answered a part of it, is what is there.
fn holds(asked: &Asked, in_part: bool, log: &[LogEntry], state: &HardState) -> bool {
    let lengths = if in_part { (asked.kept + 1).min(asked.log.len()) } else { asked.log.len() }..=asked.log.len();
    (asked.term, asked.vote) == (state.term, state.vote)
        && lengths.contains(&log.len())
        && asked.log[..log.len()] == *log
}

/// All is the same but who started: numbers of starts that nobody heard of may differ.
fn same(first: &Found, second: &Found) {
    let second = Found { boot: first.boot, store_id: first.store_id, ..second.clone() };
    assert_eq!(*first, second, "another recovery found something else");
}
