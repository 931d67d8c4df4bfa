//! The supervisor actor: a thin shell around [`Machine`].
//!
//! Turns exit events and minders' reports into events of the machine, and its effects into orders. It never awaits a
//! child in a handler, so it always reads its mailbox; only `post_stop`, which nothing follows, awaits the ordered stop
//! of what is left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::exit::{Exit, SHUTDOWN};
use crate::minder::{AbortOnDrop, KILL_WAIT, Minder, Report};
use crate::node::{Berth, Node};
use crate::reports::News;
use crate::spec::{ChildSpec, Shutdown, SupervisorSpec};
use crate::strategy::{Effect, Event, Failure, Machine, Verdict};
use crate::vitals::Callback;

/// The actor; all it knows is in its state.
pub(crate) struct Supervisor;

/// What a supervisor starts from.
pub(crate) struct Setup {
    pub(crate) spec: Arc<SupervisorSpec>,
    pub(crate) berth: Berth,
    /// Told once whether all children came up.
    pub(crate) boot: oneshot::Sender<Result<(), Failure>>,
}

/// What a supervisor is told by its own tasks.
pub(crate) enum Msg {
    /// From the minder of a child.
    Report { child: usize, incarnation: u64, report: Report },
    /// The backoff of a child is over.
    Elapsed { child: usize, ticket: u64 },
    /// The predecessor's subtree is gone, or will not go.
    Predecessor(Result<(), Failure>),
}

/// A supervisor's state.
pub(crate) struct State {
    myself: ActorRef<Msg>,
    spec: Arc<SupervisorSpec>,
    berth: Berth,
    machine: Machine,
    posts: Vec<Post>,
    boot: Option<oneshot::Sender<Result<(), Failure>>>,
    tickets: u64,
    /// Waits for the predecessor's subtree.
    waiting: Option<AbortOnDrop>,
}

/// The shell's side of one child.
#[derive(Default)]
struct Post {
    minder: Option<Minder>,
    /// What the actor said of its end; the minder's report follows it.
    exit: Option<Exit>,
    delay: Option<(u64, AbortOnDrop)>,
}

impl Actor for Supervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Setup;

    async fn pre_start(&self, myself: ActorRef<Msg>, setup: Setup) -> Result<State, ActorProcessingErr> {
        let Setup { spec, berth, boot } = setup;
        berth.claim(myself.get_cell());
        #[cfg(feature = "chaos")]
        berth.node.trap.supervises(spec.intensity);
        let terms = spec.children.iter().map(|child| (child.restart, child.backoff));
        let machine = Machine::new(spec.strategy, spec.intensity, terms);
        let posts = spec.children.iter().map(|_| Post::default()).collect();
        Ok(State { myself, spec, berth, machine, posts, boot: Some(boot), tickets: 0, waiting: None })
    }

    async fn post_start(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.wait_for_predecessor();
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let node = Arc::clone(state.node());
        let busy = node.pulse.enter(Callback::Handle);
        match msg {
            Msg::Report { child, incarnation, report } => state.reported(child, incarnation, report),
            Msg::Elapsed { child, ticket } => state.elapsed(child, ticket),
            Msg::Predecessor(Ok(())) => state.step(Event::Boot),
            Msg::Predecessor(Err(failure)) => state.exit(Verdict::StartFailed(failure)),
        }
        busy.handled(false);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let node = Arc::clone(state.node());
        let _busy = node.pulse.enter(Callback::HandleEvent);
        #[cfg(feature = "chaos")]
        {
            node.trap.swallows(&event);
            node.trap.event(&state.myself).await?;
        }
        let exit = event.actor_id().zip(Exit::from_event(&event));
        // A worker's event carries nothing (see `supervised`); one of an actor that someone else linked here may carry a
        // state whose drop panics.
        if catch_unwind(AssertUnwindSafe(|| drop(event))).is_err() {
            tracing::error!(path = %state.node().path, "a state inside an exit event panicked while it was dropped");
        }
        if let Some((actor, exit)) = exit {
            let child = state.node().children.iter().position(|child| child.exiting(actor, &exit));
            // An actor that someone else linked here is not ours to restart.
            if let Some(child) = child {
                state.posts[child].exit = Some(exit);
            }
        }
        Ok(())
    }

    /// Reached without the machine being done when someone stopped this actor: its parent, in an ordered stop, or
    /// anyone who holds its cell.
    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let node = Arc::clone(state.node());
        let _busy = node.pulse.enter(Callback::PostStop);
        state.waiting = None;
        if !state.machine.is_done() {
            state.step(Event::Shutdown);
        }
        // Messages are not read any more, so each stop is awaited here.
        while let Some(child) = state.machine.awaited() {
            let minder = state.posts[child].minder.as_mut();
            let report = minder.expect("a child that is being stopped has a minder").end().await;
            state.feed(child, report);
        }
        Ok(())
    }
}

impl State {
    fn node(&self) -> &Arc<Node> {
        &self.berth.node
    }

