//! The model, told plainly: tries every order in which the operations can have taken place.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::*;

/// A window of real time; an unknown append's has no end.
#[derive(Clone, Copy)]
struct Window {
    start: u64,
    end: u64,
}

#[derive(Clone, Default)]
struct Ledger<'h> {
    contexts: BTreeMap<&'h str, Vec<(&'h str, Option<&'h str>)>>,
    /// Context and sequence of each entry, oldest first.
    order: Vec<(&'h str, u64)>,
}

/// Some order of the operations, consistent with real time, is one that a correct ledger can have gone through.
pub(super) fn explains(history: &[Operation]) -> bool {
    well_formed(history) && search(history, 0, &Ledger::default())
}

fn well_formed(history: &[Operation]) -> bool {
    let mut meant = BTreeMap::new();
    history.iter().all(|operation| match operation {
        Operation::Append(append) => {
            let key = append.idempotency_key.as_ref();
            let unique = match meant.insert((&append.context, &append.value), key) {
                None => true,
                Some(other) => key.is_some() && other == key,
            };
            let answered = append.outcome == Outcome::Unknown || append.end.is_some();
            unique && answered && append.end.is_none_or(|end| append.start <= end)
        }
        Operation::Read(read) => read.start <= read.end,
        Operation::Watch(watch) => watch.start <= watch.end,
        Operation::Begin(_) | Operation::State(_) | Operation::End(_) => true,
    })
}

fn window(operation: &Operation) -> Option<Window> {
    let (start, end) = match operation {
        Operation::Append(append) if append.outcome == Outcome::Unknown => (append.start.0, u64::MAX),
        Operation::Append(append) => (append.start.0, append.end?.0),
        Operation::Read(read) if read.consistency == Consistency::Linearizable => (read.start.0, read.end.0),
        // What these show was true at some time, perhaps long ago.
        Operation::Read(read) => (0, read.end.0),
        Operation::Watch(watch) => (0, watch.end.0),
        Operation::Begin(_) | Operation::State(_) | Operation::End(_) => return None,
    };
    Some(Window { start, end })
}

fn search<'h>(history: &'h [Operation], taken: u64, ledger: &Ledger<'h>) -> bool {
    let left = || history.iter().enumerate().filter(|(at, _)| taken & 1 << at == 0);
    let windows = || left().filter_map(|(at, operation)| Some((at, window(operation)?)));
    let all_answered = windows().all(|(_, window)| window.end == u64::MAX);
    if all_answered && ends_well(history, ledger) {
        return true;
    }
    windows().any(|(at, own)| {
        if windows().any(|(_, other)| other.end < own.start) {
            return false;
        }
        let mut ledger = ledger.clone();
        ledger.step(&history[at]) && search(history, taken | 1 << at, &ledger)
    })
}

impl<'h> Ledger<'h> {
    fn step(&mut self, operation: &'h Operation) -> bool {
        match operation {
            Operation::Append(append) => self.append(append),
            Operation::Read(read) => {
                let last = read.entries.last().map_or(read.after, |seen| seen.sequence);
                self.len(&read.context) == read.latest.get()
                    && self.shows(&read.context, read.after.get(), &read.entries)
                    && (read.limited || last >= read.latest)
            }
            Operation::Watch(watch) => self.shows(&watch.context, watch.after.get(), &watch.entries),
            Operation::Begin(_) | Operation::State(_) | Operation::End(_) => unreachable!("these take no time"),
        }
    }

    fn len(&self, context: &str) -> u64 {
        self.contexts.get(context).map_or(0, |entries| entries.len() as u64)
    }

    fn append(&mut self, append: &'h Append) -> bool {
        let key = append.idempotency_key.as_deref();
        let latest = self.len(&append.context);
        let entries = self.contexts.entry(&append.context).or_default();
        let known = key.and_then(|key| entries.iter().position(|entry| entry.1 == Some(key)));
        match (&append.outcome, known) {
            (Outcome::Refused(Refused { actual: None, .. }), _) => return true,
            (Outcome::Refused(Refused { actual: Some(actual), .. }), known) => {
                let refused = append.expected.is_some_and(|expected| expected != *actual);
                return refused && known.is_none() && actual.get() == latest;
            }
            (Outcome::Done(done), Some(known)) => {
                let there = done.sequence.get() == known as u64 + 1 && entries[known].0 == append.value;
                return done.deduplicated && there;
            }
            (Outcome::Done(done), None) => {
                // A client that tries again by itself was perhaps its own first.
                if done.sequence.get() != latest + 1 || (done.deduplicated && key.is_none()) {
                    return false;
                }
            }
            (Outcome::Unknown, Some(_)) => return false,
            (Outcome::Unknown, None) => {}
        }
        if append.expected.is_some_and(|expected| expected.get() != latest) {
            return false;
        }
        entries.push((&append.value, key));
        self.order.push((&append.context, latest + 1));
        true
    }

    /// These are entries in a row behind `after`.
    fn shows(&self, context: &str, after: u64, seen: &[Seen]) -> bool {
        (1..).zip(seen).all(|(n, seen)| {
            let sequence = seen.sequence.get();
            let there = self.contexts.get(context).and_then(|entries| entries.get(sequence.checked_sub(1)? as usize));
            sequence == after + n && there.is_some_and(|entry| entry.0 == seen.value)
        })
    }
}

fn ends_well(history: &[Operation], ledger: &Ledger<'_>) -> bool {
    let mut positions = BTreeMap::new();
    let mut agreed = true;
    let mut note = |context: &str, sequence: u64, position: Option<u64>| {
        if let Some(position) = position {
            agreed &= *positions.entry((context.to_owned(), sequence)).or_insert(position) == position;
        }
    };
    for operation in history {
        let (context, entries) = match operation {
            Operation::Append(Append { context, outcome: Outcome::Done(done), .. }) => {
                note(context, done.sequence.get(), done.position.map(|position| position.get()));
                continue;
            }
            Operation::Begin(_) | Operation::Append(_) | Operation::End(_) => continue,
            Operation::Read(Read { context, entries, .. })
            | Operation::Watch(Watch { context, entries, .. })
            | Operation::State(State { context, entries, .. }) => (context, entries),
        };
        entries
            .iter()
            .for_each(|seen| note(context, seen.sequence.get(), seen.position.map(|position| position.get())));
    }
    let in_order: Vec<_> = ledger.order.iter().filter_map(|(at, n)| positions.get(&((*at).to_owned(), *n))).collect();
    let rising = in_order.first().is_none_or(|first| **first > 0) && in_order.is_sorted_by(|a, b| a < b);
    let states = history.iter().all(|operation| match operation {
        Operation::State(state) => {
            state.entries.len() as u64 == ledger.len(&state.context) && ledger.shows(&state.context, 0, &state.entries)
        }
        _ => true,
    });
    agreed && rising && states && whole(history)
}

/// The states before an end are all of the ledger.
fn whole(history: &[Operation]) -> bool {
    history.iter().enumerate().all(|(at, operation)| {
        let Operation::End(end) = operation else { return true };
        let states = || {
            history[..at].iter().filter_map(|operation| match operation {
                Operation::State(state) => Some(state),
                _ => None,
            })
        };
        let nodes: BTreeSet<_> = states().map(|state| state.node).collect();
        let of = |node| states().filter(move |state| state.node == node).flat_map(|state| &state.entries);
        (!nodes.is_empty() || end.position.get() == 0)
            && nodes.iter().all(|&node| {
                of(node).count() as u64 == end.position.get()
                    && of(node).filter_map(|seen| seen.position).all(|position| position <= end.position)
            })
    })
}
