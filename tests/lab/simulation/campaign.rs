//! Many seeds, on several threads: each run has one thread to itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::plan::{Plan, Shape};
use super::run::{RunOutcome, run_apart};

/// A run that takes so much real time goes round in circles.
const STUCK: Duration = Duration::from_secs(300);

/// Which seeds, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed.
    pub first: u64,
    /// At most so many.
    pub seeds: u64,
    /// No further seed is begun after this.
    pub time: Option<Duration>,
    /// Threads.
    pub threads: usize,
    /// What each run is like.
    pub shape: Shape,
}

/// What all runs came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// Real time of the whole campaign.
    pub took: Duration,
    /// Simulated time of all runs together, in milliseconds.
    pub simulated_ms: u64,
    /// Appends acknowledged.
    pub acknowledged: u64,
    /// Appends that ended as unknown.
    pub unknown: u64,
    /// Appends refused.
    pub refused: u64,
    /// Reads answered.
    pub reads: u64,
    /// Log entries applied.
    pub log_entries: u64,
    /// Frames delivered.
    pub frames: u64,
    /// Frames lost, doubled or out of order.
    pub frames_spoiled: u64,
    /// Faults that did something, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// The fewest faults that did something in one run.
    pub faults_min: u64,
    /// Seeds that failed, each with what did not hold.
    pub failed: BTreeMap<u64, Vec<String>>,
    /// A seed that did not end, if one did not.
    pub stuck: Option<u64>,
    /// Seeds in which rotten pages made a node abort its process; nothing else is known of these runs.
    pub aborted: Vec<u64>,
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: &RunOutcome) {
        self.seeds += 1;
        if outcome.aborted {
            self.aborted.push(seed);
            if !outcome.violations.is_empty() {
                self.failed.insert(seed, outcome.violations.clone());
            }
            return;
        }
        self.simulated_ms += outcome.simulated_ms;
        let (acknowledged, unknown, refused) = outcome.appends;
        self.acknowledged += acknowledged;
        self.unknown += unknown;
        self.refused += refused;
        self.reads += outcome.reads;
        self.log_entries += outcome.log_entries;
        let (delivered, lost, doubled, reordered) = outcome.frames;
        self.frames += delivered;
        self.frames_spoiled += lost + doubled + reordered;
        let faults = outcome.faults.values().sum();
        self.faults_min =
            if self.seeds - self.aborted.len() as u64 == 1 { faults } else { self.faults_min.min(faults) };
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        if !outcome.violations.is_empty() {
            self.failed.insert(seed, outcome.violations.clone());
        }
    }

    /// Simulated time over real time.
    #[must_use]
    pub fn speed(&self) -> f64 {
        self.simulated_ms as f64 / 1000.0 / self.took.as_secs_f64().max(0.001)
    }
}

enum Event {
    Began(usize, u64),
    Ended(usize, u64, Box<RunOutcome>),
}

/// Runs them; `seen` hears of every end.
pub fn campaign(campaign: Campaign, mut seen: impl FnMut(u64, &RunOutcome, &Totals)) -> Totals {
    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let (tell, news) = channel();
    for thread in 0..campaign.threads {
        let (next, tell) = (next.clone(), tell.clone());
        std::thread::spawn(move || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let late = campaign.time.is_some_and(|time| began.elapsed() >= time);
                if n >= campaign.seeds || late {
                    return;
                }
                let seed = campaign.first + n;
                let _ = tell.send(Event::Began(thread, seed));
                let mut outcome = run_apart(&Plan::draw(seed, campaign.shape), false);
                outcome.history.clear();
                if tell.send(Event::Ended(thread, seed, Box::new(outcome))).is_err() {
                    return;
                }
            }
        });
    }
    drop(tell);
    let mut totals = Totals::default();
    let mut running: BTreeMap<usize, (u64, Instant)> = BTreeMap::new();
    loop {
        match news.recv_timeout(Duration::from_secs(1)) {
            Ok(Event::Began(thread, seed)) => drop(running.insert(thread, (seed, Instant::now()))),
            Ok(Event::Ended(thread, seed, outcome)) => {
                running.remove(&thread);
                totals.add(seed, &outcome);
                totals.took = began.elapsed();
                seen(seed, &outcome, &totals);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some((seed, _)) = running.values().find(|(_, since)| since.elapsed() > STUCK) {
            totals.stuck = Some(*seed);
            break;
        }
    }
    totals.took = began.elapsed();
    totals
}
