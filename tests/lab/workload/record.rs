//! What the clients of a run saw, by one clock.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use converge_ledger::Sequence;
use converge_ledger::api::grpc::pb::context::Entry;
use tokio::sync::watch;

use super::mix::value_of;
use crate::history::{Append, Counts, Operation, Outcome, Seen, Time, check};

/// Past this many, one more trouble is not worth its memory.
const TROUBLES_MAX: usize = 100;

/// One clock for all records of a process: they can be put together.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// See the module.
#[derive(Default)]
pub struct Record {
    over: AtomicBool,
    failures: AtomicU64,
    /// Appends acknowledged, by client.
    acknowledged: watch::Sender<BTreeMap<u64, u64>>,
    seen: Mutex<History>,
}

#[derive(Default)]
struct History {
    operations: Vec<Operation>,
    troubles: BTreeSet<String>,
    /// Of the id and the time of the entry at a place, when it was first seen.
    first: BTreeMap<(String, Sequence), u64>,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, History> {
        self.seen.lock().expect("nothing panics while it holds this lock")
    }

    /// Nanoseconds since the first look at the clock.
    pub fn now(&self) -> Time {
        Time(u64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Puts an operation into the history.
    pub fn add(&self, operation: Operation) {
        let client = done(&operation).map(|append| append.client);
        self.lock().operations.push(operation);
        if let Some(client) = client {
            self.acknowledged.send_modify(|acknowledged| *acknowledged.entry(client).or_default() += 1);
        }
    }

    /// Something that no fault excuses, and that no history shows.
    pub fn trouble(&self, what: String) {
        let mut seen = self.lock();
        if seen.troubles.len() < TROUBLES_MAX {
            seen.troubles.insert(what);
        }
    }

    /// An entry as a read and a watch over gRPC show it, which tell no position: at its place it is the same one
    /// whenever anybody looks.
    pub fn seen(&self, context: &str, entry: &Entry) -> Seen {
        let sequence = Sequence(entry.sequence);
        let mut hasher = DefaultHasher::new();
        (&entry.id, entry.appended_at_ns).hash(&mut hasher);
        let found = hasher.finish();
        let first = *self.lock().first.entry((context.to_owned(), sequence)).or_insert(found);
        if first != found {
            self.trouble(format!("entry {sequence} of {context} has another id or time than before"));
        }
        Seen { sequence, value: value_of(&entry.key, &entry.payload, &entry.metadata), position: None }
    }

    /// By client; tells of each change.
    pub fn progress(&self) -> watch::Receiver<BTreeMap<u64, u64>> {
        self.acknowledged.subscribe()
    }

    /// Appends acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.borrow().values().sum()
    }

    /// Clients begin: it is not enough yet.
    pub(super) fn begin(&self) {
        self.over.store(false, Ordering::Relaxed);
    }

    /// Tells the clients that it is enough.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A call was not answered, which a fault may excuse.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// So many were not.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Judges it all; says what it was.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn hold(&self) -> Counts {
        assert_eq!(self.troubles(), BTreeSet::new());
        let verdict = check(&self.operations());
        assert!(verdict.holds(), "{:#?}", verdict.violations);
        verdict.counts
    }

    /// Takes the history out.
    pub fn operations(&self) -> Vec<Operation> {
        std::mem::take(&mut self.lock().operations)
    }

    /// See [`Record::trouble`].
    pub fn troubles(&self) -> BTreeSet<String> {
        self.lock().troubles.clone()
    }
}

/// The append, if it was acknowledged.
fn done(operation: &Operation) -> Option<&Append> {
    match operation {
        Operation::Append(append) if matches!(append.outcome, Outcome::Done(_)) => Some(append),
        _ => None,
    }
}

/// The longest time in which no append was acknowledged, from the first one's start on.
#[must_use]
pub fn longest_pause(operations: &[Operation]) -> Duration {
    let appends = operations.iter().filter_map(|operation| match operation {
        Operation::Append(append) => Some(append.start.0),
        _ => None,
    });
    let ends = operations.iter().filter_map(done).filter_map(|append| append.end);
    let mut times: Vec<u64> = ends.map(|end| end.0).chain(appends.min()).collect();
    times.sort_unstable();
    Duration::from_nanos(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default())
}
