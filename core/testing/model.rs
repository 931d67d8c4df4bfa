//! The ledger as one would explain it: a list of entries for each context, a map of idempotency
//! keys to entries, and every outcome ever, by attempt.
//!
//! Shares only types and the chain hash with what it is to check, forgets nothing that it does
//! not have to, and takes the plain way everywhere.

use std::collections::BTreeMap;

use crate::command::{Append, Batch, Command, Condition, Load, RaiseFence, Stage, Transact};
use crate::entry::{EMPTY_CHAIN, Entry, NewEntry};
use crate::ids::{AttemptId, Boot, ContextNo, EntryId, FenceEpoch, Lamport, NodeId, Position, Sequence};
use crate::outcome::{Appended, Fenced, Outcome, Refusal, Transacted};

/// The whole ledger.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The contexts with entries, or with a fence.
    pub contexts: BTreeMap<String, Context>,
    /// The first outcome of every attempt that was looked at.
    pub outcomes: BTreeMap<AttemptId, Outcome>,
    /// Every entry there is.
    pub positions: u64,
    /// For so many positions a key is known; none: for ever.
    pub key_window: Option<u64>,
    /// The transactions that have a key.
    pub transactions: BTreeMap<String, (Transact, Position)>,
    origins: BTreeMap<NodeId, Origin>,
}

/// A context of the model.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// In order of creation, from 1.
    pub number: ContextNo,
    /// Sequence 1 first.
    pub entries: Vec<Entry>,
    /// Idempotency key to place in `entries`.
    pub keys: BTreeMap<String, usize>,
    /// Raised by every fence.
    pub fence_epoch: FenceEpoch,
}

#[derive(Clone, Debug, Default)]
struct Origin {
    boot: Boot,
    low_water: u64,
    low_staging: u64,
    staged: BTreeMap<u64, Vec<Stage>>,
}

impl Context {
    /// The sequence of the last entry.
    #[must_use]
    pub fn latest(&self) -> Sequence {
        Sequence(self.entries.len() as u64)
    }

    /// The chain hash after the last entry.
    #[must_use]
    pub fn chain(&self) -> [u8; 32] {
        self.entries.iter().fold(EMPTY_CHAIN, |chain, entry| entry.chain(&chain))
    }

    fn appended(&self, at: usize, deduplicated: bool) -> Outcome {
        let Entry { sequence, position, lamport, .. } = self.entries[at];
        let context = self.number;
        Outcome::Appended(Appended { context, sequence, position, lamport, deduplicated })
    }
}

impl Model {
    /// The entries of a context; none for one that is unknown.
    #[must_use]
    pub fn entries(&self, context_id: &str) -> &[Entry] {
        self.contexts.get(context_id).map_or(&[], |context| &context.entries)
    }

    /// What every command of the batch must end as.
    pub fn apply(&mut self, batch: &Batch) -> Vec<Outcome> {
        let origin = self.origins.entry(batch.origin).or_default();
        if batch.boot > origin.boot {
            *origin = Origin { boot: batch.boot, ..Origin::default() };
        }
        let closed = batch.boot < origin.boot;
        if !closed {
            origin.low_water = origin.low_water.max(batch.low_water);
            origin.low_staging = origin.low_staging.max(batch.low_staging);
            let low_staging = origin.low_staging;
            origin.staged.retain(|load, _| *load >= low_staging);
        }
        let low_water = origin.low_water;
        let mut decide = |command: &Command, before: Option<Outcome>| {
            if closed || command.counter() < low_water {
                return Outcome::Refused(Refusal::Superseded);
            }
            if let Command::Stage(stage) = command {
                return self.stage(batch.origin, stage);
            }
            let attempt = batch.attempt(command);
            if let Some(first) = self.outcomes.get(&attempt) {
                return *first;
            }
            let outcome = match command {
                Command::Append(append) if append.follows && !matches!(before, Some(Outcome::Appended(_))) => {
                    Outcome::Refused(Refusal::NotReached)
                }
                Command::Append(append) => self.append(append),
                Command::Stage(_) => unreachable!(),
                Command::Load(load) => self.load(batch.origin, load),
                Command::Transact(transact) => self.transact(transact),
                Command::Fence(fence) => self.fence(fence),
            };
            self.outcomes.insert(attempt, outcome);
            outcome
        };
        let (mut before, mut outcomes) = (None, Vec::new());
        for command in &batch.commands {
            before = Some(decide(command, before));
            outcomes.extend(before);
        }
        outcomes
    }

