//! Pages over all contexts and over one, forwards and backwards, and lists of contexts, beside a model: whatever of it is in
//! memory, on its way to the database, or there.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use converge_actors::storage::{
    AppliedMark, ContextsQuery, Direction, EntryKind, HardState, LogEntry, Ordinal, Settings, StreamEnd, StreamOf,
    StreamQuery,
};
use converge_ledger_core::chance::Dice;
use converge_ledger_core::testing::Memory;
use converge_ledger_core::{
    Append, Batch, Boot, Command, EMPTY_CHAIN, Entry, EntryId, Head, Lamport, Load, LogIndex, NewEntry, NodeId,
    Position, Sequence, Stage, StagedEntry, Term,
};

use super::support::{Leader, RunningStorage, small, write};

/// A ledger that is written, and what it must be.
#[derive(Default)]
struct Written {
    memory: Memory,
    index: u64,
    counter: u64,
    loads: u64,
    /// A chunk that was staged, and its load.
    staged: Option<Load>,
}

impl Written {
    fn append(&mut self, dice: &mut Dice) -> Command {
        let length = [0, 20, 300, 1500][dice.below(4) as usize];
        let entry = NewEntry {
            context_id: format!("context {}", dice.below(5)),
            key: if dice.one_in(3) { "odd" } else { "even" }.into(),
            payload: dice.bytes(length).into(),
            metadata: BTreeMap::new(),
        };
        Command::Append(Append {
            counter: self.counter,
            id: EntryId(u128::from(self.counter).to_be_bytes()),
            appended_at_ns: self.counter,
            idempotency_key: None,
            // Some are refused: positions have no gap there, rows have.
            expected_sequence: dice.one_in(8).then_some(Sequence(1)),
            received_lamport: None,
            fence_epoch: None,
            follows: false,
            entry,
        })
    }

    fn stage(&mut self, dice: &mut Dice) -> Command {
        self.loads += 1;
        let (context_id, counter) = (format!("context {}", dice.below(7)), self.counter);
        let head = self.memory.rows.heads.get(&context_id).copied().unwrap_or(Head::EMPTY);
        let entry = |n: u64| StagedEntry {
            lamport: Lamport(n),
            id: EntryId(u128::from(n << 32 | counter).to_be_bytes()),
            appended_at_ns: n,
            key: if n.is_multiple_of(2) { "odd" } else { "even" }.into(),
            payload: Bytes::from(vec![n as u8; 90]),
            metadata: BTreeMap::new(),
        };
        let entries: Vec<_> = (0..1 + dice.below(9)).map(entry).collect();
        let (base_chain, chain) = (head.chain, EMPTY_CHAIN);
        let (load, first, count) = (self.loads, head.latest.next(), entries.len() as u64);
        let mut stage = Stage { counter, load, context_id: context_id.clone(), first, base_chain, chain, entries };
        stage.chain = stage.computed_chain().unwrap();
        let (base, fail_if_exists) = (head.latest, false);
        self.staged = Some(Load { counter: 0, stage: load, context_id, base, base_chain, count, fail_if_exists });
        Command::Stage(stage)
    }

    /// The next log entry.
    fn next(&mut self, dice: &mut Dice) -> LogEntry {
        self.index += 1;
        let low_water = self.counter + 1;
        let commands = (0..dice.below(7)).map(|_| {
            self.counter += 1;
            match self.staged.take() {
                Some(load) if dice.one_in(2) => Command::Load(Load { counter: self.counter, ..load }),
                kept => {
                    self.staged = kept;
                    if self.staged.is_none() && dice.one_in(6) { self.stage(dice) } else { self.append(dice) }
                }
            }
        });
        let commands = commands.collect();
        let batch = Batch { origin: NodeId(1), boot: Boot(1), low_water, low_staging: 0, commands };
        self.memory.apply(Some(batch.clone()));
        LogEntry { index: LogIndex(self.index), term: Term(1), kind: EntryKind::Normal, data: batch.encode() }
    }

    async fn write(&mut self, node: &RunningStorage, dice: &mut Dice) {
        let entry = self.next(dice);
        let hard_state = HardState { term: Term(1), vote: NodeId(1), commit: entry.index };
        node.append(vec![entry.clone()], Some(hard_state)).await.unwrap();
        node.apply(vec![entry]).await;
    }

    fn entries(&self, of: &StreamOf) -> Vec<Entry> {
        match of {
            StreamOf::Context(context) => self.memory.entries(context),
            StreamOf::All => {
                let all = self.memory.rows.heads.keys().flat_map(|context| self.memory.entries(context));
                let by_position: BTreeMap<Position, Entry> = all.map(|entry| (entry.position, entry)).collect();
                by_position.into_values().collect()
            }
        }
    }
}

fn drawn(dice: &mut Dice) -> StreamQuery {
    let of = match dice.below(3) {
        0 => StreamOf::Context(format!("context {}", dice.below(8))),
        _ => StreamOf::All,
    };
    StreamQuery {
        of,
        direction: if dice.one_in(2) { Direction::Forwards } else { Direction::Backwards },
        from: Ordinal(0),
        limit: dice.below(6) as usize,
        key: dice.one_in(3).then(|| "odd".to_owned()),
        max_bytes: if dice.one_in(3) { 700 } else { usize::MAX },
    }
}

