//! The clients, and when each of them calls.

mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use converge_ledger_core::chance::Dice;
use indicatif::{ProgressBar, ProgressDrawTarget};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::STAMP_BYTES;
use super::measure::{Measured, Recorder, Timed};
use super::target::{NewAppend, Target, Watching};
use crate::cli::{Failure, Kind};

/// The pacer sleeps no longer than this, and no shorter.
const NAP_MAX: Duration = Duration::from_millis(20);
const NAP_MIN: Duration = Duration::from_micros(50);
/// A client whose call failed calls again after this, where nothing says when.
const FAILED_PAUSE: Duration = Duration::from_millis(10);
/// A watch that ended is begun again after so long.
const WATCH_AGAIN_MIN: Duration = Duration::from_millis(100);
const WATCH_AGAIN_MAX: Duration = Duration::from_secs(5);
/// How often the bar moves.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// What is called for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    /// Tells its contexts and keys from those of other runs.
    pub(super) run: u32,
    pub(super) contexts: u64,
    pub(super) payload: usize,
    pub(super) reads: u64,
    pub(super) keys: u64,
    /// Over streams.
    pub(super) streams: bool,
}

impl Mix {
    fn context(&self, number: u64) -> String {
        format!("bench-{:08x}-{number}", self.run)
    }
}

pub(super) struct Bench {
    mix: Mix,
    targets: Vec<Target>,
    timeout: Duration,
    recorder: Arc<Recorder>,
    watchers: JoinSet<()>,
}

impl Bench {
    /// Clients are dealt over the targets in turn.
    pub(super) fn new(mix: Mix, targets: Vec<Target>, timeout: Duration) -> Bench {
        Bench { mix, targets, timeout, recorder: Arc::new(Recorder::new()), watchers: JoinSet::new() }
    }

    /// The beginning of its contexts' names.
    pub(super) fn contexts(&self) -> String {
        format!("bench-{:08x}-", self.mix.run)
    }

    /// One append through each connection: they are there then.
    pub(super) async fn probe(&self) -> Result<(), Failure> {
        for target in &self.targets {
            target.probe(&self.mix.context(0), self.timeout).await?;
        }
        Ok(())
    }

    /// Begins watches, over connections of their own; they end with this.
    pub(super) async fn watch(&mut self, count: u64, targets: &[Target]) -> Result<(), Failure> {
        for (number, target) in (0..count).zip(targets.iter().cycle()) {
            let context = self.mix.context(number % self.mix.contexts);
            let watching = target.watch(&context, 0).await.map_err(|why| {
                let hint = "use fewer --watchers, or raise grpc.watches of the nodes";
                Failure::new(Kind::Unavailable, format!("watch {} of {count} was refused: {why}; {hint}", number + 1))
            })?;
            self.watchers.spawn(watch(target.clone(), context, watching, self.recorder.clone()));
        }
        Ok(())
    }

    /// Runs so many clients, with calls that are due at this rate or as fast as they are answered.
    pub(super) async fn step(&self, clients: usize, rate: Option<u64>, warmup: Duration, time: Duration) -> Measured {
        let start = Instant::now();
        let (begin, end) = (start + warmup, start + warmup + time);
        self.recorder.open(begin, end);
        let pace = Arc::new(Pace::new(start, end, rate));
        let pacer = rate.is_some().then(|| {
            let pace = pace.clone();
            std::thread::spawn(move || pace.lets_calls_go())
        });
        let mut working = JoinSet::new();
        for (number, target) in (0..clients as u64).zip(self.targets.iter().cycle()) {
            let client = Caller::new(number, self.mix, target.clone(), self.recorder.clone(), self.timeout);
            match self.mix.streams {
                true => working.spawn(client.stream(pace.clone())),
                false => working.spawn(client.work(pace.clone())),
            };
        }
        self.show(clients, rate, end).await;
        let mut idle = 0;
        while let Some(answered) = working.join_next().await {
            idle += u64::from(!answered.expect("a client does not panic"));
        }
        pace.over.store(true, Ordering::Relaxed);
        if let Some(pacer) = pacer {
            pacer.join().expect("the pacer does not panic");
        }
        let mut measured = self.recorder.close();
        measured.behind = pace.behind();
        measured.idle = idle;
        measured
    }

    /// A bar on a terminal, until the step's end.
    async fn show(&self, clients: usize, rate: Option<u64>, end: Instant) {
        let bar = ProgressBar::new_spinner();
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        let rate = rate.map(|rate| format!(", {rate} calls/s")).unwrap_or_default();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            bar.set_message(format!(
                "{clients} clients{rate}: {} appends measured, {} s left",
                self.recorder.count(),
                left.as_secs()
            ));
            bar.tick();
            if left.is_zero() {
                return bar.finish_and_clear();
            }
            tokio::time::sleep(left.min(SHOW_EVERY)).await;
        }
    }
}

/// When calls are due.
struct Pace {
    start: Instant,
    end: Instant,
    /// None: as soon as a client is free.
    rate: Option<u64>,
    /// Calls that are due and have not begun.
    due: Semaphore,
    begun: AtomicU64,
    over: AtomicBool,
}

impl Pace {
    fn new(start: Instant, end: Instant, rate: Option<u64>) -> Pace {
        let (begun, over) = (AtomicU64::new(0), AtomicBool::new(false));
        Pace { start, end, rate, due: Semaphore::new(0), begun, over }
    }

