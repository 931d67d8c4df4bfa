//! One place in the tree, outside any actor's state.
//!
//! A tree's nodes are made from its spec and outlive every incarnation of the actors in them; those of children that come
//! and go do so with them. They hold what snapshots read, and the count of what is still alive in each place: when a
//! supervisor dies, its join handles die with it, and these counts are how its minder knows that all below it is gone, so
//! that a successor may start. Nothing here decides anything.

mod facts;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ractor::{ActorCell, ActorId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exit::Exit;
use crate::gone::Gone;
use crate::hook::Hook;
use crate::linked::Linked;
use crate::reports::{Bus, Event, Loudness};
use crate::snapshot::{ChildState, Counts, Kind, TreeNode};
use crate::spec::{Body, ChildSpec};
use crate::strategy::{Place, StartFailure};
use crate::vitals::Pulse;
use facts::Facts;

/// A place in the tree.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    parent: Option<(Weak<Node>, Place)>,
    children: Mutex<Children>,
    /// Children that run, counted where their state changes: to count them anew would take as long as there are children.
    active: AtomicUsize,
    /// Which child an actor is. From its own first word, before any other code of its runs, until its supervisor has
    /// heard that nothing is left of it.
    claims: Mutex<HashMap<ActorId, Place>>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) linked: Linked,
    /// How often a request was tried here.
    #[cfg(test)]
    pub(crate) attempts: std::sync::atomic::AtomicUsize,
    pub(crate) hook: Hook,
    /// Starts under way and actors not yet gone in this very place; more than one never lives at a time.
    live: watch::Sender<usize>,
    facts: Mutex<Facts>,
}

/// The places below one, in start order.
#[derive(Debug, Default)]
struct Children {
    nodes: BTreeMap<Place, Arc<Node>>,
    /// There may be many.
    by_id: HashMap<String, Place>,
    /// Those that are supervisors.
    supervisors: usize,
}

impl Children {
    fn insert(&mut self, place: Place, node: Arc<Node>) -> Option<Arc<Node>> {
        self.by_id.insert(node.id.clone(), place);
        self.supervisors += usize::from(node.kind == Kind::Supervisor);
        self.nodes.insert(place, node)
    }

    fn remove(&mut self, place: Place) {
        if let Some(node) = self.nodes.remove(&place) {
            self.by_id.remove(&node.id);
            self.supervisors -= usize::from(node.kind == Kind::Supervisor);
        }
    }
}

impl Node {
    /// A root, without children.
    pub(crate) fn root(name: &str, bus: &Arc<Bus>) -> Arc<Node> {
        Node::new(name.to_owned(), name.to_owned(), Kind::Supervisor, None, bus)
    }

    fn new(path: String, id: String, kind: Kind, parent: Option<(Weak<Node>, Place)>, bus: &Arc<Bus>) -> Arc<Node> {
        Arc::new(Node {
            path,
            id,
            kind,
            parent,
            children: Mutex::default(),
            active: AtomicUsize::new(0),
            claims: Mutex::default(),
            pulse: Arc::new(Pulse::new()),
            bus: Arc::clone(bus),
            linked: Linked::default(),
            #[cfg(test)]
            attempts: std::sync::atomic::AtomicUsize::new(0),
            hook: Hook::default(),
            live: watch::Sender::new(0),
            facts: Mutex::new(Facts::at_rest()),
        })
    }

    // --- the places below

    /// Makes the places of a new incarnation of this supervisor. Those of its specification are kept, with what is told
    /// of their past; children that were added by request are gone, as in OTP. Nothing may be alive below.
    pub(crate) fn furnish(self: &Arc<Self>, specs: &[ChildSpec]) {
        lock(&self.claims).clear();
        let mut past = std::mem::take(&mut *lock(&self.children)).nodes;
        for (place, spec) in specs.iter().enumerate() {
            match past.remove(&place).filter(|node| node.id == spec.id) {
                Some(node) => drop(lock(&self.children).insert(place, node)),
                None => drop(self.add(place, spec)),
            }
        }
    }

