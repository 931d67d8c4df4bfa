//! What was measured: latencies by kind of call, and what failed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The longest latency that is told from a longer one.
const LATENCY_MAX: Duration = Duration::from_secs(600);
/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// Clients share this many recorders.
const SHARDS: usize = 8;
/// So many sorts of failures are told apart.
const FAILURES_MAX: usize = 16;
const OTHER_FAILURES: &str = "others";
/// Between a kind and why.
const SEPARATOR: &str = ": ";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timed {
    Append,
    Read,
    /// From when an append was due to its arrival at a watcher.
    Watch,
}

impl Timed {
    pub(super) const ALL: [Timed; 3] = [Timed::Append, Timed::Read, Timed::Watch];

    pub(super) fn name(self) -> &'static str {
        match self {
            Timed::Append => "append",
            Timed::Read => "read",
            Timed::Watch => "watch",
        }
    }
}

/// What one step came to.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    latencies: [Histogram<u64>; Timed::ALL.len()],
    /// Calls that succeeded in the time that was measured, whenever they began.
    done: [u64; Timed::ALL.len()],
    /// Calls that failed in it, by kind and why.
    pub(super) failed: BTreeMap<String, u64>,
    /// Calls that were due in the step and had not begun at its end.
    pub(super) behind: u64,
    /// Clients that got no answer in the step.
    pub(super) idle: u64,
}

impl Measured {
    pub(super) fn new() -> Measured {
        let empty = || {
            let max = u64::try_from(LATENCY_MAX.as_micros()).expect("minutes fit");
            Histogram::new_with_max(max, DIGITS).expect("the bounds are constants that fit")
        };
        Measured {
            latencies: Timed::ALL.map(|_| empty()),
            done: Default::default(),
            failed: BTreeMap::new(),
            behind: 0,
            idle: 0,
        }
    }

    /// In microseconds.
    pub(super) fn latencies(&self, kind: Timed) -> &Histogram<u64> {
        &self.latencies[kind as usize]
    }

    pub(super) fn done(&self, kind: Timed) -> u64 {
        self.done[kind as usize]
    }

    pub(super) fn failed(&self, kind: Timed) -> u64 {
        let of_kind = |why: &str| why.split_once(SEPARATOR).is_some_and(|(name, _)| name == kind.name());
        self.failed.iter().filter(|(why, _)| of_kind(why)).map(|(_, times)| times).sum()
    }

    fn add(&mut self, other: &Measured) {
        for (all, some) in self.latencies.iter_mut().zip(&other.latencies) {
            all.add(some).expect("they have the same bounds");
        }
        for (why, times) in &other.failed {
            *self.failed.entry(why.clone()).or_default() += times;
        }
        for (all, some) in self.done.iter_mut().zip(other.done) {
            *all += some;
        }
    }
}

/// Records what is in the window that is measured; clients and watches share it. A latency is that of a call that was due
/// in the window. Throughput, and failures, are what ended in it.
pub(super) struct Recorder {
    epoch: Instant,
    shards: [Mutex<Measured>; SHARDS],
    next: AtomicUsize,
    /// The window, in nanoseconds since `epoch`.
    begin: AtomicU64,
    end: AtomicU64,
}

impl Recorder {
    pub(super) fn new() -> Recorder {
        Recorder {
            epoch: Instant::now(),
            shards: [(); SHARDS].map(|()| Mutex::new(Measured::new())),
            next: AtomicUsize::new(0),
            begin: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(u64::MAX),
        }
    }

