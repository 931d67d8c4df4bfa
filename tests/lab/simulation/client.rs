//! Clients: they append, read and watch without pause, and remember what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::chance::Dice;
use tokio::time::Instant;

use super::facts::Facts;
use super::plan::ClientPlan;
use super::trace::{Trace, digest};
use super::world::{Life, World};
use crate::history::{self, Done, Operation, Outcome, Refused, Seen, Time};
use converge_ledger::{
    AppendOptions, Consistency, Entry, Error, Ledger, Loaded, NewEntry, ReadOptions, Sequence, Snapshot, WatchOptions,
    Written,
};

/// Contexts with more entries than this are not copied.
const COPY_ENTRIES_MAX: u64 = 60;

/// So many entries of any client fit into the smallest answer that is drawn.
const PAGE: u32 = 48;

/// A call ends so soon after its deadline.
const LATE_MAX: Duration = Duration::from_millis(100);

/// A copy of a context that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Copied {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) came: Came,
    /// What a second load of more of the original into the same context was answered with, made at the same time.
    pub(super) grown: Option<Came>,
}

/// What a load was answered with: so many entries of the original, from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Whole(u64),
    WholeOrNothing(u64),
    Nothing,
}

impl Came {
    fn of(answer: Option<Result<Loaded, Error>>, count: u64) -> Came {
        match answer {
            Some(Ok(loaded)) => Came::Whole(loaded.latest.get()),
            None => Came::WholeOrNothing(count),
            Some(Err(error)) => match error.written() {
                Written::Perhaps => Came::WholeOrNothing(count),
                Written::Nothing => Came::Nothing,
            },
        }
    }

    fn allows(self, entries: u64) -> bool {
        match self {
            Came::Whole(all) => entries == all,
            Came::WholeOrNothing(all) => entries == all || entries == 0,
            Came::Nothing => entries == 0,
        }
    }
}

impl Copied {
    /// Whether the copy may hold so many entries: those of the second load, if that was done; those of the first, if
    /// only that was.
    pub(super) fn allows(&self, entries: u64) -> bool {
        let Some(grown) = self.grown else { return self.came.allows(entries) };
        match grown {
            Came::Whole(all) => entries == all,
            Came::WholeOrNothing(all) => entries == all || self.came.allows(entries),
            Came::Nothing => self.came.allows(entries),
        }
    }
}

/// One client's task.
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) plan: ClientPlan,
    pub(super) dice: Dice,
    pub(super) world: Arc<World>,
    pub(super) facts: Facts,
    pub(super) trace: Trace,
    written: u64,
    /// What it knows of each context's latest sequence.
    latest: BTreeMap<String, u64>,
}

/// What a client wants to be written, over all tries.
struct Wish {
    context: String,
    value: String,
    key: Option<String>,
    expected: Option<Sequence>,
    padding: usize,
}

impl Client {
    pub(super) fn new(id: u64, plan: ClientPlan, dice: Dice, world: Arc<World>) -> Client {
        let (facts, trace) = (world.facts.clone(), world.trace.clone());
        Client { id, plan, dice, world, facts, trace, written: 0, latest: BTreeMap::new() }
    }

    /// Goes on until the world says that it is enough.
    pub(super) async fn run(mut self) {
        while !self.world.ending() {
            let think = Duration::from_millis(self.dice.below(self.plan.think_ms + 1));
            tokio::time::sleep(think).await;
            let Some(life) = self.world.life_for(self.plan.home, &mut self.dice) else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let context = format!("c{}", self.dice.below(self.plan.contexts));
            if self.dice.one_in(self.plan.load_one_in) {
                self.copy(&life, &context).await;
            } else if self.dice.one_in(self.plan.watch_one_in) {
                self.watch(&life, &context).await;
            } else if self.dice.one_in(self.plan.read_one_in) {
                self.read(&life, &context).await;
            } else {
                self.append(life, context).await;
            }
        }
    }

    fn deadline(&mut self) -> Duration {
        let (least, most) = self.plan.deadline_ms;
        Duration::from_millis(least + self.dice.below(most - least + 1))
    }