    /// A place for one more child.
    pub(crate) fn add(self: &Arc<Self>, place: Place, spec: &ChildSpec) -> Arc<Node> {
        let kind = match spec.body {
            Body::Supervisor(_) | Body::Dynamic(_) => Kind::Supervisor,
            Body::Worker(_) | Body::Spent => Kind::Worker,
        };
        let path = format!("{}/{}", self.path, spec.id);
        let node = Node::new(path, spec.id.clone(), kind, Some((Arc::downgrade(self), place)), &self.bus);
        if let Body::Supervisor(below) = &spec.body {
            node.furnish(&below.children);
        }
        let taken = lock(&self.children).insert(place, Arc::clone(&node));
        assert!(taken.is_none(), "place {place} of {} is taken", self.path);
        node
    }

    /// It is no child any more.
    pub(crate) fn remove(&self, place: Place) {
        lock(&self.children).remove(place);
    }

    /// In start order.
    pub(crate) fn children(&self) -> Vec<Arc<Node>> {
        lock(&self.children).nodes.values().cloned().collect()
    }

    /// The child that this actor is, or was.
    pub(crate) fn claimed(&self, actor: ActorId) -> Option<Place> {
        lock(&self.claims).get(&actor).copied()
    }

    /// This child's actor is gone, and its supervisor knows.
    pub(crate) fn unclaim(&self, child: &Node) {
        if let Some(actor) = child.facts().actor {
            lock(&self.claims).remove(&actor);
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        lock(&self.facts)
    }

    fn set_state(&self, facts: &mut Facts, state: ChildState) {
        let before = std::mem::replace(&mut facts.state, state);
        let Some(parent) = self.parent.as_ref().and_then(|(parent, _)| parent.upgrade()) else { return };
        match (before.is_active(), state.is_active()) {
            (false, true) => drop(parent.active.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(parent.active.fetch_sub(1, Ordering::Relaxed)),
            (false, false) | (true, true) => {}
        }
    }

    // --- the life of an incarnation, in order

    /// A new incarnation is about to start. The one before must be gone; this one is while [`Live`] exists.
    pub(crate) fn begin(self: &Arc<Self>) -> (Incarnation, Live) {
        let live = Live::board(self);
        self.pulse.reset();
        self.linked.reset();
        let mut facts = self.facts();
        self.set_state(&mut facts, ChildState::Starting);
        (Incarnation { node: Arc::clone(self), number: facts.begin() }, live)
    }

    /// The incarnation is up. It may be gone again before that is said.
    pub(crate) fn running(&self, incarnation: u64) {
        let mut facts = self.facts();
        if facts.incarnation == incarnation && facts.cell.is_some() {
            self.set_state(&mut facts, ChildState::Running);
            facts.starts += 1;
            facts.up_since = Some(Instant::now());
        }
    }

    /// Some incarnation was up.
    pub(crate) fn came_up(&self) -> bool {
        self.facts().starts > 0
    }

    /// The incarnation was asked to stop.
    pub(crate) fn stopping(&self, incarnation: u64) {
        let mut facts = self.facts();
        if facts.incarnation == incarnation && facts.cell.is_some() {
            self.set_state(&mut facts, ChildState::Stopping);
        }
    }

    /// The actor's own word on its end, from an exit event. False when that actor is not this node's.
    pub(crate) fn exiting(&self, actor: ActorId, exit: &Exit) -> bool {
        let mut facts = self.facts();
        let own = facts.actor == Some(actor);
        if own {
            facts.exited = facts.incarnation;
            facts.last_exit = Some(exit.reason.clone());
        }
        own
    }

    /// The incarnation is gone, or its start failed. An exit event that said why keeps the last word.
    pub(crate) fn ended(&self, incarnation: u64, exit: &Exit) {
        let mut facts = self.facts();
        if facts.incarnation == incarnation {
            self.set_state(&mut facts, ChildState::Stopped);
            facts.cell = None;
            facts.up_since = None;
            if facts.exited != incarnation {
                facts.exited = incarnation;
                facts.last_exit = Some(exit.reason.clone());
            }
        }
        drop(facts);
        // What a dead supervisor meant to restart waits for nobody now.
        self.all_stopped();
    }

    /// Whatever does not live below will not be started again.
    pub(crate) fn all_stopped(&self) {
        for child in self.children().iter().filter(|child| !child.is_live()) {
            child.stopped();
        }
    }

    /// A supervisor has stopped its children and is about to exit, because it was told to or because of this failure.
    pub(crate) fn conclude(&self, incarnation: u64, conclusion: Result<(), StartFailure>) {
        let mut facts = self.facts();
        if facts.incarnation == incarnation {
            facts.conclusion.get_or_insert(conclusion);
        }
    }

    /// What a supervisor concluded; `None` when it was killed.
    pub(crate) fn conclusion(&self) -> Option<Result<(), StartFailure>> {
        self.facts().conclusion.clone()
    }

    /// How the last incarnation ended by its own account, for want of an exit event. `None`: it was killed, or failed.
    pub(crate) fn own_account(&self) -> Option<Exit> {
        self.facts().own_account()
    }

    /// It will be started again.
    pub(crate) fn restarting(&self) {
        self.set_state(&mut self.facts(), ChildState::Restarting);
    }

    /// Its supervisor will not start it again on its own.
    pub(crate) fn stopped(&self) {
        self.set_state(&mut self.facts(), ChildState::Stopped);
    }

    // --- what is alive

    /// Something lives in this very place.
    pub(crate) fn is_live(&self) -> bool {
        *self.live.borrow() > 0
    }

    /// Waits until nothing lives in this very place.
    async fn gone(&self) {
        let mut live = self.live.subscribe();
        // The sender is in `self`: the channel cannot close while this waits.
        let _ = live.wait_for(|&count| count == 0).await;
    }

    /// Waits until nothing lives below this node. Top down: what is gone starts nothing any more.
    pub(crate) async fn subtree_gone(&self) {
        for child in self.children() {
            child.gone().await;
            Box::pin(child.subtree_gone()).await;
        }
    }

    /// Kills whatever lives below this node, whether `ractor` still links it or not.
    pub(crate) fn kill_subtree(&self) {
        for child in self.children() {
            child.kill_all();
        }
    }

    /// Kills the actor here and whatever lives below, in the order of the tree: `ractor` would kill the latter in no order,
    /// so that a run would not repeat.
    pub(crate) fn kill_all(&self) {
        self.kill();
        self.kill_subtree();
    }

    /// Kills the actor in this very place.
    fn kill(&self) {
        if let Some(cell) = self.cell() {
            cell.kill();
        }
    }

    /// Paths below this node where something lives, in start order.
    pub(crate) fn live_below(&self) -> Vec<String> {
        let mut paths = Vec::new();
        for child in self.children() {
            if child.is_live() {
                paths.push(child.path.clone());
            }
            paths.extend(child.live_below());
        }
        paths
    }

    // --- what people look at

    /// The live actor.
    pub(crate) fn cell(&self) -> Option<ActorCell> {
        self.current_actor().map(|(cell, _)| cell)
    }

    /// The live supervisor, and what tells of its end.
    pub(crate) fn supervisor(&self) -> Option<(ActorCell, Gone)> {
        let facts = self.facts();
        Some((facts.cell.clone()?, facts.gone.clone()?))
    }

    /// The live actor, and which incarnation it is.
    pub(crate) fn current_actor(&self) -> Option<(ActorCell, u64)> {
        let facts = self.facts();
        Some((facts.cell.clone()?, facts.incarnation))
    }

    /// The node at a path whose first segment is this node's own.
    pub(crate) fn find(self: &Arc<Self>, path: &str) -> Option<Arc<Node>> {
        if path == self.path {
            return Some(Arc::clone(self));
        }
        let id = path.strip_prefix(&self.path)?.strip_prefix('/')?.split('/').next()?;
        self.child(id)?.find(path)
    }

    /// The child with this id.
    pub(crate) fn child(&self, id: &str) -> Option<Arc<Node>> {
        let children = lock(&self.children);
        children.by_id.get(id).and_then(|place| children.nodes.get(place)).cloned()
    }

    /// This node and all below it.
    pub(crate) fn snapshot(&self, nodes: &mut Vec<TreeNode>) {
        nodes.push(self.look());
        for child in self.children() {
            child.snapshot(nodes);
        }
    }

    /// How many children it has.
    pub(crate) fn counts(&self) -> Counts {
        let children = lock(&self.children);
        let (specs, supervisors) = (children.nodes.len(), children.supervisors);
        let active = self.active.load(Ordering::Relaxed);
        Counts { specs, active, supervisors, workers: specs - supervisors }
    }

    /// This node alone.
    pub(crate) fn look(&self) -> TreeNode {
        let facts = self.facts();
        let is_there = facts.cell.is_some() || facts.state == ChildState::Starting;
        let vitals = self.pulse.look();
        TreeNode {
            path: self.path.clone(),
            kind: self.kind,
            state: facts.state,
            actor: facts.cell.as_ref().map(ActorCell::get_id),
            incarnation: facts.incarnation,
            restarts: facts.starts.saturating_sub(1),
            last_exit: facts.last_exit.clone(),
            uptime: facts.up_since.map(|at| at.elapsed()),
            vitals: if is_there { vitals } else { vitals.at_rest() },
        }
    }

    /// Tells what happened to the current (or last) incarnation here.
    pub(crate) fn tell(&self, event: Event) {
        self.tell_as(event, Loudness::Usual);
    }

    pub(crate) fn tell_as(&self, event: Event, loudness: Loudness) {
        let incarnation = self.facts().incarnation;
        self.bus.tell(self, incarnation, event, loudness);
    }
}

/// One incarnation's claim on its node.
#[derive(Clone, Debug)]
pub(crate) struct Incarnation {
    pub(crate) node: Arc<Node>,
    pub(crate) number: u64,
}

impl Incarnation {
    /// This actor is the incarnation. A supervisor says what tells of its end.
    pub(crate) fn claim(&self, cell: ActorCell, gone: Option<Gone>) {
        let mut facts = self.node.facts();
        if facts.incarnation != self.number {
            return;
        }
        let supervisor = self.node.parent.as_ref().and_then(|(parent, place)| Some((parent.upgrade()?, *place)));
        if let Some((supervisor, place)) = supervisor {
            lock(&supervisor.claims).insert(cell.get_id(), place);
        }
        facts.actor = Some(cell.get_id());
        facts.cell = Some(cell);
        facts.gone = gone;
    }

    /// The incarnation has done all that belongs to an orderly stop.
    pub(crate) fn stopped_well(&self) {
        let mut facts = self.node.facts();
        facts.stopped_well = facts.incarnation == self.number;
    }
}

/// Counts one live incarnation until dropped. Held by its minder, until the join handle has completed.
#[derive(Debug)]
pub(crate) struct Live(Arc<Node>);

impl Live {
    fn board(node: &Arc<Node>) -> Live {
        node.live.send_modify(|count| {
            assert_eq!(*count, 0, "{} is started while its last incarnation is still alive", node.path);
            *count += 1;
        });
        Live(Arc::clone(node))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Also when the minder could not say so, because its runtime has ended.
        let mut facts = self.0.facts();
        self.0.set_state(&mut facts, ChildState::Stopped);
        facts.cell = None;
        facts.up_since = None;
        drop(facts);
        self.0.live.send_modify(|count| *count -= 1);
    }
}

/// No code under these locks can panic half way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
