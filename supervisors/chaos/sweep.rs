//! A kill at every await.
//!
//! For each actor that is there when it begins, and each callback it was seen to run, by kind of message: a kill before the
//! first line, at the first time it has to wait, at the second, and so on until it ends before that, and one when it has
//! ended. After each the tree must be whole again and the caller's check must hold. Only real suspensions are points: an
//! await that is ready at once cannot be killed there by anybody.
//!
//! A supervisor's messages come with the death of a child, so that is how it is driven: by a kill, or by a panic and a start
//! that fails where the kill does not bring the message about. It waits in its `post_stop`, once for each child, and with a
//! message in hand only while it is suspended; so suspended it is for that.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use tokio::time::{Duration, sleep, sleep_until, timeout};

use super::observer::{Afford, Observer, Orphan, is_temporary};
use super::target::{Target, weight_of};
use super::trap::{Armed, At, Moment};
use super::{Fault, MessageKind};
use crate::node::Node;
use crate::snapshot::ChildState;
use crate::tree::Tree;
use crate::vitals::Callback;

/// How long a point, or a callback to learn of, is waited for after the load has been driven: for work that the load
/// does not wait for.
const LINGER: Duration = Duration::from_millis(100);

/// What is swept. By default: kills, in every worker and supervisor but the root, in all callbacks.
#[derive(Clone, Debug)]
pub struct Sweep {
    targets: Vec<Target>,
    fault: Fault,
    awaits_max: u32,
    tries: u32,
    patience: Duration,
    starts_and_stops: bool,
}

/// One point of a sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The actor.
    pub path: String,
    /// The callback.
    pub callback: Callback,
    /// Of a message, its kind; see [`kind_of`](super::kind_of).
    pub kind: Option<MessageKind>,
    /// Where in it.
    pub at: At,
}

/// What came of one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The point.
    pub point: Point,
    /// The fault came. When not, the callback ended before that point: the sweep of this callback is complete.
    pub reached: bool,
    /// From the fault until the tree was whole again.
    pub recovery: Duration,
    /// What the check said, or that the tree was not whole again.
    pub verdict: Result<(), String>,
}

/// What was swept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// In the order in which it was done.
    pub rows: Vec<Row>,
    /// Callbacks with more awaits than were asked for: the last point that was reached. Not swept to their end.
    pub cut: Vec<Point>,
    /// Callbacks that did not run when they were to be swept, so that they were not from this point on: their actor is
    /// gone or stopped, or what brings them about is not the load, but somebody's recovery.
    pub not_run: Vec<Point>,
    /// Actors that were alive at the end without a place in the tree; see [`Outcome`](super::Outcome).
    pub orphans: Vec<Orphan>,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep::new()
    }
}

impl Sweep {
    /// Kills, in every worker and supervisor, at up to 64 awaits of each callback; 30 s for each recovery.
    pub fn new() -> Sweep {
        Sweep {
            targets: Vec::new(),
            fault: Fault::Kill,
            awaits_max: 64,
            tries: 1,
            patience: Duration::from_secs(30),
            starts_and_stops: true,
        }
    }

    /// Adds whom to sweep. None added: all that somebody restarts, which leaves out the root and temporary children.
    #[must_use]
    pub fn target(mut self, target: Target) -> Sweep {
        self.targets.push(target);
        self
    }

    /// Sets what is done at each point.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Sweep {
        self.fault = fault;
        self
    }

    /// Sets how many awaits of one callback are swept.
    #[must_use]
    pub fn awaits_max(mut self, awaits: u32) -> Sweep {
        self.awaits_max = awaits;
        self
    }

    /// Sets how often the load is driven for a point that was not reached, before its callback counts as swept; 1 unless
    /// told. More where the number of awaits is a matter of luck: with real time and threads, what one run has to wait
    /// for is ready at once in another.
    #[must_use]
    pub fn tries(mut self, tries: u32) -> Sweep {
        self.tries = tries;
        self
    }

    /// Sets how long the load, and each recovery, may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Sweep {
        self.patience = patience;
        self
    }

    /// Leaves out `pre_start`, `post_start` and `post_stop`.
    #[must_use]
    pub fn messages_only(mut self) -> Sweep {
        self.starts_and_stops = false;
        self
    }
}

