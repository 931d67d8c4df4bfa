//! Many appends in one call.

use std::time::Duration;

use converge_ledger::{ManyEntry, Sequence};
use tokio::time::sleep;

use super::{Api, Client, RETRY_MS, TRIES, Wish, context, entry};
use crate::history::{Append, Behind, Done, Operation, Outcome, Refused};

/// One call has so many entries at most.
const MANY: u64 = 6;

impl<A: Api> Client<A> {
    /// To any of its contexts; under keys, or none of them under one, so that a call whose outcome is not known can be made
    /// again as it was.
    pub(super) async fn append_many(&mut self, mut place: A::Place) {
        let is_keyed = self.dice.one_in(self.mix.key_one_in);
        let mut wishes = Vec::new();
        for _ in 0..2 + self.dice.below(MANY - 1) {
            let wish = self.one_of_many(&wishes, is_keyed);
            wishes.push(wish);
        }
        for _ in 0..TRIES {
            let is_known = self.try_many(&place, &wishes).await;
            if is_known || !is_keyed || self.api.is_over() || self.dice.one_in(4) {
                return;
            }
            sleep(Duration::from_millis(self.dice.below(RETRY_MS))).await;
            match self.api.another(&mut self.dice) {
                Some(another) => place = another,
                None => return,
            }
        }
    }

    fn one_of_many(&mut self, before: &[Wish], is_keyed: bool) -> Wish {
        let (id, number) = self.next();
        let value = format!("{id}/{number}");
        let context = context(self.dice.below(self.mix.contexts));
        let expect = self.dice.one_in(self.mix.expect_one_in);
        let earlier = before.iter().filter(|wish| wish.context == context).count() as u64;
        let known = self.latest.get(&context).filter(|_| expect).copied();
        // Now and then one that cannot be right, or is only by chance.
        let expected = known.map(|latest| Sequence(latest + earlier + self.dice.below(2)));
        let key = is_keyed.then(|| format!("key {value}"));
        let padding = self.dice.below(self.mix.payload_bytes + 1) as usize;
        Wish { context, value, key, expected, padding }
    }

    /// Whether it is known what became of all of them.
    async fn try_many(&mut self, place: &A::Place, wishes: &[Wish]) -> bool {
        let entries = wishes.iter().map(|wish| ManyEntry {
            entry: entry(&wish.context, &wish.value, wish.padding),
            idempotency_key: wish.key.clone(),
            expected_sequence: wish.expected,
        });
        let (entries, deadline) = (entries.collect(), self.deadline());
        let start = self.api.now();
        let (done, missed) = self.api.append_many(place, entries, deadline).await;
        let end = self.api.now();
        if done.len() > wishes.len() || missed.is_some() != (done.len() < wishes.len()) {
            self.api.violated(format!("{done:?} and {missed:?} are no answer to {} appends", wishes.len()));
            return true;
        }
        for (wish, Done { sequence, .. }) in wishes.iter().zip(&done) {
            self.latest.insert(wish.context.clone(), sequence.get());
        }
        let mut outcomes: Vec<_> = done.into_iter().map(Outcome::Done).collect();
        outcomes.extend(missed.map(|missed| self.judged(missed)));
        // It is the same with all that come behind: not written, or not known.
        let rest = match outcomes.last() {
            Some(Outcome::Unknown) => Outcome::Unknown,
            _ => Outcome::Refused(Refused { reason: "one before it was refused".to_owned(), actual: None }),
        };
        outcomes.resize(wishes.len(), rest);
        let is_known = !outcomes.contains(&Outcome::Unknown);
        for (at, (wish, outcome)) in wishes.iter().zip(outcomes).enumerate() {
            let before = at.checked_sub(1).map(|before| &wishes[before]);
            let append = Append {
                client: self.id,
                start,
                end: Some(end),
                context: wish.context.clone(),
                value: wish.value.clone(),
                idempotency_key: wish.key.clone(),
                expected: wish.expected,
                behind: before.map(|wish| Behind { context: wish.context.clone(), value: wish.value.clone() }),
                outcome,
            };
            self.api.record(place, Operation::Append(append));
        }
        is_known
    }
}
