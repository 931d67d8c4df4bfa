//! A life of storage, drawn from a seed: what it was asked for, when, and when it answered.
//!
//! Time is counted in operations of the disk. So for a power cut in front of any operation the
//! [`History`] says what may be on the disk, and what must be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use converge_actors::storage::{EntryKind, Error, Genesis, HardState, LogEntry};
use converge_lab::disk::SimDisk;
use converge_ledger_core::chance::Dice;
use converge_ledger_core::testing::Memory;
use converge_ledger_core::{
    Append, Batch, Boot, ClusterId, Command, Condition, EMPTY_CHAIN, Entry, EntryId, KEY_WINDOW_DEFAULT, Lamport, Load,
    LogIndex, NewEntry, NodeId, RaiseFence, Sequence, Stage, StagedEntry, Term, Transact, TransactEntry,
};

use super::RunningStorage;

/// An append that storage was asked for, and all there is with it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub log: Vec<LogEntry>,
    /// The entries in front of those it brought.
    pub kept: usize,
    pub term: Term,
    pub vote: NodeId,
    /// As it was written with it.
    pub commit: u64,
    /// Operations of the disk before it.
    pub begun: u64,
}

/// What applying up to a log entry makes.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    pub digest: [u8; 32],
    pub latest: BTreeMap<String, u64>,
}

/// What was asked of storage in one life, beginning with what it found.
#[derive(Clone)]
pub struct History {
    pub asked: Vec<Asked>,
    /// The operations of the disk before the answer to each of `asked`.
    pub acked: Arc<Mutex<Vec<u64>>>,
    /// Operations of the disk, and the commit that was told then.
    told: Vec<(u64, u64)>,
    /// The genesis, the operations before it was asked for and, if it was, before it was answered.
    pub genesis: Option<(Genesis, u64, Option<u64>)>,
    memory: Vec<Memory>,
    client: Caller,
}

/// What a client's calls are made of.
#[derive(Clone, Debug, Default)]
struct Caller {
    counter: u64,
    low_water: u64,
    keys: u64,
    /// What is staged for the load with this number, as one chunk would hold it.
    staging: Option<Stage>,
    loads: u64,
    batches: Vec<Bytes>,
    /// The batches of this append are large.
    large: bool,
}

impl History {
    pub fn new() -> History {
        History {
            asked: vec![Asked::default()],
            acked: Arc::new(Mutex::new(vec![0])),
            told: vec![(0, 0)],
            genesis: None,
            memory: vec![Memory::new()],
            client: Caller::default(),
        }
    }

    /// The same history for another life that begins as this one did.
    pub fn again(&self) -> History {
        let acked = self.acked.lock().unwrap().clone();
        History { acked: Arc::new(Mutex::new(acked)), ..self.clone() }
    }

    /// Goes on from what was found: entry `at` of what was asked for, as much of its log as there is,
    /// and what of it is committed. Operations of the disk are counted anew.
    pub fn settled(&self, at: usize, log: usize, commit: u64, genesis: bool) -> History {
        let mut found = self.asked[at].clone();
        found.log.truncate(log);
        (found.kept, found.commit, found.begun) = (log, commit, 0);
        History {
            asked: vec![found],
            acked: Arc::new(Mutex::new(vec![0])),
            told: vec![(0, commit)],
            memory: self.memory[..=commit as usize].to_vec(),
            genesis: self.genesis.clone().filter(|_| genesis).map(|(genesis, ..)| (genesis, 0, Some(0))),
            client: self.client.clone(),
        }
    }

    fn committed(&self) -> u64 {
        self.told.last().unwrap().1
    }

    /// The last commit that was told before an operation.
    pub fn told_before(&self, op: u64) -> u64 {
        self.told.iter().rev().find(|(at, _)| *at < op).map_or(0, |(_, commit)| *commit)
    }

