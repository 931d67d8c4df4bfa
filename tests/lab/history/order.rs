//! The order of entries against real time.
//!
//! Each entry has a window: not written before its append began or before a fresh read that did not see it began; not
//! after it was acknowledged or seen. The list of a context, and the positions of the ledger where they are known, say
//! which entry is older. So an entry's *deadline* is the earliest end among the windows of itself and of all that are
//! younger, and the history has an order if and only if no window starts behind its deadline:
//!
//! - If one does, an entry had to be written after a moment, and a younger one before an earlier moment.
//! - If none does, write each entry at the latest start among its own window and those of all that are older. That is
//!   within its window, for each of these starts is before the deadline of its entry, and so before this window's end;
//!   and no entry is written before an older one. A fresh read of the latest sequence *n* then finds a moment: *n* was
//!   written by its end, *n + 1* not before its start. Equal moments are put in the order of the list.
//!
//! Entries that nobody saw have to be there as well when a later one is; [`super::fill`] finds appends for them.

use super::contexts::{Bound, Context};
use super::fill;
use super::operation::Operation;
use super::verdict::{Line, Rule, Verdict};

/// The time by which an entry was written for sure, and the entry whose window says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) bound: Bound,
    context: usize,
    sequence: u64,
}

fn earlier(one: Option<Deadline>, other: Option<Deadline>) -> Option<Deadline> {
    match (one, other) {
        (Some(a), Some(b)) => Some(if b.bound.time < a.bound.time { b } else { a }),
        (one, other) => one.or(other),
    }
}

/// Holds the order of every sound context, and of the ledger, against real time.
pub(super) fn check(operations: &[Operation], contexts: &mut [Context<'_>], verdict: &mut Verdict) {
    let deadlines = deadlines(contexts);
    for (at, context) in contexts.iter_mut().enumerate() {
        if !context.sound {
            continue;
        }
        fill::unseen(operations, context, &deadlines[at], verdict);
        let mut own = None;
        for (slot, deadline) in deadlines[at].iter().enumerate() {
            let (Some(low), Some(deadline)) = (context.slots[slot].low, deadline) else { continue };
            if low.time > deadline.bound.time {
                // A witness in the context itself says more than an earlier one elsewhere.
                let own = own.get_or_insert_with(|| alone(at, context));
                let nearer = own[slot].as_ref().filter(|own| low.time > own.bound.time);
                let (rule, deadline) = nearer.map_or((Rule::LedgerOrder, deadline), |own| (Rule::Order, own));
                let lines: &[Line] = &[low.line, deadline.bound.line];
                verdict.add(rule, Some(context.name), lines, || explain(slot as u64 + 1, low, deadline, at));
            }
        }
    }
}

fn explain(sequence: u64, low: Bound, deadline: &Deadline, at: usize) -> String {
    let (start, end) = (low.time.0, deadline.bound.time.0);
    let witness = match (deadline.context == at, deadline.sequence == sequence) {
        (true, true) => "it".to_owned(),
        (true, false) => format!("sequence {}, which follows it,", deadline.sequence),
        (false, _) => format!("sequence {} of another context, at a later position,", deadline.sequence),
    };
    format!(
        "sequence {sequence} was not there when the one began at {start}, but {witness} was when the other ended at {end}"
    )
}

/// The deadlines of a context without the positions of the ledger.
fn alone(at: usize, context: &Context<'_>) -> Vec<Option<Deadline>> {
    let mut next = None;
    let mut deadlines: Vec<_> = (context.slots.iter().enumerate().rev())
        .map(|(slot, content)| {
            next = earlier(content.high.map(|bound| Deadline { bound, context: at, sequence: slot as u64 + 1 }), next);
            next
        })
        .collect();
    deadlines.reverse();
    deadlines
}

/// The deadline of each slot of each context; those of broken contexts mean nothing. Goes through the ledger from its
/// end: by position, and within a context also through the entries without one.
fn deadlines(contexts: &[Context<'_>]) -> Vec<Vec<Option<Deadline>>> {
    let mut positions: Vec<_> = Vec::new();
    for (at, context) in contexts.iter().enumerate().filter(|(_, context)| context.sound) {
        let known = context.slots.iter().enumerate();
        positions.extend(known.filter_map(|(slot, content)| Some((content.position?.0, at, slot))));
    }
    positions.sort_unstable();
    let mut deadlines: Vec<_> = contexts.iter().map(|context| vec![None; context.slots.len()]).collect();
    // Slots of a context from here on have their deadline.
    let mut reached: Vec<_> = contexts.iter().map(|context| context.slots.len()).collect();
    let mut settle = |at: usize, down_to: usize, younger: Option<Deadline>| {
        for slot in (down_to..reached[at]).rev() {
            let own =
                contexts[at].slots[slot].high.map(|bound| Deadline { bound, context: at, sequence: slot as u64 + 1 });
            let next = deadlines[at].get(slot + 1).copied().flatten();
            deadlines[at][slot] = earlier(own, next);
        }
        reached[at] = down_to;
        if let Some(slot) = deadlines[at].get_mut(down_to) {
            *slot = earlier(*slot, younger);
            return *slot;
        }
        None
    };
    let mut younger = None;
    for &(_, at, slot) in positions.iter().rev() {
        younger = settle(at, slot, younger);
    }
    for at in 0..contexts.len() {
        settle(at, 0, None);
    }
    deadlines
}
