//! What is known about a run, and held against it as it goes on.
//!
//! Votes, terms and acknowledged entries are taken from the frames themselves, as the other nodes take them: what a
//! node said before a crash it must still know after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use converge_actors::storage::AppliedBatch;
use converge_ledger_core::NodeId;

use super::client::Copied;
use super::said::{Contents, said};
use super::trace::{Trace, digest};
use crate::history::{Append, Operation, Outcome, Refused, Time};

/// Shared by everything in a run.
#[derive(Clone)]
pub(super) struct Facts(Arc<Mutex<Inner>>, Trace);

#[derive(Default)]
struct Inner {
    violations: Vec<String>,
    /// What did not hold, and need not where a node that went on after copies were put back had to be fenced.
    disputed: Vec<String>,
    /// Nodes that applied what nobody had before copies were put back.
    went_on: BTreeSet<NodeId>,
    excused: bool,
    /// The first log entry that is another one since copies were put back, and its term.
    forked: Option<(u64, u64)>,
    /// The last log entry that a node applied since then, where that was so before: its term and index.
    kept: BTreeMap<NodeId, (u64, u64)>,
    /// Nodes that have applied anything since then.
    moved: BTreeSet<NodeId>,
    /// Nodes that were fenced for data loss since copies were put back.
    fenced: BTreeSet<NodeId>,
    /// What nodes answered since then without asking anybody.
    alone: Vec<(NodeId, Operation)>,
    /// What was applied at each index, by whoever applied it first: its term and what came of it.
    log: BTreeMap<u64, (u64, u64)>,
    leaders: BTreeMap<u64, NodeId>,
    /// The state's digest at each applied index that somebody was seen at.
    digests: BTreeMap<u64, [u8; 32]>,
    promises: BTreeMap<NodeId, Promises>,
    /// What was so before copies of directories were put back, and when that was: a node may still have it.
    before: Before,
    history: Vec<Operation>,
    copies: Vec<Copied>,
    /// Faults that did something, by kind.
    took: BTreeMap<&'static str, u64>,
}

impl Inner {
    /// Whether something acknowledged may be lost, after copies were put back.
    fn is_excused(&self) -> bool {
        self.excused || self.newer_copy_led()
    }

    /// A node with a newer copy led, after the others had gone on without it. It wins the vote of those that have older
    /// terms, and what they have acknowledged since goes. A node that still knows that it was committed is fenced; one that
    /// was started again since does not know, for what is committed is not made durable with each entry.
    fn newer_copy_led(&self) -> bool {
        let Some((fork, term)) = self.forked else { return false };
        // As voters compare logs: by the last term, then by the last index.
        let has_newer = |node| self.kept.get(node).is_some_and(|kept| *kept >= (term, fork) && kept.1 >= fork);
        self.leaders.iter().any(|(led, node)| *led > term && has_newer(node))
    }
}

/// The world before copies were put back.
#[derive(Default)]
struct Before {
    log: BTreeMap<u64, (u64, u64)>,
    digests: BTreeMap<u64, [u8; 32]>,
    until: Option<Time>,
}

/// Whether a value is the first one there, or what was there before copies were put back. The new one then takes its
/// place.
fn agrees<T: PartialEq + Copy>(now: &mut BTreeMap<u64, T>, before: &BTreeMap<u64, T>, at: u64, value: T) -> bool {
    let first = now.entry(at).or_insert(value);
    let old = before.get(&at);
    if *first != value && Some(&*first) == old {
        *first = value;
    }
    *first == value || Some(&value) == old
}

/// What is left of an operation that began before copies were put back: it may have been lost since.
fn weakened(operation: Operation) -> Option<Operation> {
    match operation {
        Operation::Append(append) => {
            let outcome = match append.outcome {
                Outcome::Done(_) | Outcome::Unknown => Outcome::Unknown,
                // It was not written; but the sequence that it met may be another entry's now.
                Outcome::Refused(refused) => Outcome::Refused(Refused { actual: None, ..refused }),
            };
            // And of its call, what came first may be lost, and the rest not.
            Some(Operation::Append(Append { outcome, behind: None, ..append }))
        }
        Operation::Begin(_) => Some(operation),
        Operation::Read(_) | Operation::Watch(_) | Operation::State(_) | Operation::End(_) => None,
    }
}

fn start(operation: &Operation) -> Option<Time> {
    match operation {
        Operation::Append(append) => Some(append.start),
        Operation::Read(read) => Some(read.start),
        Operation::Watch(watch) => Some(watch.start),
        Operation::Begin(_) | Operation::State(_) | Operation::End(_) => None,
    }
}

/// What a node has told others.
#[derive(Default)]
struct Promises {
    term: u64,
    votes: BTreeMap<u64, NodeId>,
    /// The last term in which it acknowledged entries, and up to where.
    acknowledged: (u64, u64),
    /// What this incarnation of the process has applied.
    applied: u64,
    /// What any of them has.
    applied_ever: u64,
}