impl Table {
    /// The rows whose check did not hold.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.verdict.is_err())
    }

    /// Every check held, nothing was left out, and nobody is left over.
    pub fn is_complete(&self) -> bool {
        self.failures().next().is_none() && self.cut.is_empty() && self.not_run.is_empty() && self.orphans.is_empty()
    }

    /// Points at which the fault came.
    pub fn reached(&self) -> usize {
        self.rows.iter().filter(|row| row.reached).count()
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { path, callback, kind, at } = self;
        write!(f, "{path} {callback:?}")?;
        if let Some(kind) = kind {
            write!(f, " {kind}")?;
        }
        write!(f, " {at:?}")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { point, reached, recovery, verdict } in &self.rows {
            let outcome = match (reached, verdict) {
                (_, Err(reason)) => format!("FAILED: {reason}"),
                (true, Ok(())) => format!("held; whole again after {recovery:?}"),
                (false, Ok(())) => "ends before that".to_owned(),
            };
            writeln!(f, "{point}: {outcome}")?;
        }
        for point in &self.cut {
            writeln!(f, "{point}: NOT SWEPT FURTHER")?;
        }
        for point in &self.not_run {
            writeln!(f, "{point}: NOT SWEPT, FOR IT DID NOT RUN")?;
        }
        for Orphan { path, actor } in &self.orphans {
            writeln!(f, "ORPHAN {actor}, once at {path}")?;
        }
        Ok(())
    }
}

/// Sweeps a running tree. `load` is driven once to learn which callbacks there are, and then once for each point: it should
/// reach every kind of message, must bear that the actor dies under it, and ends when it has its answers or has given up.
/// `check` is asked after each recovery, and should drive what it needs to know that nothing is lost.
///
/// Stays within the restart intensity: it waits, in `tokio` time, until the supervisor of the next victim can bear it, so
/// that with paused time any intensity of two restarts or more will do. Two, for a start is reached by a kill and then
/// killed itself: whoever calls then meets two deaths in a row.
pub async fn sweep_awaits(
    tree: &Tree,
    sweep: Sweep,
    load: impl AsyncFnMut(),
    check: impl AsyncFnMut(&Point) -> Result<(), String>,
) -> Table {
    let mut sweep = sweep;
    if sweep.targets.is_empty() {
        sweep.targets.push(Target::path("**"));
    }
    let mut run = SweepRun { sweep, observer: Observer::new(tree), load, check, table: Table::default() };
    run.all().await;
    run.observer.look_around();
    run.table.orphans = run.observer.orphans(run.sweep.patience).await;
    run.table
}

struct SweepRun<L, C> {
    sweep: Sweep,
    observer: Observer,
    load: L,
    check: C,
    table: Table,
}

/// What is swept to its end: an actor's callback, of one kind of message.
type Class = (String, Callback, Option<MessageKind>);

impl<L: AsyncFnMut(), C: AsyncFnMut(&Point) -> Result<(), String>> SweepRun<L, C> {
    async fn all(&mut self) {
        let paths = self.paths();
        let mut seen: BTreeSet<Class> = BTreeSet::new();
        for path in &paths {
            self.record(path);
            if self.sweep.starts_and_stops {
                let callbacks = [Callback::PreStart, Callback::PostStart, Callback::PostStop];
                seen.extend(callbacks.map(|callback| (path.clone(), callback, None)));
            }
        }
        let _ = timeout(self.sweep.patience, (self.load)()).await;
        sleep(LINGER).await;
        let mut done = BTreeSet::new();
        loop {
            // What a recovery brings (a message sent again, an event) is swept as well.
            for path in &paths {
                let record = self.record(path);
                let classes = record.into_iter().map(|(callback, kind)| (path.clone(), callback, kind));
                seen.extend(classes.filter(|(_, callback, _)| is_driven(*callback)));
            }
            // Children first: those of a dynamic supervisor go with it, and do not come back.
            let depth = |(path, ..): &&Class| Reverse(path.matches('/').count());
            let Some(class) = seen.difference(&done).min_by_key(depth).cloned() else { break };
            if !self.class(&class).await {
                break;
            }
            done.insert(class);
        }
        for path in &paths {
            if let Some(node) = self.observer.tree.root().find(path) {
                node.hook.record(false);
            }
        }
    }

