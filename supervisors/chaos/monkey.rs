//! Faults at random, on a running tree.
//!
//! A [`Monkey`] is a plan: whom, what, when, how much. Attached to a tree it runs in a task of its own, knows the restart
//! intensity of every supervisor, and tells in an [`Outcome`] what came of it. Every choice comes from its seed, and every
//! wait is one of `tokio::time`.

use std::future::pending;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep_until};

use super::dice::Dice;
use super::observer::{Afford, Observer, above, is_temporary};
use super::outcome::{Hit, Outcome, Recovery};
use super::target::{Target, weight_of};
use super::trap::{Armed, At, Moment, Sprung};
use super::{Fault, MessageKind, after};
use crate::node::Node;
use crate::reports::{Event, Report};
use crate::snapshot::{ChildState, TreeNode};
use crate::tree::Tree;
use crate::vitals::Callback;

/// Between two faults at least: without any pause paused time would stand still.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Until the next look for somebody, when a trigger that waits for a moment found nobody to wait for.
const PAUSE: Duration = Duration::from_millis(100);

/// Hits of a monkey that is to finish and was given no number of them.
const HITS_TO_FINISH: usize = 100;
/// Moments in a row that a monkey that is to finish waits for in vain.
const UNREACHED_TO_FINISH: u64 = 10;

/// When a fault comes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Trigger {
    /// Again and again: each time after `interval`, give or take up to `jitter` of it (0 to 1), and no sooner than after
    /// a millisecond.
    Every {
        /// The mean.
        interval: Duration,
        /// How far from it, as a fraction of it.
        jitter: f64,
    },
    /// At the `nth` message (of a kind) that the chosen actor is about to handle, counted from 1; the next actor is chosen
    /// when that one runs again.
    Message {
        /// `None`: of any kind. See [`kind_of`](super::kind_of).
        kind: Option<MessageKind>,
        /// Counted from 1.
        nth: u64,
    },
    /// At the `nth` time, counted from 1, that one run of a callback has to wait; the next actor is chosen when that one
    /// runs again.
    Await {
        /// `None`: in any.
        callback: Option<Callback>,
        /// Of messages of this kind only.
        kind: Option<MessageKind>,
        /// Counted from 1.
        nth: u32,
    },
}

/// How much is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Budget {
    /// No supervisor is ever driven to its limit: each keeps room for `spare` restarts that come from elsewhere. The root
    /// and temporary children are left alone, for they would not come back.
    Within {
        /// Restarts.
        spare: usize,
    },
    /// No limit: the tree may end, and that is told.
    Beyond,
}

/// A plan of faults. By default: kills, of workers, about every second, within the restart intensity, until detached; and
/// a hundred of them for one whose end is waited for, see [`Attached::finished`].
#[derive(Clone, Debug)]
pub struct Monkey {
    seed: u64,
    targets: Vec<Target>,
    faults: Vec<(Fault, u32)>,
    trigger: Trigger,
    budget: Budget,
    hits_max: Option<usize>,
    patience: Duration,
}

impl Monkey {
    /// A monkey all of whose choices come from `seed`.
    pub fn new(seed: u64) -> Monkey {
        Monkey {
            seed,
            targets: Vec::new(),
            faults: Vec::new(),
            trigger: Trigger::Every { interval: Duration::from_secs(1), jitter: 0.5 },
            budget: Budget::Within { spare: 0 },
            hits_max: None,
            patience: Duration::from_secs(30),
        }
    }

    /// Adds whom to hit. None added: every worker. The first that means a place gives its weight.
    #[must_use]
    pub fn target(mut self, target: Target) -> Monkey {
        self.targets.push(target);
        self
    }

    /// Adds what to do, and how often next to others. None added: kills.
    #[must_use]
    pub fn fault(mut self, fault: Fault, weight: u32) -> Monkey {
        self.faults.push((fault, weight));
        self
    }

    /// Sets when.
    #[must_use]
    pub fn trigger(mut self, trigger: Trigger) -> Monkey {
        self.trigger = trigger;
        self
    }