/// One page is what the model says from there on, as far as it goes, and says where to go on.
async fn check_pages(node: &RunningStorage, written: &Written, dice: &mut Dice) {
    let mut query = drawn(dice);
    let all = written.entries(&query.of);
    let last = all.len() as u64;
    query.from = Ordinal(dice.below(last + 3));
    let AppliedMark { index, position, digest } = node.storage.applied();
    assert_eq!((position, digest), (written.memory.state.last_position, written.memory.state.digest));
    assert_eq!(index, LogIndex(written.index));
    let applied = AppliedMark { index, position, digest };
    let matches = |entry: &&Entry| query.key.as_ref().is_none_or(|key| *key == entry.key);
    let mut expected: Vec<Entry> = match query.direction {
        Direction::Forwards => all.iter().skip((query.from.0.max(1) - 1) as usize).filter(matches).cloned().collect(),
        Direction::Backwards => all[..query.from.0.min(last) as usize].iter().rev().filter(matches).cloned().collect(),
    };
    let mut next = Some(query.from);
    while let Some(from) = next {
        let asked = StreamQuery { from, ..query.clone() };
        let page = node.storage.stream(asked.clone()).await.unwrap();
        assert_eq!(page.end, StreamEnd { last: Ordinal(last), applied }, "{asked:?}");
        assert!(asked.limit == 0 || page.entries.len() <= asked.limit, "{asked:?}");
        assert!(page.next.is_none_or(|next| asked.direction.is_after(next, from) || from > Ordinal(last)), "{asked:?}");
        let got = page.entries.len().min(expected.len());
        assert_eq!(page.entries, expected[..got], "{asked:?}");
        expected.drain(..got);
        next = page.next;
    }
    assert_eq!(expected, [], "{query:?} ended early");
    assert_eq!(node.storage.stream_end(&query.of).unwrap().last, Ordinal(last));
}

async fn check_contexts(node: &RunningStorage, written: &Written, dice: &mut Dice) {
    let prefix = ["", "context", "context 3", "d"][dice.below(4) as usize].to_owned();
    let limit = 1 + dice.below(4) as usize;
    let heads = written.memory.rows.heads.iter().filter(|(context, _)| context.starts_with(&prefix));
    let expected: Vec<(String, Head)> = heads.map(|(context, head)| (context.clone(), *head)).collect();
    let (mut got, mut after) = (Vec::new(), String::new());
    loop {
        let query = ContextsQuery { prefix: prefix.clone(), after: after.clone(), limit };
        let page = node.storage.contexts(query).await.unwrap();
        assert_eq!(page.applied, node.storage.applied());
        assert!(page.contexts.len() == limit || !page.truncated);
        got.extend(page.contexts);
        if !page.truncated {
            break;
        }
        after = got.last().unwrap().0.clone();
    }
    assert_eq!(got, expected, "of {prefix:?}");
    for (context, head) in expected {
        assert_eq!(node.storage.head(&context).unwrap(), Some(head));
    }
}

/// Pages from all places of a ledger whose beginning is in the database and whose end is in memory.
async fn live(settings: Settings, seed: u64, reopens: bool) {
    let (mut node, mut dice, mut written) =
        (RunningStorage::start(settings.clone()).await, Dice(seed), Written::default());
    for round in 0..8 {
        for _ in 0..15 {
            written.write(&node, &mut dice).await;
            check_pages(&node, &written, &mut dice).await;
        }
        for _ in 0..15 {
            check_pages(&node, &written, &mut dice).await;
            check_contexts(&node, &written, &mut dice).await;
        }
        if reopens && round % 2 == 0 {
            node.stop().await;
            node = RunningStorage::start(settings.clone()).await;
        }
    }
    assert!(written.memory.rows.log.values().flatten().any(|batch| batch.commands.len() > 1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_the_model_s_in_both_directions_from_memory_and_from_the_database() {
    for seed in 1..4 {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { commit_interval: Duration::from_secs(3600), ..small(dir.path()) };
        live(settings, seed, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_the_model_s_while_the_database_takes_over() {
    for seed in 10..13 {
        let dir = tempfile::tempdir().unwrap();
        live(small(dir.path()), seed, false).await;
    }
}

/// More runs than a page takes from memory, and more entries than it looks at for a key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_takes_a_part_of_what_memory_has_and_of_what_it_is_asked_to_look_through() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { commit_interval: Duration::from_secs(3600), commit_bytes: 64 << 20, ..small(dir.path()) };
    let (node, mut leader) = (RunningStorage::start(settings).await, Leader::new());
    let writes = |n: u64| (0..3).map(move |of| write(&format!("c{}", (n + of) % 4), "k", &n.to_le_bytes()));
    let entries: Vec<_> = (0..1500).map(|n| leader.batch(&writes(n).collect::<Vec<_>>())).collect();
    node.append(entries.clone(), Some(leader.hard_state())).await.unwrap();
    node.apply(entries).await;
    for direction in [Direction::Forwards, Direction::Backwards] {
        for key in [None, Some("k"), Some("another")] {
            let (of, key) = (StreamOf::All, key.map(str::to_owned));
            let mut query = StreamQuery { of, direction, from: Ordinal(4500), limit: 0, key, max_bytes: usize::MAX };
            if direction == Direction::Forwards {
                query.from = Ordinal(1);
            }
            let (mut positions, mut pages) = (Vec::new(), 0);
            loop {
                let page = node.storage.stream(query.clone()).await.unwrap();
                positions.extend(page.entries.iter().map(|entry| entry.position.get()));
                pages += 1;
                let Some(next) = page.next else { break };
                query.from = next;
            }
            assert!(pages > 1, "a page is bounded");
            let matches = query.key.as_deref() != Some("another");
            let expected = (1..=4500_u64).filter(|_| matches);
            match direction {
                Direction::Forwards => assert!(positions.into_iter().eq(expected)),
                Direction::Backwards => assert!(positions.into_iter().eq(expected.rev())),
            }
        }
    }
    node.stop().await;
}