    /// When call number `n` is due.
    fn at(&self, n: u64, rate: u64) -> Instant {
        let nanos = u128::from(n) * 1_000_000_000 / u128::from(rate);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Waits for a call to be due, and says since when it is; none when the step is over.
    async fn next(&self) -> Option<Instant> {
        let Some(rate) = self.rate else {
            let now = Instant::now();
            return (now < self.end).then_some(now);
        };
        self.due.acquire().await.ok()?.forget();
        Some(self.at(self.begun.fetch_add(1, Ordering::Relaxed), rate))
    }

    /// A thread of its own: a timer of the runtime is coarser than a call.
    fn lets_calls_go(&self) {
        let rate = self.rate.expect("a pacer has a rate");
        let mut given = 0;
        loop {
            let now = Instant::now();
            let (until, mut ready) = (now.min(self.end), 0);
            // However late this thread comes, all that are due before the end are given out.
            while self.at(given, rate) < until {
                given += 1;
                ready += 1;
            }
            self.due.add_permits(ready);
            if now >= self.end || self.over.load(Ordering::Relaxed) {
                return self.due.close();
            }
            let next = self.at(given, rate).saturating_duration_since(Instant::now());
            std::thread::sleep(next.clamp(NAP_MIN, NAP_MAX));
        }
    }

    /// Calls that nobody was free for until the end.
    fn behind(&self) -> u64 {
        self.due.available_permits() as u64
    }
}

/// One caller with one call at a time.
struct Caller {
    number: u64,
    mix: Mix,
    target: Target,
    recorder: Arc<Recorder>,
    timeout: Duration,
    dice: Dice,
    payload: Vec<u8>,
    calls: u64,
    /// Its last append, to be read.
    last: Option<(String, u64)>,
}

impl Caller {
    fn new(number: u64, mix: Mix, target: Target, recorder: Arc<Recorder>, timeout: Duration) -> Caller {
        let mut dice = Dice(u64::from(mix.run) << 32 | number);
        let payload = dice.bytes(mix.payload);
        Caller { number, mix, target, recorder, timeout, dice, payload, calls: 0, last: None }
    }

    /// Calls until the step is over; says whether it got an answer.
    async fn work(mut self, pace: Arc<Pace>) -> bool {
        let mut answered = false;
        while let Some(due) = pace.next().await {
            let began = self.recorder.stamp(due);
            let reads = self.dice.below(100) < self.mix.reads;
            let (kind, done) = match self.last.clone().filter(|_| reads) {
                Some((context, sequence)) => (Timed::Read, self.target.read(&context, sequence, self.timeout).await),
                None => (Timed::Append, self.append(began).await),
            };
            match done {
                Ok(()) => {
                    answered = true;
                    self.recorder.done(kind, began);
                }
                Err(why) => {
                    self.recorder.failed(kind, &why);
                    tokio::time::sleep(FAILED_PAUSE).await;
                }
            }
        }
        answered
    }

    fn next_append(&mut self, began: u64) -> NewAppend {
        self.calls += 1;
        self.payload[..STAMP_BYTES].copy_from_slice(&began.to_le_bytes());
        let keyed = self.dice.below(100) < self.mix.keys;
        let context = self.mix.context(self.dice.below(self.mix.contexts));
        NewAppend {
            context,
            payload: Bytes::copy_from_slice(&self.payload),
            key: keyed.then(|| format!("bench-{:08x}-{}-{}-{began}", self.mix.run, self.number, self.calls)),
        }
    }

    async fn append(&mut self, began: u64) -> Result<(), String> {
        let append = self.next_append(began);
        let context = append.context.clone();
        let sequence = self.target.append(append, self.timeout).await?;
        self.last = Some((context, sequence));
        Ok(())
    }
}

/// Hands on what comes, and watches again behind it when the watch ends; ever later, where it ends again and again.
async fn watch(target: Target, context: String, mut watching: Watching, recorder: Arc<Recorder>) {
    let (mut last, mut pause) = (0, WATCH_AGAIN_MIN);
    loop {
        while let Some((sequence, payload)) = watching.next().await {
            last = sequence;
            pause = WATCH_AGAIN_MIN;
            recorder.done(Timed::Watch, stamped(&payload));
        }
        // In a box: many watches are idle at once, and few begin.
        watching = Box::pin(async {
            loop {
                recorder.failed(Timed::Watch, "it ended");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(WATCH_AGAIN_MAX);
                if let Ok(watching) = target.watch(&context, last).await {
                    return watching;
                }
            }
        })
        .await;
    }
}

/// When an append was due, by its payload.
fn stamped(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |stamp| u64::from_le_bytes(*stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pacer that comes late, and a system that does nothing for a while, delay the calls that are due: none is left out.
    #[test]
    fn a_call_is_due_at_its_time_whatever_became_of_those_before() {
        let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let pace = Pace::new(start, start + Duration::from_millis(300), Some(1000));
        pace.lets_calls_go();
        assert_eq!(pace.behind(), 300);
        let pace = Pace { due: Semaphore::new(50), ..pace };
        for n in 0..50 {
            assert_eq!(futures_now(pace.next()).unwrap(), start + Duration::from_millis(n));
        }
        pace.due.close();
        assert!(futures_now(pace.next()).is_none(), "the step is over");
    }

    fn futures_now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_payload_says_when_it_was_sent() {
        assert_eq!(stamped(&[7, 0, 0, 0, 0, 0, 0, 0, 9]), 7);
        assert_eq!(stamped(b"short"), 0);
    }
}
