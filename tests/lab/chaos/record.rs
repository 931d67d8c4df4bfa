//! What all clients saw, by one clock.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use converge_lab::history::{Operation, Outcome, Time};

/// Past this many, one more trouble is not worth its memory.
const TROUBLES_MAX: usize = 100;

/// See the module.
pub(super) struct Record {
    began: Instant,
    over: AtomicBool,
    acknowledged: AtomicU64,
    operations: Mutex<Vec<Operation>>,
    troubles: Mutex<BTreeSet<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}

impl Record {
    pub(super) fn new() -> Self {
        Record {
            began: Instant::now(),
            over: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            operations: Mutex::default(),
            troubles: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn add(&self, operation: Operation) {
        if let Operation::Append(append) = &operation
            && let Outcome::Done(_) = append.outcome
        {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.operations).push(operation);
    }

    /// Something that no fault excuses, and that no history shows.
    pub(super) fn trouble(&self, what: String) {
        let mut troubles = lock(&self.troubles);
        if troubles.len() < TROUBLES_MAX {
            troubles.insert(what);
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Tells the clients that it is enough.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        std::mem::take(&mut lock(&self.operations))
    }

    pub(super) fn troubles(&self) -> BTreeSet<String> {
        lock(&self.troubles).clone()
    }
}

/// The longest time in which no append was acknowledged, from the first one's start on.
pub(super) fn longest_pause(operations: &[Operation]) -> Duration {
    let (mut first, mut times) = (u64::MAX, Vec::new());
    for operation in operations {
        let Operation::Append(append) = operation else { continue };
        first = first.min(append.start.0);
        if let (Outcome::Done(_), Some(end)) = (&append.outcome, append.end) {
            times.push(end.0);
        }
    }
    times.push(first);
    times.sort_unstable();
    Duration::from_nanos(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default())
}