    /// How many of `asked` were answered before an operation, and how many were asked for.
    pub fn before(&self, op: u64) -> (usize, usize) {
        let acked = self.acked.lock().unwrap().iter().filter(|at| **at < op).count();
        let asked = self.asked.iter().filter(|asked| asked.begun < op).count();
        (acked.max(1) - 1, asked.max(1) - 1)
    }

    pub fn mark(&self, commit: u64) -> Mark {
        let memory = &self.memory[commit as usize];
        let latest = memory.rows.heads.iter().map(|(context, head)| (context.clone(), head.latest.get()));
        Mark { digest: memory.state.digest, latest: latest.collect() }
    }

    /// The ledger as it is when all that was told is applied.
    pub fn contexts(&self) -> BTreeMap<String, Vec<Entry>> {
        let memory = self.memory.last().unwrap();
        memory.rows.heads.keys().map(|context| (context.clone(), memory.entries(context))).collect()
    }

    /// A model to go on with, as it is at this commit.
    pub fn memory(&self, commit: u64) -> Memory {
        self.memory[commit as usize].clone()
    }

    /// All commands so far that have an idempotency key, as new attempts.
    pub fn retries(&self, commit: u64) -> Batch {
        let log = self.memory[commit as usize].rows.log.values().flatten();
        let counters = self.client.counter + 1..;
        let keyed = log.flat_map(|batch| &batch.commands).filter(|command| match command {
            Command::Append(append) => append.idempotency_key.is_some(),
            Command::Transact(transact) => transact.idempotency_key.is_some(),
            _ => false,
        });
        let commands = keyed.cloned().zip(counters).map(|(command, counter)| match command {
            Command::Append(append) => Command::Append(Append { counter, ..append }),
            Command::Transact(transact) => Command::Transact(Transact { counter, ..transact }),
            other => other,
        });
        let low_water = self.client.counter + 1;
        let (low_staging, commands) = (self.client.low_staging(), commands.take(4).collect());
        Batch { origin: NodeId(1), boot: Boot(1), low_water, low_staging, commands }
    }