    /// The context with this name, made if need be.
    fn context(&mut self, context_id: &str) -> &mut Context {
        let number = ContextNo(self.contexts.len() as u64 + 1);
        let new = || Context { number, ..Context::default() };
        self.contexts.entry(context_id.to_owned()).or_insert_with(new)
    }

    fn append(&mut self, append: &Append) -> Outcome {
        let content = &append.entry;
        let empty = Context::default();
        let context = self.contexts.get(&content.context_id).unwrap_or(&empty);
        let key = append.idempotency_key.as_ref();
        let known = |at: &&usize| {
            let later = self.positions - context.entries[**at].position.get();
            self.key_window.is_none_or(|window| later < window)
        };
        if let Some(&at) = key.and_then(|key| context.keys.get(key)).filter(known) {
            let first = &context.entries[at];
            let same =
                first.key == content.key && first.payload == content.payload && first.metadata == content.metadata;
            return if same {
                context.appended(at, true)
            } else {
                Outcome::Refused(Refusal::IdempotencyMismatch { sequence: first.sequence })
            };
        }
        let current = context.fence_epoch;
        if append.fence_epoch.is_some_and(|epoch| epoch != current) {
            return Outcome::Refused(Refusal::StaleFence { current });
        }
        let actual = context.latest();
        if append.expected_sequence.is_some_and(|expected| expected != actual) {
            return Outcome::Refused(Refusal::ExpectedSequence { actual });
        }
        let at = self.push(content, append.id, append.appended_at_ns, append.received_lamport);
        let context = self.context(&content.context_id);
        if let Some(key) = key {
            context.keys.insert(key.clone(), at);
        }
        context.appended(at, false)
    }

    /// Appends whatever happens; says where in its context it is.
    fn push(&mut self, content: &NewEntry, id: EntryId, appended_at_ns: u64, received: Option<Lamport>) -> usize {
        self.positions += 1;
        let position = Position(self.positions);
        let context = self.context(&content.context_id);
        let local = context.entries.iter().map(|entry| entry.lamport).max().unwrap_or_default();
        context.entries.push(Entry {
            context_id: content.context_id.clone(),
            key: content.key.clone(),
            payload: content.payload.clone(),
            metadata: content.metadata.clone(),
            id,
            sequence: Sequence(context.latest().get() + 1),
            position,
            appended_at_ns,
            lamport: Lamport(local.max(received.unwrap_or_default()).get().saturating_add(1)),
        });
        context.entries.len() - 1
    }

    fn transact(&mut self, transact: &Transact) -> Outcome {
        let known = transact.idempotency_key.as_ref().and_then(|key| self.transactions.get(key));
        let known = known.filter(|(_, first)| {
            let later = self.positions - first.get();
            self.key_window.is_none_or(|window| later < window)
        });
        if let Some((before, first)) = known {
            let first = *first;
            return if asked(before) == asked(transact) {
                Outcome::Transacted(Transacted { first, count: before.entries.len() as u64, deduplicated: true })
            } else {
                Outcome::Refused(Refusal::TransactionMismatch { first })
            };
        }
        for (nth, Condition { context_id, sequence, fence_epoch }) in (0..).zip(&transact.conditions) {
            let context = self.contexts.get(context_id);
            let latest = context.map_or(Sequence(0), Context::latest);
            let epoch = context.map_or(FenceEpoch(0), |context| context.fence_epoch);
            if sequence.unwrap_or(latest) != latest || fence_epoch.unwrap_or(epoch) != epoch {
                return Outcome::Refused(Refusal::Condition { nth, latest, epoch });
            }
        }
        let first = Position(self.positions + 1);
        for part in &transact.entries {
            self.push(&part.entry, part.id, part.appended_at_ns, part.received_lamport);
        }
        if let Some(key) = transact.idempotency_key.clone().filter(|_| !transact.entries.is_empty()) {
            self.transactions.insert(key, (transact.clone(), first));
        }
        Outcome::Transacted(Transacted { first, count: transact.entries.len() as u64, deduplicated: false })
    }