/// Past this many, one more is not worth its memory.
const VIOLATIONS_MAX: usize = 50;

impl Facts {
    pub(super) fn new(trace: Trace) -> Facts {
        Facts(Arc::default(), trace)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    /// An invariant does not hold.
    pub(super) fn violated(&self, what: String) {
        self.1.note(&[9], || format!("VIOLATED: {what}"));
        let mut inner = self.lock();
        if inner.violations.len() < VIOLATIONS_MAX {
            inner.violations.push(what);
        }
    }

    fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violated(what());
        }
    }

    pub(super) fn violations(&self) -> Vec<String> {
        let inner = self.lock();
        let disputed = inner.disputed.iter().filter(|_| !inner.is_excused());
        inner.violations.iter().chain(disputed).cloned().collect()
    }

    /// The history of entries does not hold.
    pub(super) fn disputed(&self, what: String) {
        self.1.note(&[9], || format!("DISPUTED: {what}"));
        let mut inner = self.lock();
        if inner.disputed.len() < VIOLATIONS_MAX {
            inner.disputed.push(what);
        }
    }

    /// A node is fenced after copies were put back. If it has acknowledged anything since, that may be lost with it: a
    /// newer copy can win an election against those that did not know yet what is committed.
    pub(super) fn fenced_since(&self, node: NodeId) {
        let mut inner = self.lock();
        inner.excused |= inner.went_on.contains(&node);
        inner.fenced.insert(node);
    }

    /// Whether all that was acknowledged has to be there.
    pub(super) fn is_excused(&self) -> bool {
        self.lock().is_excused()
    }

    pub(super) fn record(&self, operation: Operation) {
        let mut inner = self.lock();
        let old = start(&operation).is_some_and(|start| inner.before.until.is_some_and(|until| start < until));
        let kept = if old { weakened(operation) } else { Some(operation) };
        inner.history.extend(kept);
    }

    /// A stale read or a watch, which asks no node but this one.
    pub(super) fn record_alone(&self, node: NodeId, operation: Operation) {
        let mut inner = self.lock();
        if inner.before.until.is_some() && start(&operation) >= inner.before.until {
            return inner.alone.push((node, operation));
        }
        drop(inner);
        self.record(operation);
    }

    /// A node with a newer copy shows what is lost until it meets a leader and is fenced: what it showed does not count.
    pub(super) fn history(&self) -> Vec<Operation> {
        let inner = self.lock();
        let alone = inner.alone.iter().filter(|(node, _)| !inner.fenced.contains(node));
        inner.history.iter().chain(alone.map(|(_, operation)| operation)).cloned().collect()
    }

    /// Log entries applied anywhere.
    pub(super) fn applied_max(&self) -> u64 {
        self.lock().log.keys().next_back().copied().unwrap_or(0)
    }

    /// A fault did what it is for.
    pub(super) fn took(&self, kind: &'static str) {
        *self.lock().took.entry(kind).or_default() += 1;
    }

    pub(super) fn effects(&self) -> BTreeMap<&'static str, u64> {
        self.lock().took.clone()
    }

    /// Invariant 8: within a process, what is committed stays committed.
    pub(super) fn commit_grows(&self, node: NodeId, before: u64, now: u64) {
        self.expect(now == 0 || now >= before, || {
            format!("the commit index of node {node} fell from {before} to {now}")
        });
    }

    pub(super) fn copied(&self, copied: Copied) {
        self.lock().copies.push(copied);
    }

    pub(super) fn copies(&self) -> Vec<Copied> {
        self.lock().copies.clone()
    }

    /// A frame leaves a node: invariants 8 and 9, and what 6 is held to after a crash.
    pub(super) fn sent(&self, from: NodeId, to: NodeId, payload: &Bytes) {
        let said = match said(payload) {
            Ok(said) => said,
            Err(error) => return self.violated(format!("node {from} sends what is no frame: {error}")),
        };
        match said {
            Contents::Append { term, .. } | Contents::Heartbeat { term, .. } => {
                let leader = *self.lock().leaders.entry(term.get()).or_insert(from);
                self.expect(leader == from, || format!("nodes {leader} and {from} both lead term {term}"));
                self.promised(from, term.get());
            }
            Contents::VoteRequest { term } => self.voted(from, from, term.get()),
            Contents::VoteAnswer { term, granted: true } => self.voted(from, to, term.get()),
            Contents::AppendAnswer { term, index, rejected: false } => {
                self.promised(from, term.get());
                let mut inner = self.lock();
                let promises = inner.promises.entry(from).or_default();
                promises.acknowledged = promises.acknowledged.max((term.get(), index.get()));
            }
            Contents::AppendAnswer { .. } | Contents::VoteAnswer { .. } | Contents::Other(_) => {}
        }
    }

    fn voted(&self, voter: NodeId, candidate: NodeId, term: u64) {
        self.promised(voter, term);
        let first = *self.lock().promises.entry(voter).or_default().votes.entry(term).or_insert(candidate);
        self.expect(first == candidate, || {
            format!("node {voter} voted for {first} and for {candidate} in term {term}")
        });
    }

    fn promised(&self, node: NodeId, term: u64) {
        let before = {
            let mut inner = self.lock();
            let promises = inner.promises.entry(node).or_default();
            let before = promises.term;
            promises.term = before.max(term);
            before
        };
        self.expect(term >= before, || format!("node {node} speaks in term {term}, after it had in term {before}"));
    }

    /// Copies of directories are put back on all nodes: what came after them may be lost, and is not held against
    /// anybody.
    pub(super) fn restored(&self) {
        let until = Time(self.1.stamp());
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.promises.clear();
        inner.leaders.clear();
        inner.copies.clear();
        inner.alone.clear();
        inner.fenced.clear();
        inner.forked = None;
        inner.kept.clear();
        inner.moved.clear();
        inner.before.log.append(&mut inner.log);
        inner.before.digests.append(&mut inner.digests);
        inner.before.until = Some(until);
        inner.history = std::mem::take(&mut inner.history).into_iter().filter_map(weakened).collect();
    }

    /// Whether copies were put back after this moment.
    pub(super) fn restored_since(&self, moment: Time) -> bool {
        self.lock().before.until.is_some_and(|until| moment < until)
    }

    /// A process has recovered: it knows what it had promised before.
    pub(super) fn recovered(&self, node: NodeId, term: u64, last: u64) {
        let (promised, acknowledged, applied) = {
            let mut inner = self.lock();
            let promises = inner.promises.entry(node).or_default();
            promises.applied = 0;
            (promises.term, promises.acknowledged, promises.applied_ever)
        };
        // Whatever the term: what was applied was committed, and on this disk.
        self.expect(last >= applied, || {
            format!("node {node} recovered a log that ends at {last}, after it had applied {applied}")
        });
        self.expect(term >= promised, || {
            format!("node {node} recovered in term {term}, after it had spoken in term {promised}")
        });
        let (in_term, index) = acknowledged;
        self.expect(term != in_term || last >= index, || {
            format!("node {node} recovered a log that ends at {last}, after it had acknowledged {index} in term {term}")
        });
    }

    /// A node applied a log entry.
    pub(super) fn applied(&self, node: NodeId, batch: &AppliedBatch) {
        let (index, term) = (batch.index.get(), batch.term.get());
        let came = digest(format!("{:?} {:?} {:?}", batch.origin, batch.outcomes, batch.heads).as_bytes());
        self.1.note(&[4, node.get(), index, term, came], || format!("node {node} applies {index} of term {term}"));
        let mut locked = self.lock();
        let inner = &mut *locked;
        let same = agrees(&mut inner.log, &inner.before.log, index, (term, came));
        if inner.before.until.is_some() {
            inner.moved.insert(node);
            let before = inner.before.log.get(&index);
            if before == Some(&(term, came)) {
                inner.kept.insert(node, (term, index));
            } else {
                inner.went_on.insert(node);
                // What it had behind this is not there any more.
                if inner.kept.get(&node).is_some_and(|kept| kept.1 >= index) {
                    inner.kept.remove(&node);
                }
            }
            if before.is_some_and(|before| *before != (term, came)) {
                let earliest = inner.forked.map_or((index, term), |forked| forked.min((index, term)));
                inner.forked = Some(earliest);
            }
        }
        let promises = inner.promises.entry(node).or_default();
        let before = promises.applied;
        promises.applied = before.max(index);
        promises.applied_ever = promises.applied_ever.max(index);
        drop(locked);
        if !same {
            self.disputed(format!(
                "log entry {index} was applied by node {node} with term {term} or outcomes that differ from another's"
            ));
        }
        self.expect(before == 0 || index <= before + 1, || {
            format!("node {node} applied {index} after {before}: a gap")
        });
    }

    /// A look at a node's state.
    pub(super) fn seen(&self, node: NodeId, applied: u64, digest: [u8; 32]) {
        let same = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            let stands = !inner.moved.contains(&node) || inner.kept.get(&node).is_some_and(|kept| kept.1 == applied);
            if inner.before.until.is_some() && stands {
                // It stands where the world was before copies were put back, where nobody may have looked at it then.
                *inner.before.digests.entry(applied).or_insert(digest) == digest
            } else {
                agrees(&mut inner.digests, &inner.before.digests, applied, digest)
            }
        };
        if !same {
            self.disputed(format!("node {node} at {applied} has another state than one before it"));
        }
    }
}