    /// Sets how much.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Monkey {
        self.budget = budget;
        self
    }

    /// Ends after so many hits.
    #[must_use]
    pub fn hits_max(mut self, hits: usize) -> Monkey {
        self.hits_max = Some(hits);
        self
    }

    /// Sets how long a recovery may take, a moment be waited for, and what is left over at the end be given to go. 30 s
    /// unless told.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Monkey {
        self.patience = patience;
        self
    }

    /// Lets it loose. It holds a handle on the tree until it is detached.
    pub fn attach(mut self, tree: &Tree) -> Attached {
        if self.targets.is_empty() {
            self.targets.push(Target::workers());
        }
        if self.faults.is_empty() {
            self.faults.push((Fault::Kill, 1));
        }
        let (orders, ordered) = watch::channel(Until::Detached);
        let run = MonkeyRun {
            dice: Dice::new(self.seed),
            // Before this returns: whatever happens from now on is seen.
            observer: Observer::new(tree),
            began: Instant::now(),
            hits: Vec::new(),
            open: Vec::new(),
            laid: Vec::new(),
            spared: 0,
            unreached: 0,
            until: Until::Detached,
            nobody_since: None,
            in_vain: 0,
            monkey: self,
        };
        Attached { orders, task: tokio::spawn(run.run(ordered)) }
    }
}

/// A monkey at work. Dropping this ends it, and nobody hears what came of it; see [`Attached::detach`].
#[must_use = "a monkey ends when this is dropped"]
#[derive(Debug)]
pub struct Attached {
    orders: watch::Sender<Until>,
    task: JoinHandle<Outcome>,
}

/// How long a monkey goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// As long as its handle is there.
    Detached,
    /// Until its hits are done, or it finds nobody to hit.
    Finished,
    /// No longer.
    Now,
}

impl Attached {
    /// Ends the faults, waits until the last of them is recovered from, and tells.
    pub async fn detach(self) -> Outcome {
        self.orders.send_replace(Until::Now);
        outcome(self.task).await
    }

    /// Waits until all hits are done (see [`Monkey::hits_max`]; a hundred if nothing was said) or the tree has ended, and
    /// tells. Also ends, with fewer hits, when there is nobody to be hit: no fault or target has a weight, or for as long
    /// as its patience nobody ran who was meant and could be restarted, or ten moments in a row were waited for in vain. A
    /// budget that is used up for now is waited for.
    pub async fn finished(self) -> Outcome {
        self.orders.send_replace(Until::Finished);
        let outcome = outcome(self.task).await;
        drop(self.orders);
        outcome
    }
}

