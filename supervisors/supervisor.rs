//! The supervisor actor: a thin shell around [`Machine`].
//!
//! Turns exit events and minders' reports into events of the machine, and its effects into orders. It never awaits a
//! child in a handler, so it always reads its mailbox, unless it is suspended; only `post_stop`, which nothing follows,
//! awaits the ordered stop of what is left. Requests about single children are in `control`, each callback's way past
//! chaos and past death in `turn`.

mod control;
mod parked;
mod turn;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::dynamic::DynamicSpec;
use crate::exit::{Exit, KILLED, SHUTDOWN};
use crate::gone::Alive;
use crate::minder::{AbortOnDrop, Minder, Report};
use crate::node::{Incarnation, Node};
use crate::reports::{Event, Loudness};
use crate::requests::Control;
use crate::spec::{Body, ChildSpec, Restart, Shutdown, Strategy, SupervisorSpec};
use crate::strategy::{Effect, Failure, Input, Machine, Place, Rules, Verdict};
use crate::supervised::Kept;
use crate::vitals::Callback;

use control::Asker;
use parked::Parked;
use turn::Turn;

/// The actor; all it knows is in its state. As in `supervised`, that is not the `ractor` state, which would go into the
/// exit event: who waits for an answer, and the minders of children that start, would learn of a death only when the
/// parent reads its events, which one in its `post_stop` never does, and a foreign one when it likes.
pub(crate) struct Supervisor {
    state: Kept<State>,
    /// What those who wait for an answer watch.
    alive: Alive,
}

/// What a supervisor starts from.
pub(crate) struct Setup {
    pub(crate) orders: Orders,
    pub(crate) incarnation: Incarnation,
    /// Told once whether all children came up.
    pub(crate) boot: oneshot::Sender<Result<(), Failure>>,
}

/// What kind of supervisor it is.
#[derive(Clone, Debug)]
pub(crate) enum Orders {
    Static(Arc<SupervisorSpec>),
    Dynamic(Arc<DynamicSpec>),
}

/// What a supervisor is told by its own tasks, and asked by others.
pub(crate) enum Msg {
    /// From the minder of a child.
    Report { child: Place, incarnation: u64, report: Report },
    /// The backoff of a child is over.
    Elapsed { child: Place, ticket: u64 },
    /// Someone asks for something.
    Control(Control),
}

#[cfg(feature = "chaos")]
impl Msg {
    /// With what a minder reports, or what is asked.
    fn kind(&self) -> crate::chaos::MessageKind {
        match self {
            Msg::Report { report, .. } => crate::chaos::kind_of(self).within(report),
            Msg::Elapsed { .. } => crate::chaos::kind_of(self),
            Msg::Control(control) => crate::chaos::kind_of(self).within(control),
        }
    }
}

/// A supervisor's state.
pub(crate) struct State {
    myself: ActorRef<Msg>,
    orders: Orders,
    rules: Rules,
    incarnation: Incarnation,
    machine: Machine,
    posts: BTreeMap<Place, Post>,
    ids: HashMap<String, Place>,
    /// The place of the next child that is added.
    next_place: Place,
    /// Requests that wait for their turn.
    parked: Parked,
    boot: Option<oneshot::Sender<Result<(), Failure>>>,
    tickets: u64,
    /// Path of the significant child that ended last.
    last_significant: Option<String>,
}

/// The shell's side of one child.
struct Post {
    spec: ChildSpec,
    node: Arc<Node>,
    minder: Option<Minder>,
    /// The actor that came up last.
    actor: Option<ActorCell>,
    /// What the actor said of its end; the minder's report follows it.
    exit: Option<Exit>,
    delay: Option<(u64, AbortOnDrop)>,
    /// Who waits for the outcome of a request.
    askers: Vec<Asker>,
}

impl Orders {
    fn rules(&self) -> Rules {
        match self {
            Orders::Static(spec) => Rules {
                strategy: spec.strategy,
                intensity: spec.intensity,
                auto_shutdown: spec.auto_shutdown,
                dynamic: false,
            },
            Orders::Dynamic(spec) => Rules {
                strategy: Strategy::OneForOne,
                intensity: spec.template.intensity,
                auto_shutdown: spec.template.auto_shutdown,
                dynamic: true,
            },
        }
    }

    fn children(&self) -> &[ChildSpec] {
        match self {
            Orders::Static(spec) => &spec.children,
            Orders::Dynamic(_) => &[],
        }
    }