    /// On this recorder's clock.
    pub(super) fn stamp(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Measures what begins in this window from now on, and nothing of before.
    pub(super) fn open(&self, begin: Instant, end: Instant) {
        self.take();
        self.begin.store(self.stamp(begin), Ordering::Relaxed);
        self.end.store(self.stamp(end), Ordering::Relaxed);
    }

    /// What was measured; nothing is any more.
    pub(super) fn close(&self) -> Measured {
        self.begin.store(u64::MAX, Ordering::Relaxed);
        self.take()
    }

    fn take(&self) -> Measured {
        let mut all = Measured::new();
        for shard in &self.shards {
            all.add(&std::mem::replace(&mut *lock(shard), Measured::new()));
        }
        all
    }

    fn measures(&self, at: u64) -> bool {
        (self.begin.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed)).contains(&at)
    }

    fn shard(&self) -> MutexGuard<'_, Measured> {
        lock(&self.shards[self.next.fetch_add(1, Ordering::Relaxed) % SHARDS])
    }

    /// A call that was due at `due` succeeded now.
    pub(super) fn done(&self, kind: Timed, due: u64) {
        self.done_at(kind, due, self.stamp(Instant::now()));
    }

    fn done_at(&self, kind: Timed, due: u64, now: u64) {
        let (is_timed, counts) = (self.measures(due), self.measures(now));
        if is_timed || counts {
            let mut shard = self.shard();
            shard.done[kind as usize] += u64::from(counts);
            if is_timed {
                let micros = now.saturating_sub(due) / 1000;
                shard.latencies[kind as usize].saturating_record(micros.max(1));
            }
        }
    }

    /// A call failed now.
    pub(super) fn failed(&self, kind: Timed, why: &str) {
        // What was due in the window and fails behind it is of the window, too.
        if self.stamp(Instant::now()) >= self.begin.load(Ordering::Relaxed) {
            let why = format!("{}{SEPARATOR}{why}", kind.name());
            let failed = &mut self.shard().failed;
            let known = failed.contains_key(&why) || failed.len() < FAILURES_MAX;
            let other = || format!("{}{SEPARATOR}{OTHER_FAILURES}", kind.name());
            *failed.entry(if known { why } else { other() }).or_default() += 1;
        }
    }

    /// How many appends were measured until now.
    pub(super) fn count(&self) -> u64 {
        self.shards.iter().map(|shard| lock(shard).done(Timed::Append)).sum()
    }
}

fn lock(shard: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_in_the_window_has_a_latency_and_what_ends_in_it_counts() {
        let recorder = Recorder::new();
        let (begin, second) = (recorder.epoch + Duration::from_secs(1), 1_000_000_000);
        recorder.done_at(Timed::Append, second, second);
        recorder.open(begin, begin + Duration::from_secs(1));
        for (due, now) in
            [(0, second - 1), (0, second), (second, 2 * second - 1), (second, 5 * second), (2 * second, 3 * second)]
        {
            recorder.done_at(Timed::Append, due, now);
        }
        recorder.done_at(Timed::Read, second, second + 1);
        assert_eq!(recorder.count(), 2);
        let measured = recorder.close();
        assert_eq!(Timed::ALL.map(|kind| measured.latencies(kind).len()), [2, 1, 0]);
        assert_eq!(Timed::ALL.map(|kind| measured.done(kind)), [2, 1, 0]);
        assert!(measured.latencies(Timed::Append).max() >= 3_990_000, "its end is behind the window");
        recorder.done_at(Timed::Append, second, second);
        assert_eq!(recorder.count(), 0);
    }

    #[test]
    fn failures_of_ever_other_texts_are_bounded_and_counted_by_kind() {
        let recorder = Recorder::new();
        recorder.failed(Timed::Append, "before");
        recorder.open(recorder.epoch, recorder.epoch + LATENCY_MAX);
        (0..1000).for_each(|n| recorder.failed(Timed::Append, &format!("{n}")));
        recorder.failed(Timed::Read, "no");
        let measured = recorder.close();
        assert!(measured.failed.len() <= SHARDS * FAILURES_MAX + 2, "{}", measured.failed.len());
        assert_eq!(Timed::ALL.map(|kind| measured.failed(kind)), [1000, 1, 0]);
    }
}
