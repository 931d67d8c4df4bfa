//! Adaptive group commit, decided purely.
//!
//! A batch is sealed when nothing is in flight, or when fewer than [`Bounds::batches_max`] batches are in flight and at
//! least as many commands wait as are in flight, or when a size bound is reached. There is no timer: one client
//! alone gets no added delay, and many clients fill the next batch while the last one syncs.
//!
//! ```text
//!             push              seal              hand over           every command resolved
//!   request ───────▶ open ─────────────▶ Idle ───────────────▶ Handed ─────────────────────▶ gone
//!                                          ▲  not proposed       │ │
//!                                          └─────────────────────┘ │ leader changed, link lost, no answer
//!                                                     handed again ◀┘
//! ```
//! A command that follows another one stays with it, in one batch, and one claim takes both: apply decides on them together.
//!
//! A batch's bytes are made once, at sealing. Handing them over twice is harmless: apply knows each attempt.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use converge_ledger_core::{Batch, Boot, Command, NodeId};

use super::origin::Marks;

/// What a batch, and all that are handed over at once, may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Batches in flight at once, unless a batch is full; 4 by default.
    pub batches_max: usize,
    /// A batch holds at most so many bytes, or one command; 1 MiB by default.
    pub batch_bytes_max: usize,
    /// A batch holds at most so many commands; 4096 by default.
    pub batch_commands_max: usize,
    /// Batches of at most so many bytes are handed over at once, or one: what a link's queue cannot take is shed, and
    /// would wait for its patience. Two of the largest, 10 MiB, by default.
    pub handed_bytes_max: usize,
    /// A batch without an answer is handed over again after its patience, and then after twice as long each time, at
    /// most this; 16 s by default. One that is refused is handed over again after its patience each time.
    pub patience_max: Duration,
    /// How often batches without an answer are looked for; 100 ms by default.
    pub look_every: Duration,
    /// So many attempts may begin since the oldest in flight: every node keeps their outcomes; 131,072 by default.
    pub attempts_max: u64,
    /// A request that was in flight at so many deaths of the actor is not submitted again; 2 by default.
    pub deaths_max: u32,
    /// The actor is killed when it takes longer than this to stop; 5 s by default.
    pub shutdown: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            batches_max: 4,
            batch_bytes_max: 1 << 20,
            batch_commands_max: 4096,
            handed_bytes_max: 10 << 20,
            patience_max: Duration::from_secs(16),
            look_every: Duration::from_millis(100),
            attempts_max: 1 << 17,
            deaths_max: 2,
            shutdown: Duration::from_secs(5),
        }
    }
}

/// Where a batch goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// To the Raft node of this node, which leads.
    Propose { token: u64, data: Bytes },
    /// To the leader, over the forward lane.
    Forward { to: NodeId, token: u64, data: Bytes },
}

/// Decides what is proposed together, to whom, and when again.
#[derive(Debug)]
pub(super) struct Batcher {
    me: NodeId,
    boot: Boot,
    patience: Duration,
    bounds: Bounds,
    leader: Option<NodeId>,
    open: VecDeque<(Command, usize)>,
    open_bytes: usize,
    last_token: u64,
    sealed: BTreeMap<u64, Sealed>,
    /// Which batch an unresolved attempt is in.
    batch_of: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Sealed {
    data: Bytes,
    unresolved: BTreeSet<u64>,
    delivery: Delivery,
    /// How often it was handed over.
    tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Idle,
    Handed { to: NodeId, at: Duration },
}

impl Batcher {
    pub(super) fn new(me: NodeId, boot: Boot, patience: Duration, bounds: Bounds) -> Batcher {
        Batcher {
            me,
            boot,
            patience,
            bounds,
            leader: None,
            open: VecDeque::new(),
            open_bytes: 0,
            last_token: 0,
            sealed: BTreeMap::new(),
            batch_of: BTreeMap::new(),
        }
    }

    /// Adds a command of `bytes` size to the open batch.
    pub(super) fn push(&mut self, command: Command, bytes: usize) {
        self.open_bytes += bytes;
        self.open.push_back((command, bytes));
    }

    /// Seals what may be sealed, and hands over what may be handed over. `claim` says for each command whether
    /// its caller still wants it; the marks are read once per batch.
    pub(super) fn run(
        &mut self,
        now: Duration,
        marks: impl Fn() -> Marks,
        mut claim: impl FnMut(u64) -> bool,
    ) -> Vec<Effect> {
        // Without a leader nothing is sealed, so that a caller who gives up knows that nothing was written.
        while self.leader.is_some() && self.may_seal() {
            self.seal(marks(), &mut claim);
        }
        self.hand_over(now)
    }

    fn may_seal(&self) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let full = self.open_bytes >= self.bounds.batch_bytes_max || self.open.len() >= self.bounds.batch_commands_max;
        let worth_it = self.sealed.len() < self.bounds.batches_max && self.open.len() >= self.batch_of.len();
        self.sealed.is_empty() || full || worth_it
    }

    /// How many commands the front of the queue is with those that follow it, and their bytes: a batch has all or none.
    fn front_group(&self) -> Option<(usize, usize)> {
        let ((_, first), rest) = (self.open.front()?, self.open.iter().skip(1));
        let following = rest.take_while(|(command, _)| command.follows());
        Some(following.fold((1, *first), |(count, bytes), (_, size)| (count + 1, bytes + size)))
    }