    fn grace_elder(&self) -> Option<tokio::time::Duration> {
        match self {
            Orders::Static(spec) => spec.sibling_shutdown,
            Orders::Dynamic(_) => None,
        }
    }
}

impl Supervisor {
    pub(crate) fn new() -> Supervisor {
        Supervisor { state: Kept::new(), alive: Alive::new() }
    }
}

impl Actor for Supervisor {
    type Msg = Msg;
    type State = ();
    type Arguments = Setup;

    async fn pre_start(&self, myself: ActorRef<Msg>, setup: Setup) -> Result<(), ActorProcessingErr> {
        setup.incarnation.claim(myself.get_cell(), Some(self.alive.watch()));
        let turn = Turn::new(&setup.incarnation, Callback::PreStart);
        let state = turn.run(pin!(async { State::new(myself, setup) })).await?;
        self.state.put(Box::new(state));
        Ok(())
    }

    /// Nothing of a predecessor is left: its minder has seen to that before this one was started.
    async fn post_start(&self, _: ActorRef<Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        let turn = Turn::new(&state.incarnation, Callback::PostStart);
        turn.run(pin!(async {
            state.boot();
            Ok(())
        }))
        .await?;
        self.state.put(state);
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        let turn = Turn::new(&state.incarnation, Callback::Handle);
        #[cfg(feature = "chaos")]
        let turn = turn.of(|| msg.kind());
        turn.run(pin!(async {
            let node = Arc::clone(state.node());
            node.pulse.awake().await;
            let busy = node.pulse.enter(Callback::Handle);
            match msg {
                Msg::Report { child, incarnation, report } => state.reported(child, incarnation, report),
                Msg::Elapsed { child, ticket } => state.elapsed(child, ticket),
                Msg::Control(control) => state.control(control),
            }
            state.retry_parked();
            busy.handled(false);
            Ok(())
        }))
        .await?;
        self.state.put(state);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Msg>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        // One that came to make this run a callback is no child, and nobody hears of it.
        #[cfg(feature = "chaos")]
        state.node().trap.swallows(&event);
        let turn = Turn::new(&state.incarnation, Callback::HandleEvent);
        #[cfg(feature = "chaos")]
        let turn = turn.of(|| crate::chaos::kind_of(&event));
        turn.run(pin!(async {
            let node = Arc::clone(state.node());
            let _busy = node.pulse.enter(Callback::HandleEvent);
            state.hear(event);
            Ok(())
        }))
        .await?;
        self.state.put(state);
        Ok(())
    }

    /// Reached without the machine being done when someone stopped this actor: its parent, in an ordered stop, or
    /// anyone who holds its cell.
    async fn post_stop(&self, _: ActorRef<Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        let turn = Turn::new(&state.incarnation, Callback::PostStop);
        turn.run(pin!(async {
            let node = Arc::clone(state.node());
            let _busy = node.pulse.enter(Callback::PostStop);
            state.stop_all().await;
            Ok(())
        }))
        .await
    }
}

impl State {
    fn new(myself: ActorRef<Msg>, Setup { orders, incarnation, boot }: Setup) -> Result<State, ActorProcessingErr> {
        if let Orders::Dynamic(spec) = &orders {
            spec.settle(&incarnation.node)?;
        }
        let rules = orders.rules();
        #[cfg(feature = "chaos")]
        incarnation.node.trap.supervises(rules.intensity);
        let machine = Machine::new(rules, orders.children().iter().map(ChildSpec::terms));
        Ok(State {
            myself,
            orders,
            rules,
            incarnation,
            machine,
            posts: BTreeMap::new(),
            ids: HashMap::new(),
            next_place: 0,
            parked: Parked::default(),
            boot: Some(boot),
            tickets: 0,
            last_significant: None,
        })
    }

    fn node(&self) -> &Arc<Node> {
        &self.incarnation.node
    }

    fn boot(&mut self) {
        let node = Arc::clone(self.node());
        node.furnish(self.orders.children());
        let specs = self.orders.children().to_vec();
        for (spec, node) in specs.into_iter().zip(node.children()) {
            self.take_on(spec, node);
        }
        self.step(Input::Boot);
    }

