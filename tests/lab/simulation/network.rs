//! The network between simulated nodes.
//!
//! One connection per pair and lane, as the real links keep them: frames of a connection arrive in order and at most
//! once, a connection that is cut off stalls and then breaks, both ends hear of it in their own time, and a new one
//! has a new epoch. On top of that, worse than any TCP: weather that loses, doubles and reorders single frames. What
//! the replication protocol may not be given (frames of an older epoch, frames after their `Down`) is never given.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use converge_actors::distribution::{Carrier, Identity, Lane, SendError, Sink};
use converge_ledger_core::NodeId;
use converge_ledger_core::chance::Dice;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::links::{Counts, Inner, Member, NetworkPlan, Weather, make, pair};
use super::trace::Trace;
use converge_ledger::environment::Network;

/// Who may look at every frame that leaves a node.
pub(super) type Tap = Arc<dyn Fn(NodeId, NodeId, &Bytes) + Send + Sync>;

#[derive(Clone)]
pub(super) struct SimNetwork(Arc<Net>);

struct Net {
    inner: Mutex<Inner>,
    wake: Notify,
    trace: Trace,
    tap: Tap,
    /// Nodes may have forgotten votes: what they say can be refused.
    tolerant: AtomicBool,
}

impl SimNetwork {
    pub(super) fn new(plan: NetworkPlan, dice: Dice, trace: Trace, tap: Tap) -> SimNetwork {
        let inner = Inner {
            plan,
            dice,
            weathers: BTreeMap::new(),
            cuts: BTreeMap::new(),
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            ending: BTreeMap::new(),
            queue: BTreeMap::new(),
            order: 0,
            joined: 0,
            counts: Counts::default(),
        };
        SimNetwork(Arc::new(Net {
            inner: Mutex::new(inner),
            wake: Notify::new(),
            trace,
            tap,
            tolerant: AtomicBool::new(false),
        }))
    }