    fn seal(&mut self, marks: Marks, claim: &mut impl FnMut(u64) -> bool) {
        let (mut commands, mut bytes) = (Vec::new(), 0);
        while let Some((count, size)) = self.front_group() {
            let is_full =
                bytes + size > self.bounds.batch_bytes_max || commands.len() + count > self.bounds.batch_commands_max;
            if !commands.is_empty() && is_full {
                break;
            }
            bytes += size;
            self.open_bytes -= size;
            let mut group = self.open.drain(..count).map(|(command, _)| command);
            let first = group.next().expect("a front was just seen");
            // One that was sealed before, by a former incarnation, is claimed again; an abandoned one is gone.
            if claim(first.counter()) {
                commands.push(first);
                commands.extend(group);
            }
        }
        if commands.is_empty() {
            return;
        }
        self.last_token += 1;
        let unresolved: BTreeSet<u64> = commands.iter().map(Command::counter).collect();
        self.batch_of.extend(unresolved.iter().map(|counter| (*counter, self.last_token)));
        let Marks { low_water, low_staging } = marks;
        let data = Batch { origin: self.me, boot: self.boot, low_water, low_staging, commands }.encode();
        self.sealed.insert(self.last_token, Sealed { data, unresolved, delivery: Delivery::Idle, tries: 0 });
    }

    fn hand_over(&mut self, now: Duration) -> Vec<Effect> {
        let Some(leader) = self.leader else { return Vec::new() };
        let handed = self.sealed.values().filter(|batch| batch.delivery != Delivery::Idle);
        let mut handed_bytes: usize = handed.map(|batch| batch.data.len()).sum();
        let mut effects = Vec::new();
        for (token, batch) in self.sealed.iter_mut().filter(|(_, batch)| batch.delivery == Delivery::Idle) {
            if handed_bytes > 0 && handed_bytes + batch.data.len() > self.bounds.handed_bytes_max {
                break;
            }
            handed_bytes += batch.data.len();
            batch.delivery = Delivery::Handed { to: leader, at: now };
            batch.tries += 1;
            let (token, data) = (*token, batch.data.clone());
            effects.push(match leader == self.me {
                true => Effect::Propose { token, data },
                false => Effect::Forward { to: leader, token, data },
            });
        }
        effects
    }

    /// Attempts that were applied, whatever their outcome. What was handed over behind them is on its way, however
    /// slow that is: handing it over again would make it slower.
    pub(super) fn resolved(&mut self, now: Duration, counters: impl IntoIterator<Item = u64>) {
        let Some(newest) = self.forget(counters) else { return };
        for (_, batch) in self.sealed.range_mut(newest + 1..) {
            if let Delivery::Handed { at, .. } = &mut batch.delivery {
                *at = now;
            }
        }
    }

    /// Takes attempts out of their batches, and says which of these is the newest.
    fn forget(&mut self, counters: impl IntoIterator<Item = u64>) -> Option<u64> {
        let mut newest = None;
        for counter in counters {
            let Some(token) = self.batch_of.remove(&counter) else { continue };
            newest = newest.max(Some(token));
            let batch = self.sealed.get_mut(&token).expect("an unresolved attempt is in a sealed batch");
            batch.unresolved.remove(&counter);
            if batch.unresolved.is_empty() {
                self.sealed.remove(&token);
            }
        }
        newest
    }

    /// Another leader, or another term of the same one: what was handed to the last may be lost.
    pub(super) fn led_by(&mut self, leader: Option<NodeId>) {
        self.leader = leader;
        self.sealed.values_mut().for_each(|batch| (batch.delivery, batch.tries) = (Delivery::Idle, 0));
    }

    /// The batch was not taken by that node. `hint` names a better place, if it is not the one already known.
    pub(super) fn not_proposed(&mut self, by: NodeId, token: u64, hint: Option<NodeId>) {
        let Some(batch) = self.sealed.get_mut(&token) else { return };
        let Delivery::Handed { to, .. } = batch.delivery else { return };
        // A late refusal: the batch is with another node by now, and the hint may name one that is gone.
        if to != by {
            return;
        }
        if let Some(better) = hint.filter(|hint| *hint != to) {
            self.leader = Some(better);
            batch.delivery = Delivery::Idle;
        } else {
            // It waits for a change of leader or for its patience: asking at once would spin. It is not under way, so asking
            // again loads nothing, and that patience does not grow.
            batch.tries = batch.tries.saturating_sub(1);
        }
    }

    /// The forward lane to a peer broke, or is up again: what was handed to it may be lost.
    pub(super) fn lost_link(&mut self, peer: NodeId) {
        for batch in self.sealed.values_mut() {
            if matches!(batch.delivery, Delivery::Handed { to, .. } if to == peer) {
                batch.delivery = Delivery::Idle;
            }
        }
    }

    /// Takes back batches that waited too long, and forgets those that nobody waits for.
    pub(super) fn expire(&mut self, now: Duration, wanted: impl Fn(u64) -> bool) {
        // Without a leader nothing is sealed, however long that lasts.
        self.open.retain(|(command, _)| wanted(command.counter()));
        self.open_bytes = self.open.iter().map(|(_, bytes)| bytes).sum();
        let unwanted: Vec<u64> = self.batch_of.keys().copied().filter(|counter| !wanted(*counter)).collect();
        self.forget(unwanted);
        for batch in self.sealed.values_mut() {
            let patience = (self.patience * 2u32.saturating_pow(batch.tries.saturating_sub(1).min(8)))
                .min(self.bounds.patience_max);
            if matches!(batch.delivery, Delivery::Handed { at, .. } if now.saturating_sub(at) >= patience) {
                batch.delivery = Delivery::Idle;
            }
        }
    }
}

#[cfg(test)]
mod tests;