    /// A predecessor that was killed took its join handles with it, and `ractor` does not wait for its subtree.
    fn wait_for_predecessor(&mut self) {
        let node = Arc::clone(self.node());
        if node.live_below().is_empty() {
            return self.step(Event::Boot);
        }
        let myself = self.myself.clone();
        self.waiting = Some(AbortOnDrop::spawn(async move {
            node.kill_subtree();
            let gone = timeout(KILL_WAIT, node.subtree_gone()).await.map_err(|_elapsed| {
                let alive = node.live_below().join(", ");
                Failure { path: node.path.clone(), reason: format!("{alive} of its predecessor is still alive") }
            });
            let _ = myself.send_message(Msg::Predecessor(gone));
        }));
    }

    fn reported(&mut self, child: usize, incarnation: u64, report: Report) {
        let current = self.posts[child].minder.as_ref().map(|minder| minder.incarnation);
        if current == Some(incarnation) {
            self.feed(child, report);
        }
    }

    fn elapsed(&mut self, child: usize, ticket: u64) {
        let current = self.posts[child].delay.as_ref().map(|(ticket, _)| *ticket);
        if current == Some(ticket) {
            self.posts[child].delay = None;
            self.step(Event::Elapsed(child));
        }
    }

    /// A report of the current incarnation of a child.
    fn feed(&mut self, child: usize, report: Report) {
        let event = match report {
            Report::Started => {
                self.tell(child, News::Started);
                return self.step(Event::Started(child));
            }
            Report::StartFailed(failure) => {
                let Failure { reason, path } = failure.clone();
                self.tell(child, News::StartFailed { reason, at: path });
                Event::StartFailed(child, failure)
            }
            Report::Gone(fallback) => {
                let exit = self.posts[child].exit.take().unwrap_or(fallback);
                self.tell(child, News::Exited { reason: exit.reason.clone(), normal: exit.normal });
                Event::Gone(child, exit)
            }
            Report::Stuck(reason) => {
                self.tell(child, News::Stuck { reason: reason.clone() });
                Event::Stuck(child, reason)
            }
        };
        self.posts[child].minder = None;
        self.posts[child].exit = None;
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        for effect in self.machine.step(Instant::now(), event) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start(child) => self.start(child),
            Effect::Stop { child, hurry } => {
                let how = self.stop_how(&self.spec.children[child], hurry);
                if let Some(minder) = &self.posts[child].minder {
                    minder.stop(how);
                }
            }
            Effect::Delay { child, attempt } => self.delay(child, attempt),
            Effect::Restarting { child, reason, in_window } => {
                self.node().children[child].restarting();
                let allowed = self.spec.intensity.restarts as usize;
                self.tell(child, News::Restarting { reason, in_window, allowed });
            }
            Effect::Forget(child) => self.node().children[child].forget(),
            Effect::Ready => {
                if let Some(boot) = self.boot.take() {
                    let _ = boot.send(Ok(()));
                }
            }
            Effect::Exit(verdict) => self.exit(verdict),
        }
    }

    fn start(&mut self, child: usize) {
        let node = &self.berth.node.children[child];
        let minder = Minder::start(&self.spec.children[child], child, node, self.myself.clone());
        self.posts[child] = Post { minder: Some(minder), ..Post::default() };
    }

    fn delay(&mut self, child: usize, attempt: u32) {
        let Some(backoff) = self.spec.children[child].backoff else {
            return self.step(Event::Elapsed(child));
        };
        self.tickets += 1;
        let ticket = self.tickets;
        let pause = backoff.delay(attempt, rand::random());
        let myself = self.myself.clone();
        let timer = AbortOnDrop::spawn(async move {
            sleep(pause).await;
            let _ = myself.send_message(Msg::Elapsed { child, ticket });
        });
        self.posts[child].delay = Some((ticket, timer));
    }

    /// A sibling of a child that failed gets the grace, where that is less than its own time.
    fn stop_how(&self, spec: &ChildSpec, hurry: bool) -> Shutdown {
        match (spec.shutdown, self.spec.shutdown_grace_elder) {
            (Shutdown::Timeout(own), Some(grace)) if hurry => Shutdown::Timeout(own.min(grace)),
            (Shutdown::Infinity, Some(grace)) if hurry => Shutdown::Timeout(grace),
            (own, _) => own,
        }
    }

    /// All children are gone.
    fn exit(&mut self, verdict: Verdict) {
        for child in self.node().children.iter().filter(|child| !child.is_live()) {
            child.stopped();
        }
        let (conclusion, reason) = match verdict {
            Verdict::Shutdown => {
                self.node().tell(News::Stopped);
                (Ok(()), SHUTDOWN.to_owned())
            }
            Verdict::StartFailed(failure) => {
                let reason = format!("shutdown: {} did not start: {}", failure.path, failure.reason);
                (Err(failure), reason)
            }
            Verdict::Escalated { child, reason } => {
                let failure = Failure { path: self.node().children[child].path.clone(), reason };
                let news = News::GaveUp { child: failure.path.clone(), reason: failure.reason.clone() };
                self.node().tell(news);
                let reason = format!("shutdown: gave up on {}: {}", failure.path, failure.reason);
                (Err(failure), reason)
            }
        };
        self.node().conclude(self.berth.incarnation, conclusion.clone());
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
    fn tell(&self, child: usize, news: News) {
        self.node().children[child].tell(news);
    }
}