    /// Moves frames for as long as it is polled.
    pub(super) async fn run(self) {
        loop {
            let next = self.lock().queue.keys().next().map(|(at, _)| *at);
            let more = self.0.wake.notified();
            match next {
                None => more.await,
                Some(at) if at > Instant::now() => {
                    tokio::select! {
                        biased;
                        () = more => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                Some(_) => self.due(),
            }
        }
    }

    fn due(&self) {
        let now = Instant::now();
        loop {
            let calls = {
                let mut inner = self.lock();
                match inner.queue.first_entry() {
                    Some(entry) if entry.key().0 <= now => {
                        let event = entry.remove();
                        inner.handle(event, &self.0.trace)
                    }
                    _ => return,
                }
            };
            calls.into_iter().for_each(make);
        }
    }

    /// The process of a node is gone: at once for its kernel's peers, or, after a power cut, without a word.
    pub(super) fn leave(&self, id: NodeId, silently: bool) {
        let mut inner = self.lock();
        inner.members.remove(&id);
        inner.ending.retain(|(_, to, _, _), _| *to != id);
        let mine: Vec<_> = inner.links.keys().copied().filter(|(a, b, _)| *a == id || *b == id).collect();
        for key in mine {
            let link = inner.links.remove(&key).expect("a key just listed");
            let peer = if key.0 == id { key.1 } else { key.0 };
            let (from, to) = if silently { inner.plan.keepalive_ms } else { (0, 3) };
            let after = inner.between_ms(from, to);
            // A kernel sends what it was given before it says that the process is gone.
            let sent = link.ways[usize::from(id == key.1)].last.filter(|_| inner.dice.one_in(2));
            let after = after.max(sent.map_or(Duration::ZERO, |last| last.duration_since(Instant::now())));
            inner.tell_down(peer, id, key.2, link.epoch, after);
        }
        drop(inner);
        self.0.wake.notify_one();
    }

    pub(super) fn cut(&self, from: NodeId, to: NodeId) {
        let mut inner = self.lock();
        *inner.cuts.entry((from, to)).or_default() += 1;
        // It breaks when nobody hears anything for too long.
        let (a, b) = pair(from, to);
        for lane in Lane::OF_THE_LEDGER {
            inner.stall(a, b, lane);
        }
        drop(inner);
        self.0.wake.notify_one();
    }

    pub(super) fn mend(&self, from: NodeId, to: NodeId) {
        let mut inner = self.lock();
        let Some(cuts) = inner.cuts.get_mut(&(from, to)) else { return };
        *cuts -= 1;
        if *cuts > 0 {
            return;
        }
        inner.cuts.remove(&(from, to));
        // What was sent meanwhile was sent again and again, and comes through now.
        for lane in Lane::OF_THE_LEDGER {
            inner.release(from, to, lane);
        }
        drop(inner);
        self.0.wake.notify_one();
    }

    /// Breaks all connections between two nodes.
    pub(super) fn reset(&self, a: NodeId, b: NodeId) {
        let (a, b) = pair(a, b);
        let mut inner = self.lock();
        for lane in Lane::OF_THE_LEDGER {
            inner.break_link(a, b, lane);
        }
        drop(inner);
        self.0.wake.notify_one();
    }

    /// From here on a refused frame breaks its connection; until then, no node may send one.
    pub(super) fn tolerate(&self) {
        self.0.tolerant.store(true, Ordering::Relaxed);
    }

    /// Weather comes up; the number ends it.
    pub(super) fn worsen(&self, weather: Weather) -> u64 {
        let mut inner = self.lock();
        inner.order += 1;
        let number = inner.order;
        inner.weathers.insert(number, weather);
        number
    }

    pub(super) fn clear_up(&self, number: u64) {
        self.lock().weathers.remove(&number);
    }

    pub(super) fn mend_all(&self) {
        let cuts: Vec<_> = {
            let mut inner = self.lock();
            inner.weathers.clear();
            inner.cuts.values_mut().for_each(|cuts| *cuts = 1);
            inner.cuts.keys().copied().collect()
        };
        cuts.into_iter().for_each(|(from, to)| self.mend(from, to));
    }

    /// Lets go of everything: it and the nodes keep each other alive.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        let gone = (std::mem::take(&mut inner.members), std::mem::take(&mut inner.queue));
        inner.links.clear();
        inner.ending.clear();
        drop(inner);
        drop(gone);
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().expect("no code panics while it holds this lock")
    }
}

impl Network for SimNetwork {
    fn join(&self, identity: Identity, sink: Arc<dyn Sink>) -> Arc<dyn Carrier> {
        let id = identity.node_id;
        let mut inner = self.lock();
        inner.joined += 1;
        let life = inner.joined;
        inner.members.insert(id, Member { sink, life });
        let peers: Vec<NodeId> = inner.members.keys().copied().filter(|peer| *peer != id).collect();
        for peer in peers {
            let (a, b) = pair(id, peer);
            for lane in Lane::OF_THE_LEDGER {
                inner.dial_later(a, b, lane);
            }
        }
        drop(inner);
        self.0.wake.notify_one();
        Arc::new(Port { id, life, network: self.clone() })
    }
}

/// A node's way into the network, for one life.
struct Port {
    id: NodeId,
    life: u64,
    network: SimNetwork,
}

impl Carrier for Port {
    fn send(&self, peer: NodeId, lane: Lane, payload: Vec<Bytes>) -> Result<(), SendError> {
        let mut inner = self.network.lock();
        if inner.members.get(&self.id).is_none_or(|member| member.life != self.life) {
            return Err(SendError::Down);
        }
        let payload = Bytes::from(payload.concat());
        let sent = inner.send(self.id, peer, lane, payload.clone());
        drop(inner);
        if sent.is_ok() {
            (self.network.0.tap)(self.id, peer, &payload);
            self.network.0.wake.notify_one();
        }
        sent
    }

    fn reject(&self, peer: NodeId, lane: Lane, epoch: u64, reason: &str) {
        if self.network.0.tolerant.load(Ordering::Relaxed) {
            let (a, b) = pair(self.id, peer);
            self.network.lock().break_link(a, b, lane);
            self.network.0.wake.notify_one();
            return;
        }
        panic!("frames of {peer} on {} (connection {epoch}) were rejected: {reason}", lane.name());
    }
}
