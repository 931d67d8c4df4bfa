//! Appending one entry.

use super::step::Step;
use crate::command::Append;
use crate::entry::{NewEntry, chain_link};
use crate::ids::{ContextNo, EntryId, Lamport};
use crate::outcome::{Appended, Outcome, Refusal};
use crate::planted::{self, Bug};
use crate::state::{Head, IndexRow, Indexed, KeyRow, View, in_window};

/// What is appended, on its own or in a transaction.
pub(super) struct FreshEntry<'a> {
    pub(super) id: EntryId,
    pub(super) appended_at_ns: u64,
    pub(super) received_lamport: Option<Lamport>,
    pub(super) entry: &'a NewEntry,
    /// Its content hash.
    pub(super) content: [u8; 32],
}

impl<'a, V: View> Step<'a, V> {
    /// The idempotency key is looked at before the fence and the expected sequence: a retry of an append that
    /// went through must hear so, though the context moved on by it.
    pub(super) fn append(&mut self, row: u32, append: &'a Append) -> Result<Outcome, V::Error> {
        let head = self.head(&append.entry.context_id)?.unwrap_or(Head::EMPTY);
        let content = append.entry.content_hash();
        if let Some(key) = append.idempotency_key.as_deref()
            && head.number != Head::EMPTY.number
            && let Some(first) = self.key(head.number, key)?
            && self.is_known(&first)
        {
            return Ok(repeated(&head, &first, &content));
        }
        let current = head.fence_epoch;
        if append.fence_epoch.is_some_and(|epoch| epoch != current) && !planted::is(Bug::FenceIgnored) {
            return Ok(Outcome::Refused(Refusal::StaleFence { current }));
        }
        let ignored = planted::is(Bug::ExpectedIgnored);
        if append.expected_sequence.is_some_and(|expected| expected != head.latest && !ignored) {
            let actual = head.latest;
            return Ok(Outcome::Refused(Refusal::ExpectedSequence { actual }));
        }
        let Append { id, appended_at_ns, received_lamport, ref entry, .. } = *append;
        let place = self.append_to(head, row, &FreshEntry { id, appended_at_ns, received_lamport, entry, content });
        if let Some(key) = append.idempotency_key.as_deref()
            && !planted::is(Bug::KeyUnrecorded)
        {
            let Appended { context, sequence, position, lamport, .. } = place;
            self.record_key(context, key, KeyRow { sequence, position, lamport, content });
        }
        Ok(Outcome::Appended(place))
    }

    /// Whether a key counts is decided by positions alone: rows that have left the window go on each node at another time.
    pub(super) fn is_known(&self, first: &KeyRow) -> bool {
        let window = self.key_window >> u32::from(planted::is(Bug::KeyForgottenEarly));
        in_window(first.position, self.last_position, window) || planted::is(Bug::KeyWindowLocal)
    }

    pub(super) fn append_to(&mut self, head: Head, row: u32, fresh: &FreshEntry<'_>) -> Appended {
        let FreshEntry { id, appended_at_ns, received_lamport, entry, content } = *fresh;
        let context = self.number(&head);
        let position = self.next_position();
        let sequence = head.latest.next();
        let received = received_lamport.unwrap_or(Lamport(0));
        // A foreign time at the very end makes ours stand still; refusing would be worse.
        let lamport = head.lamport.max(received).next();
        let chain = chain_link(&head.chain, sequence, id, appended_at_ns, lamport, &content);
        let head = Head { number: context, latest: sequence, lamport, chain, ..head };
        self.effects.heads.insert(entry.context_id.clone(), head);
        let index = self.index;
        let at = IndexRow { context, sequence, position, lamport, index, row };
        self.effects.entries.push(Indexed::Entry(at));
        Appended { context, sequence, position, lamport, deduplicated: false }
    }

    pub(super) fn record_key(&mut self, context: ContextNo, key: &'a str, row: KeyRow) {
        self.keys.insert((context, key), row);
        self.effects.keys.push((context, key.to_owned(), row));
    }

    pub(super) fn key(&self, context: ContextNo, key: &str) -> Result<Option<KeyRow>, V::Error> {
        match self.keys.get(&(context, key)) {
            Some(row) => Ok(Some(*row)),
            None if planted::is(Bug::KeyOfBatchOnly) => Ok(None),
            None => self.view.key(context, key),
        }
    }
}

/// The outcome of an append whose idempotency key is known.
fn repeated(head: &Head, first: &KeyRow, content: &[u8; 32]) -> Outcome {
    let KeyRow { sequence, position, lamport, content: stored } = *first;
    if stored == *content {
        let context = head.number;
        Outcome::Appended(Appended { context, sequence, position, lamport, deduplicated: true })
    } else {
        Outcome::Refused(Refusal::IdempotencyMismatch { sequence })
    }
}
