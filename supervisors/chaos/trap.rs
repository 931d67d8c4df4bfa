//! A fault that waits for its moment in one place of the tree.
//!
//! The wrapper runs each callback through the [`Trap`] of its place. An unarmed trap costs one relaxed read. An armed
//! one counts how often the callback's future returns `Pending`, for only there can a kill land: after the n-th it acts,
//! and the future is not polled again before that.

use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use ractor::{ActorId, ActorProcessingErr, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

use super::{Fault, MessageKind};
use crate::Callback;
use crate::intensity::Intensity;
use crate::node::Node;
use crate::spec::Restart;

/// Traps armed in one place at a time; one more replaces the oldest.
const ARMED: usize = 64;
/// Kinds of callbacks that a record holds.
const RECORDED: usize = 1024;
/// What an actor says that failed or panicked here.
const INJECTED: &str = "injected fault";

/// Where within a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// Before its first line runs.
    Start,
    /// When it has had to wait so many times; the first is 1.
    Await(u32),
    /// When it has returned: for a message, between this one and the next.
    End,
}

/// The moment for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// In this callback; `None`: in whichever comes next.
    pub callback: Option<Callback>,
    /// Of messages, those of this kind only.
    pub kind: Option<MessageKind>,
    /// So many callbacks that match are let pass first.
    pub skip: u64,
    /// Where within it.
    pub at: At,
}

impl Moment {
    /// The next time that this callback is at this point.
    pub fn next(callback: Callback, at: At) -> Moment {
        Moment { callback: Some(callback), kind: None, skip: 0, at }
    }

    fn is_of(&self, occasion: &Occasion) -> bool {
        let callback = self.callback.is_none_or(|callback| callback == occasion.callback);
        callback && (self.kind.is_none() || self.kind == occasion.kind)
    }
}

/// A trap has sprung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sprung {
    /// When.
    pub at: Instant,
    /// In this incarnation of the actor.
    pub incarnation: u64,
    /// In this callback.
    pub callback: Callback,
    /// Of a message, its kind.
    pub kind: Option<MessageKind>,
}

/// Callbacks that were seen to begin, by kind of message.
pub(crate) type SeenCallbacks = BTreeSet<(Callback, Option<MessageKind>)>;

/// The traps of one place; clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trap(Arc<TrapState>);

#[derive(Debug, Default)]
struct TrapState {
    /// There is something to look at.
    busy: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tokens: u64,
    armed: Vec<Set>,
    record: Option<SeenCallbacks>,
    /// Actors that came to make this one run a callback.
    pokes: Vec<ActorId>,
    /// The callback that begins next is for a poke, and goes into no record.
    poked: bool,
    intensity: Option<Intensity>,
    /// When the supervisor here restarted a child, as far back as its window goes.
    restarts: VecDeque<Instant>,
    restart: Option<Restart>,
}

#[derive(Debug)]
struct Set {
    token: u64,
    moment: Moment,
    fault: Fault,
    /// For this incarnation only.
    only: Option<u64>,
    /// A callback that it is for has begun.
    met: Arc<AtomicBool>,
    tell: oneshot::Sender<Sprung>,
}

impl Set {
    fn is_of(&self, occasion: &Occasion) -> bool {
        self.only.is_none_or(|only| only == occasion.incarnation) && self.moment.is_of(occasion)
    }
}

/// A callback that is about to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occasion {
    incarnation: u64,
    callback: Callback,
    kind: Option<MessageKind>,
}

impl Occasion {
    pub(crate) fn new(incarnation: u64, callback: Callback, kind: Option<MessageKind>) -> Occasion {
        Occasion { incarnation, callback, kind }
    }
}

/// One callback on its way through, and what is armed for it.
struct Pass {
    occasion: Occasion,
    points: Vec<(u64, At)>,
}

impl Trap {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for faults from the next callback on; a callback under way is let go.
    pub(crate) fn arm(&self, moment: Moment, fault: Fault) -> Armed {
        self.arm_for(None, moment, fault)
    }