    /// An actor that is linked here, a child most often, has ended (or begun).
    fn hear(&mut self, event: SupervisionEvent) {
        let exit = event.actor_id().zip(Exit::from_event(&event));
        // A worker's event carries nothing (see `supervised`); one of an actor that someone else linked here may carry a
        // state whose drop panics.
        if catch_unwind(AssertUnwindSafe(|| drop(event))).is_err() {
            tracing::error!(path = %self.node().path, "a state inside an exit event panicked while it was dropped");
        }
        let Some((actor, exit)) = exit else { return };
        // An actor that someone else linked here is not ours to restart.
        let child = self.node().claimed(actor);
        if let Some(post) = child.and_then(|child| self.posts.get_mut(&child))
            && post.node.exiting(actor, &exit)
        {
            post.exit = Some(exit);
        }
    }

    /// Stops what is left, in order. Messages are not read any more, so each stop is awaited here.
    async fn stop_all(&mut self) {
        if !self.machine.is_done() {
            self.step(Input::Shutdown);
        }
        // A child that waits for its answer could not stop. So those that are being stopped on request come first.
        self.refuse_parked();
        let asked: Vec<Place> =
            self.posts.iter().filter(|(_, post)| !post.askers.is_empty()).map(|(place, _)| *place).collect();
        for child in asked {
            self.await_end(child).await;
        }
        while let Some(child) = self.machine.awaited() {
            self.await_end(child).await;
        }
    }

    async fn await_end(&mut self, child: Place) {
        let minder = self.post(child).minder.as_mut();
        let report = minder.expect("a child that is being stopped has a minder").end().await;
        self.feed(child, report);
    }

    /// One more child, at the next place.
    fn take_on(&mut self, spec: ChildSpec, node: Arc<Node>) -> &mut Post {
        let place = self.next_place;
        self.next_place += 1;
        self.ids.insert(spec.id.clone(), place);
        let post = Post { spec, node, minder: None, actor: None, exit: None, delay: None, askers: Vec::new() };
        self.posts.entry(place).or_insert(post)
    }

    fn post(&mut self, child: Place) -> &mut Post {
        self.posts.get_mut(&child).expect("the machine speaks of children only")
    }

    fn reported(&mut self, child: Place, incarnation: u64, report: Report) {
        let minder = self.posts.get(&child).and_then(|post| post.minder.as_ref());
        let current = minder.map(|minder| minder.incarnation);
        if current == Some(incarnation) {
            self.feed(child, report);
        }
    }

    fn elapsed(&mut self, child: Place, ticket: u64) {
        let delay = self.posts.get(&child).and_then(|post| post.delay.as_ref());
        if delay.is_some_and(|(current, _)| *current == ticket) {
            self.post(child).delay = None;
            self.stir(child);
            self.step(Input::Elapsed(child));
        }
    }

    /// Something happened to this child: requests about it may have their turn.
    fn stir(&mut self, child: Place) {
        if let Some(post) = self.posts.get(&child) {
            self.parked.stir(&post.spec.id);
        }
    }

    /// A report of the current incarnation of a child.
    fn feed(&mut self, child: Place, report: Report) {
        self.stir(child);
        let event = match report {
            Report::Started(actor) => {
                self.tell(child, Event::Started);
                let post = self.post(child);
                post.actor = Some(actor);
                if post.spec.restart == Restart::Temporary {
                    post.spec.body = Body::Spent;
                }
                return self.step(Input::Started(child));
            }
            Report::Ignored => {
                self.tell(child, Event::Ignored);
                Input::Ignored(child)
            }
            Report::StartFailed(failure) => {
                let Failure { reason, path } = failure.clone();
                // Where this one is starting itself, it fails with the same reason.
                let loudness = if self.boot.is_some() { Loudness::Aside } else { Loudness::Usual };
                self.posts[&child].node.tell_as(Event::StartFailed { reason, at: path }, loudness);
                Input::StartFailed(child, failure)
            }
            Report::Gone(fallback) => {
                let exit = self.post(child).exit.take().unwrap_or(fallback);
                let post = &self.posts[&child];
                if post.spec.significant && !self.machine.is_exiting() {
                    self.last_significant = Some(post.node.path.clone());
                }
                // Its specification wants it killed.
                let as_told = exit.reason == KILLED
                    && post.spec.shutdown == Shutdown::BrutalKill
                    && self.machine.is_stopping(child);
                self.tell(child, Event::Exited { reason: exit.reason.clone(), normal: exit.normal || as_told });
                Input::Gone(child, exit)
            }
            Report::Stuck(reason) => {
                self.tell(child, Event::Stuck { reason: reason.clone() });
                Input::Stuck(child, reason)
            }
        };
        self.incarnation.node.unclaim(&self.posts[&child].node);
        let post = self.post(child);
        post.minder = None;
        post.exit = None;
        post.actor = None;
        self.step(event);
    }