    async fn append(&mut self, mut life: Arc<Life>, context: String) {
        self.written += 1;
        let value = format!("{}/{}", self.id, self.written);
        let expect = self.dice.one_in(self.plan.expect_one_in);
        let known = self.latest.get(&context).copied();
        let expected = known.filter(|_| expect).map(|latest| Sequence(latest + self.dice.below(2)));
        let key = self.dice.one_in(self.plan.key_one_in).then(|| format!("key {value}"));
        let padding = self.dice.below(self.plan.payload_bytes + 1) as usize;
        let wish = Wish { context, value, key, expected, padding };
        // What ended as unknown is tried again under its key, on any node, or left as it is.
        for _ in 0..4 {
            let begun = Time(self.trace.stamp());
            let outcome = self.try_append(&life, &wish).await;
            if let Outcome::Done(_) = outcome
                && self.dice.one_in(6)
            {
                return self.again(&life, wish, begun).await;
            }
            if outcome != Outcome::Unknown || wish.key.is_none() || self.world.ending() || self.dice.one_in(4) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(self.dice.below(50))).await;
            match self.world.some_life(&mut self.dice) {
                Some(another) => life = another,
                None => return,
            }
        }
    }

    /// What is done already: under its key it is found again, and its key holds nothing else.
    async fn again(&mut self, life: &Life, mut wish: Wish, done: Time) {
        let Some(key) = wish.key.clone() else { return };
        wish.expected = None;
        if self.dice.one_in(2) {
            self.try_append(life, &wish).await;
            return;
        }
        let entry = NewEntry {
            context_id: wish.context.clone(),
            key: "another".into(),
            payload: Bytes::new(),
            metadata: BTreeMap::new(),
        };
        let options =
            AppendOptions { idempotency_key: Some(key), deadline: Some(self.deadline()), ..AppendOptions::default() };
        let answer = tokio::select! {
            biased;
            () = life.over() => return,
            answer = life.ledger().append(entry, options) => answer,
        };
        if answer.is_ok() && !self.facts.restored_since(done) {
            self.facts.violated(format!("the key of {} was taken for another entry", wish.value));
        }
    }

    async fn try_append(&mut self, life: &Life, wish: &Wish) -> Outcome {
        let payload = format!("{}|{}|{}", wish.value, wish.padding, "x".repeat(wish.padding));
        let entry = NewEntry {
            context_id: wish.context.clone(),
            key: key_of(&wish.value),
            payload: Bytes::from(payload),
            metadata: metadata_of(&wish.value),
        };
        let deadline = self.deadline();
        let options = AppendOptions {
            idempotency_key: wish.key.clone(),
            expected_sequence: wish.expected,
            deadline: Some(deadline),
        };
        let start = Time(self.trace.stamp());
        let outcome = tokio::select! {
            biased;
            () = life.over() => Outcome::Unknown,
            answer = life.ledger().append(entry, options) => self.outcome(life, wish, answer),
        };
        let end = Time(self.trace.stamp());
        self.in_time(life, "append", deadline, start, end);
        self.trace.note(&[5, self.id, digest(format!("{outcome:?}").as_bytes())], || {
            format!("client {} appends {} to {} on node {}: {outcome:?}", self.id, wish.value, wish.context, life.id)
        });
        self.facts.record(Operation::Append(history::Append {
            client: self.id,
            start,
            end: Some(end),
            context: wish.context.clone(),
            value: wish.value.clone(),
            idempotency_key: wish.key.clone(),
            expected: wish.expected,
            outcome: outcome.clone(),
        }));
        outcome
    }

    fn outcome(&mut self, life: &Life, wish: &Wish, answer: Result<converge_ledger::Appended, Error>) -> Outcome {
        match answer {
            Ok(done) => {
                self.latest.insert(wish.context.clone(), done.entry.sequence.get());
                if value_of(&done.entry) != wish.value {
                    self.facts.violated(format!("{} was answered with {}", wish.value, value_of(&done.entry)));
                }
                Outcome::Done(Done {
                    sequence: done.entry.sequence,
                    position: Some(done.entry.position),
                    deduplicated: done.deduplicated,
                })
            }
            Err(error) if error.written() == Written::Perhaps => Outcome::Unknown,
            Err(error) => {
                self.judge(life, &error);
                let actual = match &error {
                    Error::ExpectedSequence { actual } => Some(*actual),
                    _ => None,
                };
                if let Some(actual) = actual {
                    self.latest.insert(wish.context.clone(), actual.get());
                }
                Outcome::Refused(Refused { reason: error.to_string(), actual })
            }
        }
    }

    async fn read(&mut self, life: &Life, context: &str) {
        let consistency = if self.dice.one_in(4) { Consistency::Stale } else { Consistency::Linearizable };
        let after = match self.latest.get(context) {
            Some(latest) if !self.dice.one_in(4) => Sequence(self.dice.below(latest + 1)),
            _ => Sequence(0),
        };
        let limit = if self.dice.one_in(3) { self.dice.below(10) as u32 } else { 0 };
        let deadline = self.deadline();
        let options = ReadOptions { after, limit, key: None, consistency, deadline: Some(deadline) };
        let start = Time(self.trace.stamp());
        let answer = tokio::select! {
            biased;
            () = life.over() => return,
            answer = life.ledger().read(context, options) => answer,
        };
        let end = Time(self.trace.stamp());
        self.in_time(life, "read", deadline, start, end);
        let count = answer.as_ref().map_or(0, |page| page.entries.len());
        self.trace.note(&[6, self.id, count as u64], || {
            let came = answer.as_ref().map(|page| page.latest.get());
            format!("client {} reads {context} behind {after} on node {}: {count}, {came:?}", self.id, life.id)
        });
        let page = match answer {
            Ok(page) => page,
            Err(error) => return self.judge(life, &error),
        };
        self.latest.insert(context.to_owned(), page.latest.get());
        let read = Operation::Read(history::Read {
            client: self.id,
            start,
            end,
            context: context.to_owned(),
            consistency: match consistency {
                Consistency::Stale => history::Consistency::Stale,
                _ => history::Consistency::Linearizable,
            },
            after,
            latest: page.latest,
            entries: page.entries.iter().map(seen).collect(),
            limited: limit != 0,
        });
        match consistency {
            Consistency::Stale => self.facts.record_alone(life.id, read),
            _ => self.facts.record(read),
        }
    }

    /// Copies a context into a new one, all or nothing: once, or as it was and as it is at the same time, so that the
    /// copy grows under one of the two loads.
    async fn copy(&mut self, life: &Life, context: &str) {
        if self.latest.get(context).is_none_or(|latest| *latest > COPY_ENTRIES_MAX) {
            return;
        }
        let Some(first) = self.snapshot(life, context).await else { return };
        self.written += 1;
        let to = format!("copy-{}-{}", self.id, self.written);
        let deadline = Some(self.deadline());
        if !self.dice.one_in(2) {
            let came = self.load(life, &to, first, true, deadline).await;
            return self.copied(life, Copied { from: context.to_owned(), to, came, grown: None });
        }
        let later = Duration::from_millis(self.dice.below(500));
        tokio::select! {
            biased;
            () = life.over() => return,
            () = tokio::time::sleep(later) => {}
        }
        let Some(second) = self.snapshot(life, context).await else { return };
        let another = self.world.some_life(&mut self.dice);
        let other = another.as_deref().unwrap_or(life);
        let (came, grown) =
            tokio::join!(self.load(life, &to, first, false, deadline), self.load(other, &to, second, false, deadline));
        self.copied(life, Copied { from: context.to_owned(), to, came, grown: Some(grown) });
    }

    async fn snapshot(&mut self, life: &Life, context: &str) -> Option<Snapshot> {
        let deadline = Some(self.deadline());
        let snapshot = tokio::select! {
            biased;
            () = life.over() => return None,
            snapshot = life.ledger().snapshot(context, deadline) => snapshot,
        };
        snapshot.inspect_err(|error| self.judge(life, error)).ok()
    }

    async fn load(&self, life: &Life, to: &str, from: Snapshot, alone: bool, deadline: Option<Duration>) -> Came {
        let answer = tokio::select! {
            biased;
            () = life.over() => None,
            answer = life.ledger().load(to, from.bytes, alone, deadline) => Some(answer),
        };
        if let Some(Err(error)) = &answer {
            self.judge(life, error);
        }
        Came::of(answer, from.entry_count)
    }

    fn copied(&self, life: &Life, copied: Copied) {
        self.trace.note(&[8, self.id, digest(format!("{copied:?}").as_bytes())], || {
            format!("client {} on node {}: {copied:?}", self.id, life.id)
        });
        self.facts.copied(copied);
    }

    /// Liveness: whatever goes wrong, a call ends with its deadline.
    fn in_time(&self, life: &Life, what: &str, deadline: Duration, start: Time, end: Time) {
        let took = Duration::from_nanos(end.0.saturating_sub(start.0));
        if took > deadline + LATE_MAX {
            self.facts.violated(format!(
                "node {}: {what} of client {} ended after {took:?}, its deadline was {deadline:?}",
                life.id, self.id
            ));
        }
    }

    /// Data loss is only for a node whose disk rotted.
    fn judge(&self, life: &Life, error: &Error) {
        if let Error::DataLoss(what) = error
            && !self.world.is_rotten(life.id)
        {
            self.facts.violated(format!("node {} reports data loss without cause: {what}", life.id));
        }
    }

    async fn watch(&mut self, life: &Life, context: &str) {
        let after = Sequence(self.latest.get(context).map_or(0, |latest| self.dice.below(latest + 1)));
        let start = Time(self.trace.stamp());
        let mut entries = Vec::new();
        let mut watch = life.ledger().watch(context, WatchOptions { from: after, key: None });
        let until = Instant::now() + Duration::from_millis(self.dice.below(3000));
        loop {
            let next = tokio::select! {
                biased;
                () = life.over() => break,
                () = tokio::time::sleep_until(until) => break,
                next = watch.next() => next,
            };
            match next {
                Some(Ok(entry)) => entries.push(seen(&entry)),
                Some(Err(error)) => {
                    self.judge(life, &error);
                    break;
                }
                None => break,
            }
        }
        self.trace.note(&[7, self.id, entries.len() as u64], || {
            format!("client {} watched {context} behind {after} on node {}: {}", self.id, life.id, entries.len())
        });
        let end = Time(self.trace.stamp());
        let (client, context) = (self.id, context.to_owned());
        let watch = Operation::Watch(history::Watch { client, start, end, context, after, entries });
        self.facts.record_alone(life.id, watch);
    }
}