    /// Like [`Trap::arm`], for one incarnation: what it does not live to meet is not kept for its successor.
    pub(crate) fn arm_for(&self, only: Option<u64>, moment: Moment, fault: Fault) -> Armed {
        let met = Arc::new(AtomicBool::new(false));
        let (tell, sprung) = oneshot::channel();
        let mut inner = self.inner();
        inner.tokens += 1;
        let token = inner.tokens;
        if inner.armed.len() == ARMED {
            inner.armed.remove(0);
        }
        inner.armed.push(Set { token, moment, fault, only, met: Arc::clone(&met), tell });
        self.settle(&inner);
        Armed { trap: self.clone(), token, met, sprung, told: None }
    }

    fn disarm(&self, token: u64) {
        let mut inner = self.inner();
        inner.armed.retain(|set| set.token != token);
        self.settle(&inner);
    }

    fn settle(&self, inner: &Inner) {
        let busy = !inner.armed.is_empty() || inner.record.is_some() || !inner.pokes.is_empty();
        self.0.busy.store(busy, Ordering::SeqCst);
    }

    /// Starts a record, or takes the one that was started.
    pub(crate) fn record(&self, on: bool) -> SeenCallbacks {
        let mut inner = self.inner();
        inner.poked = false;
        let record = std::mem::replace(&mut inner.record, on.then(SeenCallbacks::new));
        self.settle(&inner);
        record.unwrap_or_default()
    }

    /// Events of this actor are for nobody.
    pub(crate) fn expect_poke(&self, poke: ActorId) {
        let mut inner = self.inner();
        inner.pokes.push(poke);
        self.settle(&inner);
    }

    /// Whether the event is that of a poke, which the actor must not hear.
    pub(crate) fn swallows(&self, event: &SupervisionEvent) -> bool {
        if !self.is_busy() {
            return false;
        }
        let Some(actor) = event.actor_id() else { return false };
        let mut inner = self.inner();
        let own = inner.pokes.contains(&actor);
        inner.poked = own;
        if own && !matches!(event, SupervisionEvent::ActorStarted(_)) {
            inner.pokes.retain(|poke| *poke != actor);
            self.settle(&inner);
        }
        own
    }

