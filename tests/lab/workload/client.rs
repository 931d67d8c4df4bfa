//! One client: it appends, reads and watches without pause, and remembers what it was told.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use converge_ledger::{AppendOptions, Consistency, NewEntry, ReadOptions, Sequence};
use converge_ledger_core::chance::Dice;
use tokio::time::{Instant, sleep};

use super::mix::{NEVER, context, entry};
use super::{Acknowledged, Api, Missed, Mix};
use crate::history::{self, Done, Operation, Outcome, Refused, Time};

mod many;
mod reuse;

/// How often one wish is tried.
const TRIES: u32 = 4;
const RETRY_MS: u64 = 50;
/// While no node runs.
const NOBODY: Duration = Duration::from_millis(20);
const WATCH_MS: u64 = 3_000;

/// See the module.
pub struct Client<A> {
    pub(crate) id: u64,
    pub(crate) dice: Dice,
    pub(crate) api: A,
    mix: Mix,
    written: u64,
    /// Some of what was done under a key, which is used again.
    used: Vec<Wish>,
    /// What it knows of each context's latest sequence.
    pub(crate) latest: BTreeMap<String, u64>,
}

/// What a client wants to be written, over all tries.
#[derive(Clone)]
struct Wish {
    context: String,
    value: String,
    key: Option<String>,
    expected: Option<Sequence>,
    padding: usize,
}

impl<A: Api> Client<A> {
    /// One whose chance comes from these dice.
    pub fn new(id: u64, mix: Mix, dice: Dice, api: A) -> Client<A> {
        Client { id, dice, api, mix, written: 0, used: Vec::new(), latest: BTreeMap::new() }
    }

    /// Goes on until it is enough.
    pub async fn run(mut self) {
        while !self.api.is_over() {
            sleep(Duration::from_millis(self.dice.below(self.mix.think_ms + 1))).await;
            let Some(place) = self.api.place(self.mix.home, &mut self.dice) else {
                sleep(NOBODY).await;
                continue;
            };
            let context = context(self.dice.below(self.mix.contexts));
            if self.dice.one_in(self.mix.load_one_in) {
                A::copy(&mut self, &place, &context).await;
            } else if self.dice.one_in(self.mix.watch_one_in) {
                self.watch(&place, context).await;
            } else if self.dice.one_in(self.mix.read_one_in) {
                self.read(&place, context).await;
            } else if self.reuses() && !self.used.is_empty() && self.dice.one_in(self.mix.reuse_one_in) {
                self.reuse(&place).await;
            } else if self.mix.many_one_in != NEVER && self.dice.one_in(self.mix.many_one_in) {
                self.append_many(place).await;
            } else {
                self.append(place, context).await;
            }
        }
    }

    pub(crate) fn deadline(&mut self) -> Duration {
        let (least, most) = self.mix.deadline_ms;
        Duration::from_millis(least + self.dice.below(most - least + 1))
    }

    /// Its own number, and that of what it writes next.
    pub(crate) fn next(&mut self) -> (u64, u64) {
        self.written += 1;
        (self.id, self.written)
    }

    async fn append(&mut self, mut place: A::Place, context: String) {
        let (id, number) = self.next();
        let value = format!("{id}/{number}");
        let expect = self.dice.one_in(self.mix.expect_one_in);
        let known = self.latest.get(&context).copied();
        // Now and then one that cannot be right, or is only by chance.
        let expected = known.filter(|_| expect).map(|latest| Sequence(latest + self.dice.below(2)));
        let key = self.dice.one_in(self.mix.key_one_in).then(|| format!("key {value}"));
        let padding = self.dice.below(self.mix.payload_bytes + 1) as usize;
        let wish = Wish { context, value, key, expected, padding };
        for _ in 0..TRIES {
            let begun = self.api.now();
            let outcome = self.try_append(&place, &wish).await;
            if let Outcome::Done(_) = outcome {
                self.keep(&wish);
            }
            if let Outcome::Done(_) = outcome
                && self.dice.one_in(6)
            {
                return self.again(&place, wish, begun).await;
            }
            if outcome != Outcome::Unknown || wish.key.is_none() || self.api.is_over() || self.dice.one_in(4) {
                return;
            }
            sleep(Duration::from_millis(self.dice.below(RETRY_MS))).await;
            match self.api.another(&mut self.dice) {
                Some(another) => place = another,
                None => return,
            }
        }
    }