    fn fence(&mut self, fence: &RaiseFence) -> Outcome {
        let current = self.contexts.get(&fence.context_id).map_or(FenceEpoch(0), |context| context.fence_epoch);
        let next = FenceEpoch(current.get().saturating_add(1));
        let epoch = fence.epoch.unwrap_or(next);
        if epoch <= current {
            return Outcome::Refused(Refusal::StaleFence { current });
        }
        let position = Position(self.positions);
        let context = self.context(&fence.context_id);
        context.fence_epoch = epoch;
        Outcome::Fenced(Fenced { context: context.number, epoch, latest: context.latest(), position })
    }

    fn stage(&mut self, origin: NodeId, stage: &Stage) -> Outcome {
        let origin = self.origins.entry(origin).or_default();
        if stage.load < origin.low_staging {
            return Outcome::Refused(Refusal::Superseded);
        }
        let staged = origin.staged.entry(stage.load).or_default();
        let content = |stage: &Stage| Stage { counter: 0, ..stage.clone() };
        if staged.iter().any(|other| content(other) == content(stage)) {
            return Outcome::Staged;
        }
        let clash = |other: &Stage| other.context_id != stage.context_id || other.first == stage.first;
        if staged.iter().any(clash) || !is_sound(stage) {
            return Outcome::Refused(Refusal::ChunkInvalid);
        }
        staged.push(stage.clone());
        Outcome::Staged
    }

    fn load(&mut self, origin: NodeId, load: &Load) -> Outcome {
        let empty = Context::default();
        let context = self.contexts.get(&load.context_id).unwrap_or(&empty);
        let latest = context.latest();
        if load.fail_if_exists && latest != Sequence(0) {
            return Outcome::Refused(Refusal::ContextExists { latest });
        }
        if latest != load.base {
            return Outcome::Refused(Refusal::LoadMoved { latest });
        }
        if context.chain() != load.base_chain {
            return Outcome::Refused(Refusal::LoadDiverges { latest });
        }
        let origin = self.origins.entry(origin).or_default();
        let staged = origin.staged.get(&load.stage).cloned().unwrap_or_default();
        let Some(entries) = joined(&staged, load) else {
            return Outcome::Refused(Refusal::LoadIncomplete);
        };
        origin.staged.remove(&load.stage);
        if entries.is_empty() {
            let context = context.number;
            return Outcome::Loaded { context, restored: 0, latest };
        }
        let first = self.positions + 1;
        self.positions += load.count;
        let context = self.context(&load.context_id);
        for (entry, position) in entries.into_iter().zip(first..) {
            context.entries.push(Entry { position: Position(position), ..entry });
        }
        let latest = context.latest();
        Outcome::Loaded { context: context.number, restored: load.count, latest }
    }
}

/// What the client said, without what its node added.
fn asked(transact: &Transact) -> (Vec<Condition>, Vec<(NewEntry, Option<Lamport>)>) {
    let entries = transact.entries.iter().map(|part| (part.entry.clone(), part.received_lamport));
    (transact.conditions.clone(), entries.collect())
}

/// The entries of a chunk, if it is what it says of itself.
fn is_sound(stage: &Stage) -> bool {
    let last = u128::from(stage.first.get()) + stage.entries.len() as u128;
    let placed = stage.first.get() > 0 && last <= u128::from(u64::MAX);
    placed
        && !stage.entries.is_empty()
        && stage.chain == chunk(stage).iter().fold(stage.base_chain, |chain, entry| entry.chain(&chain))
}

fn chunk(stage: &Stage) -> Vec<Entry> {
    let entries = (stage.first.get()..).zip(&stage.entries);
    let entry = |(n, entry): (u64, &crate::command::StagedEntry)| {
        entry.clone().into_entry(stage.context_id.clone(), Sequence(n), Position(0))
    };
    entries.map(entry).collect()
}

/// Chunk after chunk from the base on, each where the last one ended.
fn joined(staged: &[Stage], load: &Load) -> Option<Vec<Entry>> {
    let (mut entries, mut chain) = (Vec::new(), load.base_chain);
    while (entries.len() as u64) < load.count {
        let due = load.base.get() + 1 + entries.len() as u64;
        let fits = |stage: &&Stage| {
            stage.first.get() == due && stage.base_chain == chain && stage.context_id == load.context_id
        };
        let next = staged.iter().find(fits)?;
        entries.extend(chunk(next));
        chain = next.chain;
    }
    (entries.len() as u64 == load.count).then_some(entries)
}