    fn step(&mut self, event: Input) {
        let effects = self.machine.step(Instant::now(), event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        if let Some(child) = effect.child() {
            self.stir(child);
        }
        match effect {
            Effect::Start(child) => self.start(child),
            Effect::Stop { child, hurry } => {
                let post = &self.posts[&child];
                let how = self.stop_how(&post.spec, hurry);
                if let Some(minder) = &post.minder {
                    minder.stop(how);
                }
            }
            Effect::Delay { child, attempt } => self.delay(child, attempt),
            Effect::Restarting { child, reason, in_window } => {
                #[cfg(feature = "chaos")]
                self.node().trap.restarts(Instant::now());
                self.posts[&child].node.restarting();
                let allowed = self.rules.intensity.restarts as usize;
                self.tell(child, Event::Restarting { reason, in_window, allowed });
            }
            Effect::Forget(child) => self.forget(child),
            Effect::Answer(child, outcome) => self.answer(child, outcome),
            Effect::Ready => {
                if let Some(boot) = self.boot.take() {
                    let _ = boot.send(Ok(()));
                }
            }
            Effect::Exit(verdict) => self.exit(verdict),
        }
    }

    fn start(&mut self, child: Place) {
        let myself = self.myself.clone();
        let post = self.post(child);
        post.delay = None;
        post.minder = Some(Minder::start(&post.spec, child, &post.node, myself));
    }

    fn delay(&mut self, child: Place, attempt: u32) {
        let Some(backoff) = self.posts[&child].spec.backoff else {
            return self.step(Input::Elapsed(child));
        };
        self.tickets += 1;
        let ticket = self.tickets;
        let pause = backoff.delay(attempt, rand::random());
        let myself = self.myself.clone();
        let timer = AbortOnDrop::spawn(async move {
            sleep(pause).await;
            let _ = myself.send_message(Msg::Elapsed { child, ticket });
        });
        self.post(child).delay = Some((ticket, timer));
    }

    fn forget(&mut self, child: Place) {
        self.incarnation.node.remove(child);
        if let Some(post) = self.posts.remove(&child) {
            self.ids.remove(&post.spec.id);
        }
    }

    /// A sibling of a child that failed gets the grace, where that is less than its own time.
    fn stop_how(&self, spec: &ChildSpec, hurry: bool) -> Shutdown {
        match (spec.shutdown, self.orders.grace_elder()) {
            (Shutdown::Timeout(own), Some(grace)) if hurry => Shutdown::Timeout(own.min(grace)),
            (Shutdown::Infinity, Some(grace)) if hurry => Shutdown::Timeout(grace),
            (own, _) => own,
        }
    }

    /// All children are gone.
    fn exit(&mut self, verdict: Verdict) {
        self.node().all_stopped();
        self.refuse_parked();
        let (conclusion, reason) = match verdict {
            Verdict::AutoShutdown => {
                let child = self.last_significant.take().unwrap_or_default();
                self.node().tell(Event::AutoShutdown { child });
                (Ok(()), SHUTDOWN.to_owned())
            }
            Verdict::Shutdown => {
                self.node().tell(Event::Stopped);
                (Ok(()), SHUTDOWN.to_owned())
            }
            Verdict::StartFailed(failure) => {
                let reason = format!("shutdown: {} did not start: {}", failure.path, failure.reason);
                (Err(failure), reason)
            }
            Verdict::Escalated { child, reason } => {
                let failure = Failure { path: self.posts[&child].node.path.clone(), reason };
                let event = Event::GaveUp { child: failure.path.clone(), reason: failure.reason.clone() };
                self.node().tell(event);
                let reason = format!("shutdown: gave up on {}: {}", failure.path, failure.reason);
                (Err(failure), reason)
            }
        };
        self.node().conclude(self.incarnation.number, conclusion.clone());
        let failure = conclusion.err().unwrap_or_else(|| self.failure("it was stopped"));
        if let Some(boot) = self.boot.take() {
            let _ = boot.send(Err(failure));
        }
        // When this is already stopping, the reason it was stopped with stands.
        self.myself.stop(Some(reason));
    }

    fn failure(&self, reason: &str) -> Failure {
        Failure { path: self.node().path.clone(), reason: reason.to_owned() }
    }

    /// Tells what happened to a child.
    fn tell(&self, child: Place, event: Event) {
        self.posts[&child].node.tell(event);
    }
}