/// All of a context on a node, once nothing goes wrong any more.
pub(super) async fn whole(ledger: &Ledger, context: &str) -> Result<Vec<Seen>, Error> {
    let deadline = Some(Duration::from_secs(10));
    let mut all = Vec::new();
    let mut after = Sequence(0);
    loop {
        let consistency = Consistency::Stale;
        let options = ReadOptions { after, limit: PAGE, consistency, deadline, ..ReadOptions::default() };
        let page = ledger.read(context, options).await?;
        let Some(last) = page.entries.last() else { return Ok(all) };
        after = last.sequence;
        all.extend(page.entries.iter().map(seen));
        if after >= page.latest {
            return Ok(all);
        }
    }
}

/// So many entries of a context from the first on, as a new subscription brings them.
pub(super) async fn followed(ledger: &Ledger, context: &str, count: usize) -> Vec<Seen> {
    let mut watch = ledger.watch(context, WatchOptions::default());
    let mut entries = Vec::new();
    while entries.len() < count {
        match tokio::time::timeout(Duration::from_secs(10), watch.next()).await {
            Ok(Some(Ok(entry))) => entries.push(seen(&entry)),
            _ => break,
        }
    }
    entries
}

fn seen(entry: &Entry) -> Seen {
    Seen { sequence: entry.sequence, value: value_of(entry), position: Some(entry.position) }
}

fn value_of(entry: &Entry) -> String {
    let text = String::from_utf8_lossy(&entry.payload);
    let mut parts = text.splitn(3, '|');
    let value = parts.next().unwrap_or_default().to_owned();
    let (length, padding) = (parts.next(), parts.next().unwrap_or_default());
    let whole = length.is_none_or(|length| *length == padding.len().to_string()) && padding.bytes().all(|x| x == b'x');
    // The entry of a probe says nothing.
    if value.is_empty() || whole && entry.key == key_of(&value) && entry.metadata == metadata_of(&value) {
        return value;
    }
    format!("{value}, spoiled: {text} {} {:?}", entry.key, entry.metadata)
}

/// What else an entry holds follows from its value, so that it can be seen whether it came through.
fn key_of(value: &str) -> String {
    format!("k{}", value.len() % 3)
}

fn metadata_of(value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("of".to_owned(), value.to_owned())])
}