    /// The actors to be swept: those that somebody restarts.
    fn paths(&self) -> Vec<String> {
        let restarted = self.observer.places().into_iter().skip(1).filter(|place| !is_temporary(place));
        let swept = restarted.filter(|place| weight_of(&self.sweep.targets, &place.look()) > 0);
        swept.map(|place| place.path.clone()).collect()
    }

    /// The eldest child of a supervisor that comes back when it dies; the more come back with it, the better.
    fn messenger(&self, path: &str) -> Option<String> {
        let below = self.observer.tree.root().find(path)?.children();
        let comes_back = |child: &Arc<Node>| !is_temporary(child) && child.look().state == ChildState::Running;
        below.into_iter().find(comes_back).map(|child| child.path.clone())
    }

    /// What an actor did since it was asked last.
    fn record(&self, path: &str) -> Vec<(Callback, Option<MessageKind>)> {
        let node = self.observer.tree.root().find(path);
        node.map_or_else(Vec::new, |node| node.hook.record(true).into_iter().collect())
    }

    /// Every point of one class. False when the tree is not whole.
    async fn class(&mut self, (path, callback, kind): &Class) -> bool {
        let point = |at| Point { path: path.clone(), callback: *callback, kind: *kind, at };
        let mut awaits = 0;
        loop {
            let at = if awaits == 0 { At::Start } else { At::Await(awaits) };
            match self.tried(point(at)).await {
                Some(Met::Sprung) => {}
                Some(Met::EndedBefore) => break,
                Some(Met::DidNotRun) => {
                    self.table.not_run.push(point(at));
                    return true;
                }
                None => return false,
            }
            if awaits == self.sweep.awaits_max {
                self.table.cut.push(point(at));
                break;
            }
            awaits += 1;
        }
        let end = self.tried(point(At::End)).await;
        if end == Some(Met::DidNotRun) {
            self.table.not_run.push(point(At::End));
        }
        end.is_some()
    }

    /// One point, until it is reached or all tries are used up; the last of them is told, and every one that failed.
    async fn tried(&mut self, point: Point) -> Option<Met> {
        for _ in 1..self.sweep.tries {
            if self.driven(&point).await? == Met::Sprung {
                return Some(Met::Sprung);
            }
            self.table.rows.pop_if(|row| row.point == point && row.verdict.is_ok());
        }
        self.driven(&point).await
    }

    /// One point, by the death of a supervisor's child that brings its callback about.
    async fn driven(&mut self, point: &Point) -> Option<Met> {
        match self.point(point.clone(), Death::Killed).await? {
            Met::DidNotRun if is_driven(point.callback) && self.messenger(&point.path).is_some() => {
                self.point(point.clone(), Death::PanicsAndStartFails).await
            }
            met => Some(met),
        }
    }

    /// One point: what came of it; `None` when the tree is not whole.
    async fn point(&mut self, point: Point, death: Death) -> Option<Met> {
        let messenger = if is_driven(point.callback) { self.messenger(&point.path) } else { None };
        if !self.affordable([Some(&point.path), messenger.as_ref()]).await {
            let reason = "its supervisor never tolerates the two restarts of a kill and a start".to_owned();
            self.table.rows.push(Row { point, reached: false, recovery: Duration::ZERO, verdict: Err(reason) });
            return None;
        }
        self.observer.look_around();
        let before = self.observer.running();
        let moment = Moment { callback: Some(point.callback), kind: point.kind, skip: 0, at: point.at };
        let Ok(mut armed) = self.observer.tree.arm(&point.path, moment, self.sweep.fault) else {
            return Some(Met::DidNotRun);
        };
        let messenger = messenger.as_deref().map(|child| (child, death));
        let loaded = self.drive(&point, messenger, &mut armed).await;
        let _ = timeout(LINGER, armed.sprung()).await;
        let (sprung, met) = (armed.has_sprung(), armed.is_met());
        drop(armed);
        let deadly = sprung.filter(|_| self.sweep.fault.is_deadly());
        let struck = deadly.map(|sprung| (point.path.as_str(), sprung.incarnation));
        let whole = self.observer.recovered(&before, struck, self.sweep.patience).await;
        let recovery = sprung.map_or(Duration::ZERO, |sprung| self.observer.since(sprung.at));
        let reached = sprung.is_some();
        let verdict = match (loaded, whole) {
            (_, false) => Err(format!("not whole again within {:?}", self.sweep.patience)),
            (false, true) => Err(format!("the load did not end within {:?}", self.sweep.patience)),
            (true, true) => (self.check)(&point).await,
        };
        if met || verdict.is_err() {
            self.table.rows.push(Row { point, reached, recovery, verdict });
        }
        whole.then_some(match (reached, met) {
            (true, _) => Met::Sprung,
            (false, true) => Met::EndedBefore,
            (false, false) => Met::DidNotRun,
        })
    }

