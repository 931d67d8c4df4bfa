//! Keys that are used again, where the ledger forgets them.

use super::{Api, Client, NEVER, Wish};
use crate::history::Outcome;

/// So many are kept to be used again: most of them until they are older than the window of a small ledger.
const USED_MAX: usize = 64;

impl<A: Api> Client<A> {
    pub(super) fn reuses(&self) -> bool {
        self.mix.reuse_one_in != NEVER
    }

    /// Keeps what is done under a key, in place of any other.
    pub(super) fn keep(&mut self, wish: &Wish) {
        if !self.reuses() || wish.key.is_none() {
            return;
        }
        let wish = Wish { expected: None, ..wish.clone() };
        if self.used.len() < USED_MAX {
            return self.used.push(wish);
        }
        let at = self.dice.below(USED_MAX as u64) as usize;
        self.used[at] = wish;
    }

    /// Appends under a key of before: what was appended then, or something else.
    pub(super) async fn reuse(&mut self, place: &A::Place) {
        let at = self.dice.below(self.used.len() as u64) as usize;
        let wish = self.used[at].clone();
        if self.dice.one_in(2) {
            self.try_append(place, &wish).await;
        } else if let Some(other) = self.another(place, wish).await {
            self.used[at] = other;
        }
    }

    /// Something else under the key of this; given if it is done.
    pub(super) async fn another(&mut self, place: &A::Place, wish: Wish) -> Option<Wish> {
        let (id, number) = self.next();
        let other = Wish { value: format!("{id}/{number}"), ..wish };
        let outcome = self.try_append(place, &other).await;
        matches!(outcome, Outcome::Done(_)).then_some(other)
    }
}