    /// What is done already: under its key it is found again, and its key holds nothing else.
    async fn again(&mut self, place: &A::Place, mut wish: Wish, done: Time) {
        if wish.key.is_none() {
            return;
        }
        wish.expected = None;
        if self.dice.one_in(2) {
            self.try_append(place, &wish).await;
            return;
        }
        if self.reuses() {
            // Its key may have left the window meanwhile.
            return drop(self.another(place, wish).await);
        }
        let options =
            AppendOptions { idempotency_key: wish.key, deadline: Some(self.deadline()), ..AppendOptions::default() };
        let another = NewEntry {
            context_id: wish.context,
            key: "another".into(),
            payload: Bytes::new(),
            metadata: BTreeMap::new(),
        };
        let answer = self.api.append(place, another, options).await;
        if answer.is_ok() && !self.api.is_lost_since(done) {
            self.api.violated(format!("the key of {} was taken for another entry", wish.value));
        }
    }

    async fn try_append(&mut self, place: &A::Place, wish: &Wish) -> Outcome {
        let options = AppendOptions {
            idempotency_key: wish.key.clone(),
            expected_sequence: wish.expected,
            deadline: Some(self.deadline()),
            ..AppendOptions::default()
        };
        let start = self.api.now();
        let answer = self.api.append(place, entry(&wish.context, &wish.value, wish.padding), options).await;
        let outcome = self.outcome(wish, answer);
        let append = history::Append {
            client: self.id,
            start,
            end: Some(self.api.now()),
            context: wish.context.clone(),
            value: wish.value.clone(),
            idempotency_key: wish.key.clone(),
            expected: wish.expected,
            behind: None,
            outcome: outcome.clone(),
        };
        self.api.record(place, Operation::Append(append));
        outcome
    }

    fn outcome(&mut self, wish: &Wish, answer: Result<Acknowledged, Missed>) -> Outcome {
        let outcome = match answer {
            Ok(Acknowledged { seen, deduplicated }) => {
                if seen.value != wish.value || seen.position.is_none() {
                    self.api.violated(format!("{} was answered with {seen:?}", wish.value));
                }
                Outcome::Done(Done { sequence: seen.sequence, position: seen.position, deduplicated })
            }
            Err(missed) => self.judged(missed),
        };
        if let Outcome::Done(Done { sequence: latest, .. }) | Outcome::Refused(Refused { actual: Some(latest), .. }) =
            &outcome
        {
            self.latest.insert(wish.context.clone(), latest.get());
        }
        outcome
    }

    /// An answer that no fault excuses is a finding, whatever the history says.
    fn judged(&self, missed: Missed) -> Outcome {
        missed.finding.into_iter().for_each(|finding| self.api.violated(finding));
        missed.outcome
    }

    /// Somewhere in what it knows of a context, or near the end of that.
    fn behind(&mut self, latest: u64) -> Sequence {
        Sequence(match self.mix.page {
            0 => self.dice.below(latest + 1),
            page => latest.saturating_sub(self.dice.below(page)),
        })
    }

    async fn read(&mut self, place: &A::Place, context: String) {
        let consistency = if self.dice.one_in(4) { Consistency::Stale } else { Consistency::Linearizable };
        let after = match self.latest.get(&context).copied() {
            Some(latest) if !self.dice.one_in(4) => self.behind(latest),
            _ => Sequence(0),
        };
        let few = if self.dice.one_in(3) { self.dice.below(10) } else { 0 };
        let limit = if few == 0 { self.mix.page } else { few } as u32;
        let deadline = Some(self.deadline());
        let options = ReadOptions { after, limit, consistency, deadline, ..ReadOptions::default() };
        let start = self.api.now();
        let answer = self.api.read(place, &context, options).await;
        let end = self.api.now();
        let (latest, entries) = match answer {
            Ok(page) => page,
            Err(missed) => return drop(self.judged(missed)),
        };
        self.latest.insert(context.clone(), latest.get());
        let read = history::Read {
            client: self.id,
            start,
            end,
            context,
            consistency: match consistency {
                Consistency::Stale => history::Consistency::Stale,
                _ => history::Consistency::Linearizable,
            },
            after,
            latest,
            // A full page alone may have left something out.
            limited: limit != 0 && entries.len() as u64 >= u64::from(limit),
            entries,
        };
        self.api.record(place, Operation::Read(read));
    }

    async fn watch(&mut self, place: &A::Place, context: String) {
        let after = match self.latest.get(&context).copied() {
            Some(latest) => self.behind(latest),
            None => Sequence(0),
        };
        let start = self.api.now();
        let until = Instant::now() + Duration::from_millis(self.dice.below(WATCH_MS));
        let mut entries = Vec::new();
        if let Err(missed) = self.api.watch(place, &context, after, until, &mut entries).await {
            self.judged(missed);
        }
        let watch = history::Watch { client: self.id, start, end: self.api.now(), context, after, entries };
        self.api.record(place, Operation::Watch(watch));
    }
}