    /// Makes the actor run the callback. False when the load did not end.
    async fn drive(&mut self, point: &Point, messenger: Option<(&str, Death)>, armed: &mut Armed) -> bool {
        let mut start_fails = None;
        let tree = self.observer.tree.clone();
        let Some(node) = tree.root().find(&point.path) else { return true };
        let Some(cell) = node.cell() else { return true };
        let before = self.observer.running();
        let dies = match (point.callback, messenger) {
            (Callback::PreStart | Callback::PostStart, _) => {
                node.kill_all();
                Some(point.path.as_str())
            }
            (Callback::PostStop, _) => {
                cell.stop(Some("stopped by chaos, for its post_stop".to_owned()));
                Some(point.path.as_str())
            }
            (Callback::Handle | Callback::HandleEvent, Some((child, death))) => {
                if death == Death::PanicsAndStartFails {
                    start_fails = tree.arm(child, Moment::next(Callback::PreStart, At::Start), Fault::Kill).ok();
                }
                self.stir(point, child, death, armed).await;
                Some(child)
            }
            (Callback::Handle | Callback::HandleEvent, None) => None,
        };
        if let Some(path) = dies {
            let incarnation = before.get(path).copied().unwrap_or(0);
            self.observer.recovered(&before, Some((path, incarnation)), self.sweep.patience).await;
        }
        drop(start_fails);
        timeout(self.sweep.patience, (self.load)()).await.is_ok()
    }

    /// Gives a supervisor messages by the death of a child, and holds them up where it is to wait.
    async fn stir(&self, point: &Point, child: &str, death: Death, armed: &mut Armed) {
        let tree = &self.observer.tree;
        let held = point.callback == Callback::Handle && matches!(point.at, At::Await(_));
        // One that is not there, or on its way out, is not held, and the point is not reached.
        let held = held && tree.suspend(&point.path).is_ok();
        let fault = match death {
            Death::Killed => Fault::Kill,
            Death::PanicsAndStartFails => Fault::Panic,
        };
        let _ = tree.inject(child, fault).await;
        if held {
            let _ = timeout(LINGER, armed.sprung()).await;
            let _ = tree.resume(&point.path);
        }
    }

    /// Waits until two more restarts of each are tolerated: a start that is swept costs a kill and a failed start.
    async fn affordable(&mut self, paths: [Option<&String>; 2]) -> bool {
        for path in paths.into_iter().flatten() {
            loop {
                self.observer.catch_up();
                match self.observer.afford(path, 2) {
                    Afford::Now => break,
                    Afford::At(moment) => sleep_until(moment).await,
                    Afford::Never => return false,
                }
            }
        }
        true
    }
}

/// What came of a point.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    /// The fault came.
    Sprung,
    /// The callback ended before that point.
    EndedBefore,
    /// The callback did not run.
    DidNotRun,
}

/// How a supervisor's child dies, so that the supervisor gets a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    Killed,
    PanicsAndStartFails,
}

/// Reached by the load, and not by a start or stop.
fn is_driven(callback: Callback) -> bool {
    matches!(callback, Callback::Handle | Callback::HandleEvent)
}