    /// Runs until the disk fails or the steps are done.
    pub async fn live(&mut self, disk: &SimDisk, node: &RunningStorage, dice: &mut Dice, steps: u64) {
        for _ in 0..steps {
            let outcome = match dice.below(12) {
                0..4 => self.commit(disk, node, dice),
                4 if self.genesis.is_none() => self.found(disk, node).await,
                _ => self.append(disk, node, dice),
            };
            if outcome.is_err() {
                return;
            }
            let breaths = [0, 3, 12, 30][dice.below(4) as usize];
            for _ in 0..breaths {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn found(&mut self, disk: &SimDisk, node: &RunningStorage) -> Result<(), Error> {
        let store_id = node.storage.recover().await?.store_id;
        let genesis = Genesis {
            cluster_id: ClusterId([9; 16]),
            group: 0,
            voters: [(NodeId(1), store_id)].into(),
            key_window: KEY_WINDOW_DEFAULT,
        };
        self.genesis = Some((genesis.clone(), disk.counters().ops, None));
        node.storage.write_genesis(genesis).await?;
        self.genesis.as_mut().unwrap().2 = Some(disk.counters().ops);
        Ok(())
    }

    /// A random append, sometimes in place of entries that are not committed.
    fn append(&mut self, disk: &SimDisk, node: &RunningStorage, dice: &mut Dice) -> Result<(), Error> {
        let Asked { mut log, mut term, mut vote, commit: written, .. } = self.asked.last().unwrap().clone();
        if term == Term(0) || dice.one_in(6) {
            (term, vote) = (term.next(), NodeId(dice.below(4)));
        }
        let mut count = if dice.one_in(4) { 0 } else { 1 + dice.below(4) };
        self.client.large = dice.one_in(10);
        if self.client.large {
            // More than a record of the journal holds.
            count = 3;
        }
        let committed = self.committed();
        if count > 0 && dice.one_in(5) {
            // There is no truncation without entries (S4), and the new ones are of a new term.
            (term, vote) = (term.next(), NodeId(dice.below(4)));
            let keep = committed + dice.below(log.len() as u64 - committed + 1);
            log.truncate(keep as usize);
        }
        let kept = log.len();
        let first = LogIndex(kept as u64 + 1);
        let entries: Vec<_> = (first.get()..first.get() + count)
            .map(|index| {
                let (kind, data) = self.client.entry(dice);
                LogEntry { index: LogIndex(index), term, kind, data }
            })
            .collect();
        log.extend(entries.clone());
        let before = self.asked.last().unwrap();
        let vital = (before.term, before.vote) != (term, vote);
        let commit = if vital || count > 0 { committed } else { written };
        self.asked.push(Asked { log, kept, term, vote, commit, begun: disk.counters().ops });
        let (nth, acked, disk) = (self.asked.len() - 1, Arc::clone(&self.acked), disk.clone());
        let done = Box::new(move |outcome: Result<(), Error>| {
            if outcome.is_ok() {
                let mut acked = acked.lock().unwrap();
                assert_eq!(acked.len(), nth, "acknowledged out of order");
                acked.push(disk.counters().ops);
            }
        });
        node.storage.append(entries, Some(HardState { term, vote, commit: LogIndex(committed) }), done)
    }

    /// Commits some of what is acknowledged, and has it applied.
    fn commit(&mut self, disk: &SimDisk, node: &RunningStorage, dice: &mut Dice) -> Result<(), Error> {
        let acked = self.acked.lock().unwrap().len() - 1;
        let (durable, now) = (&self.asked[acked].log, &self.asked.last().unwrap().log);
        let common = durable.iter().zip(now).take_while(|(a, b)| a == b).count() as u64;
        let committed = self.committed();
        if common <= committed {
            return Ok(());
        }
        let to = committed + 1 + dice.below(common - committed);
        let entries = now[committed as usize..to as usize].to_vec();
        for entry in &entries {
            let mut memory = self.memory.last().unwrap().clone();
            memory.apply(batch_of(entry));
            self.memory.push(memory);
        }
        self.told.push((disk.counters().ops, to));
        node.storage.apply(entries)
    }
}

fn batch_of(entry: &LogEntry) -> Option<Batch> {
    let carries = entry.kind == EntryKind::Normal && !entry.data.is_empty();
    carries.then(|| Batch::decode(&entry.data).unwrap())
}

impl Caller {
    fn entry(&mut self, dice: &mut Dice) -> (EntryKind, Bytes) {
        match dice.below(16) {
            0 => (EntryKind::Normal, Bytes::new()),
            1 => (EntryKind::ConfChange, Bytes::from_static(b"somebody came")),
            // Handed over a second time.
            2 if !self.batches.is_empty() => {
                let nth = dice.below(self.batches.len() as u64) as usize;
                (EntryKind::Normal, self.batches[nth].clone())
            }
            _ => {
                let data = self.batch(dice);
                self.batches.push(data.clone());
                (EntryKind::Normal, data)
            }
        }
    }

    fn batch(&mut self, dice: &mut Dice) -> Bytes {
        let least = (self.counter + 1).saturating_sub(dice.below(12));
        self.low_water = self.low_water.max(least);
        let low_staging = self.low_staging();
        let count = if self.large { 3 } else { 1 + dice.below(4) };
        let commands = (0..count).map(|_| self.command(dice)).collect();
        Batch { origin: NodeId(1), boot: Boot(1), low_water: self.low_water, low_staging, commands }.encode()
    }

    fn low_staging(&self) -> u64 {
        self.loads + u64::from(self.staging.is_none())
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn command(&mut self, dice: &mut Dice) -> Command {
        match (dice.below(10), self.staging.clone()) {
            (0, Some(Stage { load: stage, context_id, entries, .. })) => {
                self.staging = None;
                let (counter, count) = (self.next(), entries.len() as u64);
                let (base, base_chain, fail_if_exists) = (Sequence(0), EMPTY_CHAIN, dice.one_in(2));
                Command::Load(Load { counter, stage, context_id, base, base_chain, count, fail_if_exists })
            }
            (0..3, _) => self.stage(dice),
            _ => unit(self.client_append(dice)),
        }
    }

    fn stage(&mut self, dice: &mut Dice) -> Command {
        let counter = self.next();
        let staged = |n: u64, dice: &mut Dice| StagedEntry {
            lamport: Lamport(n),
            id: EntryId(u128::from(counter << 8 | n).to_be_bytes()),
            appended_at_ns: counter,
            key: "staged".into(),
            payload: Bytes::from(dice.bytes(80)),
            metadata: BTreeMap::new(),
        };
        let loads = &mut self.loads;
        let all = self.staging.get_or_insert_with(|| {
            *loads += 1;
            Stage {
                counter,
                load: *loads,
                context_id: format!("loaded {loads}"),
                first: Sequence(1),
                base_chain: EMPTY_CHAIN,
                chain: EMPTY_CHAIN,
                entries: Vec::new(),
            }
        });
        let known = all.entries.len() as u64;
        let entries: Vec<StagedEntry> = (1..2 + dice.below(3)).map(|n| staged(known + n, dice)).collect();
        all.entries.extend(entries.iter().cloned());
        let base_chain = all.chain;
        all.chain = all.computed_chain().expect("it has its place");
        Command::Stage(Stage { counter, first: Sequence(known + 1), base_chain, entries, ..all.clone() })
    }

    fn client_append(&mut self, dice: &mut Dice) -> Append {
        let counter = self.next();
        let length = if self.large || dice.one_in(12) { 2500 } else { dice.below(500) as usize };
        // Some come again, and then mostly with another content, which is refused.
        let idempotency_key = dice.one_in(3).then(|| {
            self.keys += 1;
            format!("key {}", if dice.one_in(4) { dice.below(self.keys) } else { self.keys })
        });
        let metadata = if dice.one_in(5) { [("who".to_owned(), "me".to_owned())].into() } else { BTreeMap::new() };
        Append {
            counter,
            id: EntryId(u128::from(counter).to_be_bytes()),
            appended_at_ns: 1_700_000_000_000_000_000 + counter,
            idempotency_key,
            expected_sequence: dice.one_in(10).then(|| Sequence(dice.below(6))),
            fence_epoch: None,
            received_lamport: dice.one_in(10).then(|| Lamport(dice.below(1000))),
            follows: false,
            entry: NewEntry {
                context_id: format!("context {}", dice.below(4)),
                key: if dice.one_in(2) { "even" } else { "odd" }.to_owned(),
                payload: Bytes::from(dice.bytes(length)),
                metadata,
            },
        }
    }
}

/// An append; now and then a transaction of two entries in its place, or a fence of its context or of one without entries.
fn unit(append: Append) -> Command {
    let counter = append.counter;
    let fence = |context_id: String| Command::Fence(RaiseFence { counter, context_id, epoch: None });
    match counter % 16 {
        3 | 10 => {
            let Append { id, appended_at_ns, idempotency_key, expected_sequence, received_lamport, entry, .. } = append;
            let condition = |sequence| Condition {
                context_id: entry.context_id.clone(),
                sequence: Some(sequence),
                fence_epoch: None,
            };
            let conditions = expected_sequence.map(condition).into_iter().collect();
            let beside = TransactEntry {
                id: EntryId((u128::from(counter) << 64).to_be_bytes()),
                appended_at_ns,
                received_lamport: None,
                entry: NewEntry { context_id: "context beside".to_owned(), ..entry.clone() },
            };
            let entries = vec![TransactEntry { id, appended_at_ns, received_lamport, entry }, beside];
            Command::Transact(Transact { counter, idempotency_key, conditions, entries })
        }
        7 => fence(append.entry.context_id),
        14 => fence(format!("fenced {}", counter % 3)),
        _ => Command::Append(append),
    }
}