async fn outcome(task: JoinHandle<Outcome>) -> Outcome {
    match task.await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

struct MonkeyRun {
    monkey: Monkey,
    dice: Dice,
    observer: Observer,
    began: Instant,
    hits: Vec<Hit>,
    /// Hits whose place does not run again yet.
    open: Vec<Open>,
    /// Faults that may still wait for their actor to be between two callbacks.
    laid: Vec<Armed>,
    spared: u64,
    unreached: u64,
    until: Until,
    /// There has been nobody to be hit, now or later.
    nobody_since: Option<Instant>,
    /// Moments in a row that did not come.
    in_vain: u64,
}

struct Open {
    hit: usize,
    at: Instant,
}

/// A fault that waits for its moment.
struct Waiting {
    armed: Armed,
    place: Victim,
    fault: Fault,
}

/// Where a fault goes.
struct Victim {
    path: String,
    incarnation: u64,
}

impl MonkeyRun {
    async fn run(mut self, mut orders: watch::Receiver<Until>) -> Outcome {
        let tree = self.observer.tree.clone();
        let mut end = Box::pin(async move { tree.wait().await });
        let mut waiting: Option<Waiting> = None;
        let mut due = self.due();
        let ended = loop {
            let more = self.wants_more();
            if !more && self.open.is_empty() {
                break None;
            }
            let give_up = self.open.first().map(|open| after(open.at, self.monkey.patience));
            tokio::select! {
                biased;
                ended = &mut end => break Some(ended),
                order = orders.changed(), if self.until != Until::Now => {
                    // Without its handle it is over.
                    self.until = order.map_or(Until::Now, |()| *orders.borrow());
                    if self.until == Until::Now {
                        waiting = None;
                    }
                }
                report = self.observer.next() => self.heard(report),
                sprung = sprung(&mut waiting), if more => {
                    if let Some(waited) = waiting.take() {
                        self.hit(waited.place, waited.fault, Some(sprung));
                        self.in_vain = 0;
                    }
                    due = Instant::now();
                }
                () = at(give_up) => self.not_recovered(),
                () = sleep_until(due), if more && self.is_free(&waiting) => {
                    let in_vain = u64::from(waiting.take().is_some());
                    self.unreached += in_vain;
                    self.in_vain += in_vain;
                    waiting = self.strike().await;
                    due = match waiting {
                        Some(_) => after(Instant::now(), self.monkey.patience),
                        None => self.due(),
                    };
                }
            }
        };
        drop(waiting);
        self.outcome(ended).await
    }

    /// Whether there is to be another hit.
    fn wants_more(&self) -> bool {
        let hits = self.hits.len();
        match self.until {
            Until::Now => false,
            Until::Detached => self.monkey.hits_max.is_none_or(|max| hits < max),
            Until::Finished => {
                let patience = self.monkey.patience;
                let in_vain = self.in_vain >= UNREACHED_TO_FINISH
                    || self.monkey.faults.iter().all(|fault| fault.1 == 0)
                    || self.monkey.targets.iter().all(Target::is_never)
                    || self.nobody_since.is_some_and(|since| Instant::now() >= after(since, patience));
                hits < self.monkey.hits_max.unwrap_or(HITS_TO_FINISH) && !in_vain
            }
        }
    }

    /// With triggers that wait for a moment, one hit at a time.
    fn is_free(&self, waiting: &Option<Waiting>) -> bool {
        matches!(self.monkey.trigger, Trigger::Every { .. }) || waiting.is_some() || self.open.is_empty()
    }

    /// When the next fault is due.
    fn due(&mut self) -> Instant {
        let pause = match self.monkey.trigger {
            Trigger::Every { interval, jitter } => {
                let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
                let pause = interval.as_secs_f64() * (1.0 - jitter + 2.0 * jitter * self.dice.fraction());
                Duration::try_from_secs_f64(pause).unwrap_or(Duration::MAX).max(PAUSE_MIN)
            }
            Trigger::Message { .. } | Trigger::Await { .. } if self.hits.is_empty() && self.spared == 0 => {
                Duration::ZERO
            }
            Trigger::Message { .. } | Trigger::Await { .. } => PAUSE,
        };
        after(Instant::now(), pause)
    }

    /// Chooses what and whom; hits, or lays a trap.
    async fn strike(&mut self) -> Option<Waiting> {
        let faults = &self.monkey.faults;
        let (fault, _) = faults[self.dice.pick(faults.iter().map(|fault| fault.1))?];
        self.observer.catch_up();
        self.observer.look_around();
        let places = self.observer.places();
        let weights: Vec<u32> = places.iter().map(|place| self.weight(place, fault)).collect();
        let Some(chosen) = self.dice.pick(weights.into_iter()) else {
            self.spared += 1;
            if places.iter().any(|place| self.is_for_later(place, fault)) {
                self.nobody_since = None;
            } else {
                self.nobody_since.get_or_insert_with(Instant::now);
            }
            return None;
        };
        self.nobody_since = None;
        let TreeNode { path, incarnation, .. } = places[chosen].look();
        let place = Victim { path, incarnation };
        let moment = match self.monkey.trigger {
            Trigger::Every { .. } => {
                self.laid.retain_mut(|armed| !armed.is_over());
                match self.observer.tree.lay(&place.path, fault).await {
                    Ok(armed) => {
                        self.laid.extend(armed);
                        self.hit(place, fault, None);
                    }
                    Err(_gone) => self.spared += 1,
                }
                return None;
            }
            Trigger::Message { kind, nth } => {
                Moment { callback: Some(Callback::Handle), kind, skip: nth.saturating_sub(1), at: At::Start }
            }
            Trigger::Await { callback, kind, nth } => Moment { callback, kind, skip: 0, at: At::Await(nth.max(1)) },
        };
        let armed = self.observer.tree.arm(&place.path, moment, fault).ok()?;
        Some(Waiting { armed, place, fault })
    }

    /// How likely this place is chosen now.
    fn weight(&self, place: &Node, fault: Fault) -> u32 {
        let node = place.look();
        let weight = weight_of(&self.monkey.targets, &node);
        let busy = self.open.iter().any(|open| self.hits[open.hit].path == node.path);
        if weight == 0 || node.state != ChildState::Running || busy {
            return 0;
        }
        if let (Budget::Within { spare }, true) = (self.monkey.budget, fault.is_deadly()) {
            let under_way = self.open.iter().filter(|open| above(&self.hits[open.hit].path) == above(&node.path));
            let cost = 1 + spare + under_way.count();
            if is_temporary(place) || self.observer.afford(&node.path, cost) != Afford::Now {
                return 0;
            }
        }
        weight
    }

    /// It was hit and has not recovered yet, or its supervisor will tolerate a hit of it in time.
    fn is_for_later(&self, place: &Node, fault: Fault) -> bool {
        let node = place.look();
        let meant = weight_of(&self.monkey.targets, &node) > 0;
        let busy = self.open.iter().any(|open| self.hits[open.hit].path == node.path);
        let runs = node.state == ChildState::Running && !is_temporary(place);
        let afford = |spare| self.observer.afford(&node.path, 1 + spare);
        let in_time = match self.monkey.budget {
            Budget::Within { spare } => fault.is_deadly() && runs && matches!(afford(spare), Afford::At(_)),
            Budget::Beyond => false,
        };
        meant && (busy || in_time)
    }

    fn hit(&mut self, Victim { path, incarnation }: Victim, fault: Fault, sprung: Option<Sprung>) {
        let recovery = if fault.is_deadly() { Recovery::Failed } else { Recovery::NotDue };
        let moment = sprung.map(|sprung| (sprung.callback, sprung.kind));
        let at = sprung.map_or_else(Instant::now, |sprung| sprung.at);
        let incarnation = sprung.map_or(incarnation, |sprung| sprung.incarnation);
        if fault.is_deadly() {
            self.open.push(Open { hit: self.hits.len(), at });
        }
        self.hits.push(Hit { at: at - self.began, path, incarnation, fault, moment, recovery });
    }

    /// `None`: reports were missed, so what runs is looked up.
    fn heard(&mut self, report: Option<Report>) {
        if report.as_ref().is_some_and(|report| report.event != Event::Started) {
            return;
        }
        let now = report.as_ref().map_or_else(Instant::now, |report| report.at);
        let tree = &self.observer.tree;
        let hits = &mut self.hits;
        self.open.retain(|open| {
            let hit = &mut hits[open.hit];
            let incarnation = match &report {
                Some(started) => (started.path == hit.path).then_some(started.incarnation),
                None => tree.status(&hit.path).filter(|n| n.state == ChildState::Running).map(|n| n.incarnation),
            };
            let runs_again = incarnation.is_some_and(|incarnation| incarnation > hit.incarnation);
            if runs_again {
                hit.recovery = Recovery::Took(now - open.at);
            }
            !runs_again
        });
    }

    /// The oldest open hit has had its time.
    fn not_recovered(&mut self) {
        self.open.remove(0);
    }

    async fn outcome(mut self, ended: Option<Result<(), crate::Escalated>>) -> Outcome {
        self.laid.clear(); // whoever was too busy for its fault is let off
        self.observer.catch_up();
        let orphans = self.observer.orphans(self.monkey.patience).await;
        Outcome {
            seed: self.monkey.seed,
            hits: self.hits,
            spared: self.spared,
            unreached: self.unreached,
            orphans,
            intensity: self.observer.used,
            ended: ended.and_then(Result::err),
        }
    }
}

impl Fault {
    /// Whether an actor dies of it.
    pub(crate) fn is_deadly(self) -> bool {
        !matches!(self, Fault::Stall(_))
    }
}

async fn sprung(waiting: &mut Option<Waiting>) -> Sprung {
    match waiting {
        Some(waiting) => waiting.armed.sprung().await,
        None => pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
