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
    /// most this; 16 s by default.
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
    phase: Phase,
    /// How often it was handed over.
    tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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

    fn seal(&mut self, marks: Marks, claim: &mut impl FnMut(u64) -> bool) {
        let (mut commands, mut bytes) = (Vec::new(), 0);
        while let Some((_, size)) = self.open.front() {
            if !commands.is_empty()
                && (bytes + size > self.bounds.batch_bytes_max || commands.len() >= self.bounds.batch_commands_max)
            {
                break;
            }
            bytes += size;
            self.open_bytes -= size;
            let (command, _) = self.open.pop_front().expect("a front was just seen");
            // One that was sealed before, by a former incarnation, is claimed again; an abandoned one is gone.
            if claim(command.counter()) {
                commands.push(command);
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
        self.sealed.insert(self.last_token, Sealed { data, unresolved, phase: Phase::Idle, tries: 0 });
    }

    fn hand_over(&mut self, now: Duration) -> Vec<Effect> {
        let Some(leader) = self.leader else { return Vec::new() };
        let handed = self.sealed.values().filter(|batch| batch.phase != Phase::Idle);
        let mut handed_bytes: usize = handed.map(|batch| batch.data.len()).sum();
        let mut effects = Vec::new();
        for (token, batch) in self.sealed.iter_mut().filter(|(_, batch)| batch.phase == Phase::Idle) {
            if handed_bytes > 0 && handed_bytes + batch.data.len() > self.bounds.handed_bytes_max {
                break;
            }
            handed_bytes += batch.data.len();
            batch.phase = Phase::Handed { to: leader, at: now };
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
            if let Phase::Handed { at, .. } = &mut batch.phase {
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
        self.sealed.values_mut().for_each(|batch| (batch.phase, batch.tries) = (Phase::Idle, 0));
    }

    /// The batch was not taken by that node. `hint` names a better place, if it is not the one already known.
    pub(super) fn not_proposed(&mut self, by: NodeId, token: u64, hint: Option<NodeId>) {
        let Some(batch) = self.sealed.get_mut(&token) else { return };
        let Phase::Handed { to, .. } = batch.phase else { return };
        // A late refusal: the batch is with another node by now, and the hint may name one that is gone.
        if to != by {
            return;
        }
        if let Some(better) = hint.filter(|hint| *hint != to) {
            self.leader = Some(better);
            batch.phase = Phase::Idle;
        }
        // Otherwise it waits for a change of leader or for its patience: asking at once would spin.
    }

    /// The forward lane to a peer broke, or is up again: what was handed to it may be lost.
    pub(super) fn lost_link(&mut self, peer: NodeId) {
        for batch in self.sealed.values_mut() {
            if matches!(batch.phase, Phase::Handed { to, .. } if to == peer) {
                batch.phase = Phase::Idle;
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
            if matches!(batch.phase, Phase::Handed { at, .. } if now.saturating_sub(at) >= patience) {
                batch.phase = Phase::Idle;
            }
        }
    }

    /// Whether anything waits, sealed or not.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.sealed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use converge_ledger_core::{Append, EntryId, NewEntry};

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const MARKS: Marks = Marks { low_water: 1, low_staging: 1 };
    const T0: Duration = Duration::ZERO;
    const PATIENCE: Duration = Duration::from_secs(1);
    const BATCH_BYTES_MAX: usize = 1 << 20;
    const HANDED_BYTES_MAX: usize = 10 << 20;

    fn command(counter: u64) -> Command {
        let entry =
            NewEntry { context_id: "c".into(), key: String::new(), payload: Bytes::new(), metadata: BTreeMap::new() };
        Command::Append(Append {
            counter,
            id: EntryId([0; 16]),
            appended_at_ns: 0,
            idempotency_key: None,
            expected_sequence: None,
            received_lamport: None,
            entry,
        })
    }

    fn batcher(leader: Option<NodeId>) -> Batcher {
        let mut batcher = Batcher::new(ME, Boot(1), PATIENCE, Bounds::default());
        batcher.led_by(leader);
        batcher
    }

    fn push(batcher: &mut Batcher, counters: std::ops::RangeInclusive<u64>) {
        counters.for_each(|counter| batcher.push(command(counter), 100));
    }

    fn counters(effect: &Effect) -> Vec<u64> {
        let (Effect::Propose { data, .. } | Effect::Forward { data, .. }) = effect;
        Batch::decode(data).unwrap().commands.iter().map(Command::counter).collect()
    }

    fn run(batcher: &mut Batcher, now: Duration) -> Vec<Effect> {
        batcher.run(now, || MARKS, |_| true)
    }

    #[test]
    fn one_alone_goes_at_once() {
        let mut b = batcher(Some(ME));
        push(&mut b, 1..=1);
        let effects = run(&mut b, T0);
        assert!(matches!(&effects[..], [Effect::Propose { token: 1, .. }]));
    }

    #[test]
    fn while_one_is_in_flight_the_next_waits_until_as_many_wait() {
        let mut b = batcher(Some(ME));
        push(&mut b, 1..=4);
        assert_eq!(counters(&run(&mut b, T0)[0]), vec![1, 2, 3, 4]);
        push(&mut b, 5..=7);
        assert!(run(&mut b, T0).is_empty(), "three wait, four are in flight");
        push(&mut b, 8..=8);
        assert_eq!(counters(&run(&mut b, T0)[0]), vec![5, 6, 7, 8]);
    }

    #[test]
    fn no_more_than_four_batches_are_in_flight() {
        let mut b = batcher(Some(ME));
        let mut next = 1;
        for size in [1, 1, 2, 4] {
            push(&mut b, next..=next + size - 1);
            next += size;
            assert_eq!(run(&mut b, T0).len(), 1);
        }
        push(&mut b, next..=next + 99);
        assert!(run(&mut b, T0).is_empty());
        b.resolved(T0, [1]);
        assert_eq!(counters(&run(&mut b, T0)[0]).len(), 100);
    }

    #[test]
    fn a_full_batch_goes_whatever_is_in_flight() {
        let mut b = batcher(Some(ME));
        push(&mut b, 1..=1);
        run(&mut b, T0);
        (2..=6).for_each(|counter| b.push(command(counter), BATCH_BYTES_MAX / 2));
        let sizes: Vec<usize> = run(&mut b, T0).iter().map(|e| counters(e).len()).collect();
        assert_eq!(sizes, vec![2, 2], "two of half the bound fill a batch; the fifth alone is not worth one yet");
    }

    #[test]
    fn one_command_larger_than_the_bound_is_a_batch_of_its_own() {
        let mut b = batcher(Some(ME));
        (1..=2).for_each(|counter| b.push(command(counter), BATCH_BYTES_MAX * 4));
        let all: Vec<Vec<u64>> = run(&mut b, T0).iter().map(counters).collect();
        assert_eq!(all, vec![vec![1], vec![2]]);
    }

    #[test]
    fn without_a_leader_nothing_is_sealed_and_who_gave_up_is_never_handed_over() {
        let mut b = batcher(None);
        push(&mut b, 1..=2);
        assert!(run(&mut b, T0).is_empty());
        b.led_by(Some(OTHER));
        let effects = b.run(T0, || MARKS, |counter| counter == 2);
        assert!(matches!(&effects[..], [Effect::Forward { to: OTHER, .. }]));
        assert_eq!(counters(&effects[0]), vec![2]);
    }

    #[test]
    fn a_new_leader_gets_everything_again_with_the_same_bytes() {
        let mut b = batcher(Some(OTHER));
        push(&mut b, 1..=2);
        let Effect::Forward { data: first, .. } = run(&mut b, T0).remove(0) else { panic!() };
        b.led_by(None);
        assert!(run(&mut b, T0).is_empty());
        b.led_by(Some(ME));
        let Effect::Propose { data: again, .. } = run(&mut b, T0).remove(0) else { panic!() };
        assert_eq!(first, again);
    }

    #[test]
    fn a_refusal_with_a_hint_goes_there_and_one_without_waits() {
        let mut b = batcher(Some(OTHER));
        push(&mut b, 1..=1);
        run(&mut b, T0);
        b.not_proposed(OTHER, 1, None);
        assert!(run(&mut b, T0).is_empty());
        b.not_proposed(OTHER, 1, Some(NodeId(3)));
        assert!(matches!(run(&mut b, T0)[..], [Effect::Forward { to: NodeId(3), .. }]));
    }

    #[test]
    fn no_answer_means_again_less_and_less_often() {
        let mut b = batcher(Some(OTHER));
        push(&mut b, 1..=1);
        run(&mut b, T0);
        let mut handed = Vec::new();
        for second in 1..=10 {
            let now = PATIENCE * second;
            b.expire(now, |_| true);
            if !run(&mut b, now).is_empty() {
                handed.push(second);
            }
        }
        assert_eq!(handed, vec![1, 3, 7]);
    }

    #[test]
    fn a_lost_link_gives_back_what_went_over_it() {
        let mut b = batcher(Some(OTHER));
        push(&mut b, 1..=1);
        run(&mut b, T0);
        b.lost_link(NodeId(3));
        assert!(run(&mut b, T0).is_empty());
        b.lost_link(OTHER);
        assert_eq!(run(&mut b, T0).len(), 1);
    }

    #[test]
    fn a_batch_that_nobody_waits_for_is_forgotten() {
        let mut b = batcher(Some(OTHER));
        push(&mut b, 1..=2);
        run(&mut b, T0);
        b.expire(T0, |counter| counter != 1);
        assert!(!b.is_idle());
        b.expire(T0, |_| false);
        assert!(b.is_idle());
    }

    #[test]
    fn without_a_leader_what_nobody_waits_for_is_not_kept() {
        let mut b = batcher(None);
        (1..=100).for_each(|counter| b.push(command(counter), BATCH_BYTES_MAX));
        b.expire(T0, |counter| counter == 7);
        b.led_by(Some(ME));
        assert_eq!(b.open.len(), 1, "the callers of the others gave up, nothing of theirs stays in memory");
        assert_eq!(b.open_bytes, BATCH_BYTES_MAX);
        assert_eq!(counters(&run(&mut b, T0)[0]), vec![7]);
    }

    #[test]
    fn no_more_is_handed_over_at_once_than_a_link_takes() {
        let mut b = batcher(Some(OTHER));
        for counter in 1..=20 {
            let mut large = command(counter);
            let Command::Append(append) = &mut large else { panic!() };
            append.entry.payload = vec![0; BATCH_BYTES_MAX].into();
            b.push(large, BATCH_BYTES_MAX);
        }
        let first = run(&mut b, T0);
        let bytes = |effect: &Effect| match effect {
            Effect::Propose { data, .. } | Effect::Forward { data, .. } => data.len(),
        };
        assert!(first.iter().map(bytes).sum::<usize>() <= HANDED_BYTES_MAX);
        assert!(run(&mut b, T0).is_empty(), "the rest waits");
        b.resolved(T0, [1, 2]);
        let next: Vec<Vec<u64>> = run(&mut b, T0).iter().map(counters).collect();
        let after = first.len() as u64;
        assert_eq!(next, vec![vec![after + 1], vec![after + 2]], "in order, as room comes");
    }

    #[test]
    fn a_new_leader_is_asked_again_as_soon_as_the_first_was() {
        let mut b = batcher(Some(OTHER));
        push(&mut b, 1..=1);
        run(&mut b, T0);
        for second in 1..=7 {
            b.expire(PATIENCE * second, |_| true);
            run(&mut b, PATIENCE * second);
        }
        b.led_by(Some(NodeId(3)));
        run(&mut b, PATIENCE * 8);
        b.expire(PATIENCE * 9, |_| true);
        assert_eq!(run(&mut b, PATIENCE * 9).len(), 1);
    }

    #[test]
    fn a_late_refusal_of_a_former_leader_leads_nowhere() {
        let mut b = batcher(Some(OTHER));
        push(&mut b, 1..=1);
        run(&mut b, T0);
        b.led_by(Some(NodeId(3)));
        assert_eq!(run(&mut b, T0).len(), 1);
        b.not_proposed(OTHER, 1, Some(NodeId(4)));
        assert!(run(&mut b, T0).is_empty(), "it is with node 3, which has not refused it");
        push(&mut b, 2..=2);
        assert!(matches!(run(&mut b, T0)[..], [Effect::Forward { to: NodeId(3), .. }]));
    }

    #[test]
    fn while_earlier_ones_come_through_a_later_one_is_not_handed_over_again() {
        let mut b = batcher(Some(ME));
        for counter in 1..=4 {
            b.push(command(counter), BATCH_BYTES_MAX);
            assert_eq!(run(&mut b, T0).len(), 1);
        }
        let late = PATIENCE * 3 / 4;
        b.resolved(late, [2]);
        b.expire(PATIENCE, |_| true);
        let again: Vec<Vec<u64>> = run(&mut b, PATIENCE).iter().map(counters).collect();
        assert_eq!(again, vec![vec![1]], "the first was overtaken, so it is lost; the last two are behind");
        b.expire(late + PATIENCE, |_| true);
        assert_eq!(run(&mut b, late + PATIENCE).len(), 2, "nothing came any more");
    }
}
