//! What a supervisor knows, and how what it is told becomes an input of its machine.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ractor::{ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::message::{Msg, Orders, Setup};
use super::parked::Parked;
use crate::exit::{Exit, KILLED};
use crate::minder::{AbortOnDrop, Minder, MinderReport};
use crate::node::{Incarnation, Node};
use crate::reports::{Event, Loudness};
use crate::requests::{Reply, Started};
use crate::spec::{Body, ChildSpec, Restart, Shutdown};
use crate::strategy::{Input, Machine, Place, Rules, StartFailure};

/// A supervisor's state.
pub(crate) struct State {
    pub(super) myself: ActorRef<Msg>,
    pub(super) orders: Orders,
    pub(super) rules: Rules,
    pub(super) incarnation: Incarnation,
    pub(super) machine: Machine,
    pub(super) posts: BTreeMap<Place, Post>,
    pub(super) ids: HashMap<String, Place>,
    /// The place of the next child that is added.
    pub(super) next_place: Place,
    /// Requests that wait for their turn.
    pub(super) parked: Parked,
    pub(super) boot: Option<oneshot::Sender<Result<(), StartFailure>>>,
    pub(super) tickets: u64,
    /// Path of the significant child that ended last.
    pub(super) last_significant: Option<String>,
}

/// The shell's side of one child.
pub(super) struct Post {
    pub(super) spec: ChildSpec,
    pub(super) node: Arc<Node>,
    pub(super) minder: Option<Minder>,
    /// The actor that came up last.
    pub(super) actor: Option<ActorCell>,
    /// What the actor said of its end; the minder's report follows it.
    pub(super) exit: Option<Exit>,
    pub(super) delay: Option<(u64, AbortOnDrop)>,
    /// Who waits for the outcome of a request.
    pub(super) askers: Vec<Asker>,
}

/// Who waits for the outcome of a request about a child.
pub(super) enum Asker {
    Start(Reply<Started>),
    End(Reply<()>),
}

impl State {
    pub(super) fn new(
        myself: ActorRef<Msg>,
        Setup { orders, incarnation, boot }: Setup,
    ) -> Result<State, ActorProcessingErr> {
        if let Orders::Dynamic(spec) = &orders {
            spec.settle(&incarnation.node)?;
        }
        let rules = orders.rules();
        incarnation.node.hook.supervises(rules.intensity);
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

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.incarnation.node
    }

    pub(super) fn boot(&mut self) {
        let node = Arc::clone(self.node());
        node.furnish(self.orders.children());
        let specs = self.orders.children().to_vec();
        for (spec, node) in specs.into_iter().zip(node.children()) {
            self.take_on(spec, node);
        }
        self.step(Input::Boot);
    }

    /// An actor that is linked here, a child most often, has ended (or begun).
    pub(super) fn hear(&mut self, event: SupervisionEvent) {
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
    pub(super) async fn stop_all(&mut self) {
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
    pub(super) fn take_on(&mut self, spec: ChildSpec, node: Arc<Node>) -> &mut Post {
        let place = self.next_place;
        self.next_place += 1;
        self.ids.insert(spec.id.clone(), place);
        let post = Post { spec, node, minder: None, actor: None, exit: None, delay: None, askers: Vec::new() };
        self.posts.entry(place).or_insert(post)
    }

    pub(super) fn post(&mut self, child: Place) -> &mut Post {
        self.posts.get_mut(&child).expect("the machine speaks of children only")
    }

    pub(super) fn reported(&mut self, child: Place, incarnation: u64, report: MinderReport) {
        let minder = self.posts.get(&child).and_then(|post| post.minder.as_ref());
        let current = minder.map(|minder| minder.incarnation);
        if current == Some(incarnation) {
            self.feed(child, report);
        }
    }

    pub(super) fn elapsed(&mut self, child: Place, ticket: u64) {
        let delay = self.posts.get(&child).and_then(|post| post.delay.as_ref());
        if delay.is_some_and(|(current, _)| *current == ticket) {
            self.post(child).delay = None;
            self.stir(child);
            self.step(Input::Elapsed(child));
        }
    }

    /// Something happened to this child: requests about it may have their turn.
    pub(super) fn stir(&mut self, child: Place) {
        if let Some(post) = self.posts.get(&child) {
            self.parked.stir(&post.spec.id);
        }
    }

    /// A report of the current incarnation of a child.
    fn feed(&mut self, child: Place, report: MinderReport) {
        self.stir(child);
        let event = match report {
            MinderReport::Started(actor) => {
                self.tell(child, Event::Started);
                let post = self.post(child);
                post.actor = Some(actor);
                if post.spec.restart == Restart::Temporary {
                    post.spec.body = Body::Spent;
                }
                return self.step(Input::Started(child));
            }
            MinderReport::Ignored => {
                self.tell(child, Event::Ignored);
                Input::Ignored(child)
            }
            MinderReport::StartFailed(failure) => {
                let StartFailure { reason, path } = failure.clone();
                // Where this one is starting itself, it fails with the same reason.
                let loudness = if self.boot.is_some() { Loudness::Aside } else { Loudness::Usual };
                self.posts[&child].node.tell_as(Event::StartFailed { reason, at: path }, loudness);
                Input::StartFailed(child, failure)
            }
            MinderReport::Gone(fallback) => {
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
            MinderReport::Stuck(reason) => {
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

    pub(super) fn step(&mut self, event: Input) {
        let effects = self.machine.step(Instant::now(), event);
        self.carry_out(effects);
    }

    /// Tells what happened to a child.
    pub(super) fn tell(&self, child: Place, event: Event) {
        self.posts[&child].node.tell(event);
    }
}