    /// Something is armed, recorded or expected: callbacks have to name their kind.
    fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed)
    }

    /// The kind of a message, if anything asks for it.
    pub(crate) fn kind(&self, kind: impl FnOnce() -> MessageKind) -> Option<MessageKind> {
        self.is_busy().then(kind)
    }

    /// Runs a callback, and what is armed for it.
    pub(crate) async fn through<T, F>(
        &self,
        myself: &Node,
        occasion: Occasion,
        mut future: Pin<&mut F>,
    ) -> Result<T, ActorProcessingErr>
    where
        F: Future<Output = Result<T, ActorProcessingErr>>,
    {
        if !self.is_busy() {
            return future.await;
        }
        let pass = self.enter(occasion);
        self.act(myself, &pass, At::Start).await?;
        let mut awaits = 0;
        let result = loop {
            let turn = poll_fn(|context| match future.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => {
                    awaits += 1;
                    if pass.has(At::Await(awaits)) { Poll::Ready(None) } else { Poll::Pending }
                }
            });
            match turn.await {
                Some(result) => break result,
                None => self.act(myself, &pass, At::Await(awaits)).await?,
            }
        };
        self.act(myself, &pass, At::End).await?;
        result
    }

    /// What is armed for a callback that begins.
    fn enter(&self, occasion: Occasion) -> Pass {
        let mut pass = Pass { occasion, points: Vec::new() };
        let mut inner = self.inner();
        let poked = std::mem::take(&mut inner.poked);
        if let Some(record) = inner.record.as_mut().filter(|record| !poked && record.len() < RECORDED) {
            record.insert((occasion.callback, occasion.kind));
        }
        for set in &mut inner.armed {
            if !set.is_of(&occasion) {
                continue;
            }
            match set.moment.skip.checked_sub(1) {
                Some(left) => set.moment.skip = left,
                None => {
                    set.met.store(true, Ordering::SeqCst);
                    pass.points.push((set.token, set.moment.at));
                }
            }
        }
        pass
    }

    /// Does what is armed for this point, if it still is.
    async fn act(&self, myself: &Node, pass: &Pass, at: At) -> Result<(), ActorProcessingErr> {
        for (token, _) in pass.points.iter().filter(|point| point.1 == at) {
            let Some(fault) = self.spring(*token, pass) else { continue };
            match fault {
                Fault::Kill => {
                    myself.kill_all();
                    // Past its end a callback has returned; elsewhere it is never polled again.
                    if at != At::End {
                        pending::<()>().await;
                    }
                }
                Fault::Panic => panic!("{INJECTED}"),
                Fault::Stall(pause) => sleep(pause).await,
                Fault::Error => return Err(INJECTED.into()),
            }
        }
        Ok(())
    }

    /// Takes a trap out, and tells who armed it.
    fn spring(&self, token: u64, pass: &Pass) -> Option<Fault> {
        let mut inner = self.inner();
        let place = inner.armed.iter().position(|set| set.token == token)?;
        let set = inner.armed.remove(place);
        self.settle(&inner);
        let Occasion { incarnation, callback, kind } = pass.occasion;
        let _ = set.tell.send(Sprung { at: Instant::now(), incarnation, callback, kind });
        Some(set.fault)
    }

    // --- what the kit tells of a place

    /// This place is a supervisor's, of this intensity, and its window is empty.
    pub(crate) fn supervises(&self, intensity: Intensity) {
        let mut inner = self.inner();
        inner.intensity = Some(intensity);
        inner.restarts.clear();
    }

    /// The supervisor here restarts a child.
    pub(crate) fn restarts(&self, now: Instant) {
        let mut inner = self.inner();
        let period = inner.intensity.map_or(Duration::ZERO, |intensity| intensity.period);
        inner.restarts.push_back(now);
        while inner.restarts.front().is_some_and(|at| now.duration_since(*at) > period) {
            inner.restarts.pop_front();
        }
    }

    /// What the window of the supervisor here holds, the oldest first. One that is exactly a period old still counts.
    pub(crate) fn window(&self, now: Instant) -> Option<(Intensity, Vec<Instant>)> {
        let inner = self.inner();
        let intensity = inner.intensity?;
        let counts = inner.restarts.iter().filter(|at| now.duration_since(**at) <= intensity.period);
        Some((intensity, counts.copied().collect()))
    }

    /// The child here is restarted so, and begins a new incarnation: what was meant for the one before is over.
    pub(crate) fn begins(&self, restart: Restart) {
        let mut inner = self.inner();
        inner.restart = Some(restart);
        inner.armed.retain(|set| set.only.is_none());
        inner.pokes.clear();
        self.settle(&inner);
    }

    pub(crate) fn restart(&self) -> Option<Restart> {
        self.inner().restart
    }
}

impl Pass {
    fn has(&self, at: At) -> bool {
        self.points.iter().any(|point| point.1 == at)
    }
}

/// An armed trap. Dropping it disarms it.
#[derive(Debug)]
pub struct Armed {
    trap: Trap,
    token: u64,
    met: Arc<AtomicBool>,
    sprung: oneshot::Receiver<Sprung>,
    told: Option<Sprung>,
}

impl Armed {
    /// Waits until it springs; for ever, if another trap has replaced it. Safe to be dropped half way.
    pub async fn sprung(&mut self) -> Sprung {
        if let Some(told) = self.told {
            return told;
        }
        match (&mut self.sprung).await {
            Ok(sprung) => *self.told.insert(sprung),
            Err(_replaced) => pending().await,
        }
    }

    /// Whether it has sprung.
    pub fn has_sprung(&mut self) -> Option<Sprung> {
        self.told = self.told.or_else(|| self.sprung.try_recv().ok());
        self.told
    }

    /// A callback that it is for has begun, whether or not that came to the point.
    pub(crate) fn is_met(&self) -> bool {
        self.met.load(Ordering::SeqCst)
    }

    /// It has sprung, or never will.
    pub(crate) fn is_over(&mut self) -> bool {
        self.has_sprung().is_some() || self.sprung.is_terminated()
    }

    /// Stays armed whatever becomes of this handle.
    pub fn leave(mut self) {
        self.token = 0;
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        if self.token != 0 {
            self.trap.disarm(self.token);
        }
    }
}
