//! Transactions over contexts, and fences.
//!
//! A transaction meets, in this order: its idempotency key, its conditions, all against the state before it, and then each
//! of its entries is appended. Nothing of it can be refused once the first is: a reader that sees one of them sees all.
//!
//! A fence is cooperative. Who sends an epoch with an append or a condition is refused under another one than the
//! context's; who sends none passes.

use super::append::FreshEntry;
use super::step::Step;
use crate::command::{Condition, RaiseFence, Transact};
use crate::ids::{ContextNo, Lamport, Sequence};
use crate::outcome::{Fenced, Outcome, Refusal, Transacted};
use crate::planted::{self, Bug};
use crate::state::{Head, KeyRow, View};

/// The keys of transactions are of no context.
const LEDGER: ContextNo = ContextNo(0);

impl<'a, V: View> Step<'a, V> {
    /// Its entries are in the rows after `row`.
    pub(super) fn transact(&mut self, row: u32, transact: &'a Transact) -> Result<Outcome, V::Error> {
        let content = transact.content_hash();
        let key = transact.idempotency_key.as_deref();
        let is_late = planted::is(Bug::KeyAfterCondition);
        if !is_late && let Some(outcome) = self.transacted_before(key, &content)? {
            return Ok(outcome);
        }
        if let Some(refusal) = self.failing(&transact.conditions)? {
            if planted::is(Bug::TransactHalf) {
                self.append_all(row, transact, transact.entries.len() / 2)?;
            }
            return Ok(Outcome::Refused(refusal));
        }
        if is_late && let Some(outcome) = self.transacted_before(key, &content)? {
            return Ok(outcome);
        }
        let first = self.last_position.next();
        self.append_all(row, transact, transact.entries.len())?;
        let count = transact.entries.len() as u64;
        if let Some(key) = key.filter(|_| count > 0) {
            let key_row = KeyRow { sequence: Sequence(count), position: first, lamport: Lamport(0), content };
            self.record_key(LEDGER, key, key_row);
        }
        Ok(Outcome::Transacted(Transacted { first, count, deduplicated: false }))
    }

    /// What became of the transaction that has this key.
    fn transacted_before(&self, key: Option<&str>, content: &[u8; 32]) -> Result<Option<Outcome>, V::Error> {
        let Some(key) = key else { return Ok(None) };
        let Some(known) = self.key(LEDGER, key)?.filter(|known| self.is_known(known)) else { return Ok(None) };
        let KeyRow { sequence, position: first, content: stored, .. } = known;
        Ok(Some(if stored == *content {
            Outcome::Transacted(Transacted { first, count: sequence.get(), deduplicated: true })
        } else {
            Outcome::Refused(Refusal::TransactionMismatch { first })
        }))
    }

    /// Why it is refused: the first condition that does not hold.
    fn failing(&self, conditions: &[Condition]) -> Result<Option<Refusal>, V::Error> {
        for (nth, Condition { context_id, sequence, fence_epoch }) in (0..).zip(conditions) {
            let Head { latest, fence_epoch: epoch, .. } = self.head(context_id)?.unwrap_or(Head::EMPTY);
            let is_fenced = fence_epoch.is_some_and(|due| due != epoch) && !planted::is(Bug::FenceIgnored);
            if is_fenced || sequence.is_some_and(|due| due != latest) {
                return Ok(Some(Refusal::Condition { nth, latest, epoch }));
            }
        }
        Ok(None)
    }

    fn append_all(&mut self, row: u32, transact: &'a Transact, count: usize) -> Result<(), V::Error> {
        for (row, part) in (row..).skip(1).zip(&transact.entries[..count]) {
            let head = self.head(&part.entry.context_id)?.unwrap_or(Head::EMPTY);
            let entry = FreshEntry {
                id: part.id,
                appended_at_ns: part.appended_at_ns,
                received_lamport: part.received_lamport,
                entry: &part.entry,
                content: part.entry.content_hash(),
            };
            self.append_to(head, row, &entry);
        }
        Ok(())
    }

    pub(super) fn fence(&mut self, fence: &'a RaiseFence) -> Result<Outcome, V::Error> {
        let head = self.head(&fence.context_id)?.unwrap_or(Head::EMPTY);
        let current = head.fence_epoch;
        let epoch = fence.epoch.unwrap_or(current.next());
        if epoch <= current {
            return Ok(Outcome::Refused(Refusal::StaleFence { current }));
        }
        let context = self.number(&head);
        let head = Head { number: context, fence_epoch: epoch, ..head };
        self.effects.heads.insert(fence.context_id.clone(), head);
        let (latest, position) = (head.latest, self.last_position);
        Ok(Outcome::Fenced(Fenced { context, epoch, latest, position }))
    }
}
