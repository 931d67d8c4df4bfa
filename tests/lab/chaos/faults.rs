//! What is done to the nodes, and when: drawn from a seed before anything runs.
//!
//! A fault says whom it is meant for by role; who that is, is decided when it comes. Faults overlap, so none of them is
//! undone by itself: what holds at a moment is the union of those that are in force ([`Want`]).

use std::collections::BTreeSet;
use std::time::Duration;

use converge_ledger_core::chance::Dice;

/// Where the clients are, among the ends of a link; nodes count from 1.
pub(super) const CLIENTS: u64 = 0;
/// Between the begins of two faults.
const GAP_MS: std::ops::Range<u64> = 200..2_000;
/// Sometimes nothing goes wrong for longer: what failed before must work again.
const CALM_MS: u64 = 3_000;
const CALM_ONE_IN: u64 = 10;
/// The first fault finds clients at work.
const FIRST_MS: u64 = 1_000;

/// Which faults this machine lets us make beside signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) partitions: bool,
    pub(super) disks: bool,
}

/// Whom a fault is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Node(u64),
    /// Whoever leads then; the node where nobody does.
    Leader(u64),
    All,
}

/// Which packets get lost. Nobody is told that they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// All between the node and the others.
    Alone,
    /// Those of the others to it.
    Deaf,
    /// Its own to the others.
    Mute,
    /// Its own to one other.
    OneWay,
    /// Its own to the clients: it does what they ask, and they do not hear of it.
    Unanswered,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL; started again when it is over.
    Kill(Who),
    /// SIGSTOP, then SIGCONT.
    Pause(Who),
    Lose(Loss, Who),
    /// Its disk takes no more; after it has room, the node goes on by itself.
    Fill(Who),
    /// Clients that take its places and give nothing back ([`super::crowd`]).
    Crowd(Who),
    /// SIGKILL; started again with a log whose reader is gone, and in the end again with one that is read.
    Unread(Who),
}

/// A fault in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timed {
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    pub(super) fault: Fault,
}

/// Everything that goes wrong in a run of this length.
pub(super) fn draw(seed: u64, time: Duration, nodes: u64, abilities: Abilities) -> Vec<Timed> {
    let mut dice = Dice(seed);
    let mut at = Duration::from_millis(FIRST_MS);
    let mut plan = Vec::new();
    while at < time {
        let fault = Fault::draw(&mut dice, nodes, abilities);
        let lasts = Duration::from_millis(fault.lasts_ms(&mut dice));
        plan.push(Timed { at, lasts, fault });
        let calm = if dice.one_in(CALM_ONE_IN) { CALM_MS } else { 0 };
        at += Duration::from_millis(calm + GAP_MS.start + dice.below(GAP_MS.end - GAP_MS.start));
    }
    plan
}

/// A fault comes, or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Begins,
    Ends,
}

/// What happens when, with the fault's number in the plan. One that lasts no time begins before it ends.
pub(super) fn turns(plan: &[Timed]) -> Vec<(Duration, usize, Turn)> {
    let both = |(number, timed): (usize, &Timed)| {
        [(timed.at, number, Turn::Begins), (timed.at + timed.lasts, number, Turn::Ends)]
    };
    let mut turns: Vec<_> = plan.iter().enumerate().flat_map(both).collect();
    turns.sort_unstable();
    turns
}

impl Fault {
    fn draw(dice: &mut Dice, nodes: u64, abilities: Abilities) -> Fault {
        loop {
            let node = 1 + dice.below(nodes);
            let who = if dice.one_in(2) { Who::Leader(node) } else { Who::Node(node) };
            let loss = match dice.below(6) {
                0 | 1 => Loss::Alone,
                2 => Loss::Deaf,
                3 => Loss::Mute,
                4 => Loss::OneWay,
                _ => Loss::Unanswered,
            };
            match dice.below(15) {
                0..=3 => return Fault::Kill(if dice.one_in(6) { Who::All } else { who }),
                4..=6 => return Fault::Pause(if dice.one_in(10) { Who::All } else { who }),
                7..=10 if abilities.partitions => return Fault::Lose(loss, who),
                11 if abilities.disks => return Fault::Fill(who),
                12 => return Fault::Crowd(who),
                13 => return Fault::Unread(who),
                _ => {}
            }
        }
    }

    /// Around the election time-out, below and above; half of those killed come back at once.
    fn lasts_ms(self, dice: &mut Dice) -> u64 {
        match self {
            Fault::Kill(_) if dice.one_in(2) => 0,
            Fault::Kill(_) => dice.below(2_000),
            Fault::Pause(_) => 50 + dice.below(2_000),
            Fault::Lose(..) => 200 + dice.below(4_000),
            Fault::Fill(_) | Fault::Crowd(_) | Fault::Unread(_) => 500 + dice.below(3_000),
        }
    }

    pub(super) fn who(self) -> Who {
        match self {
            Fault::Kill(who) | Fault::Pause(who) | Fault::Lose(_, who) => who,
            Fault::Fill(who) | Fault::Crowd(who) | Fault::Unread(who) => who,
        }
    }

    /// For the report.
    pub(super) fn name(self) -> String {
        let what = match self {
            Fault::Kill(_) => "SIGKILL",
            Fault::Pause(_) => "SIGSTOP",
            Fault::Lose(Loss::Alone, _) => "cut off from the others",
            Fault::Lose(Loss::Deaf, _) => "hears no other",
            Fault::Lose(Loss::Mute, _) => "heard by no other",
            Fault::Lose(Loss::OneWay, _) => "not heard by one other",
            Fault::Lose(Loss::Unanswered, _) => "clients hear no answer",
            Fault::Fill(_) => "disk full",
            Fault::Crowd(_) => "crowd of clients that do nothing",
            Fault::Unread(_) => "log that nobody reads",
        };
        let whom = match self.who() {
            Who::Node(_) => "a node",
            Who::Leader(_) => "the leader",
            Who::All => "all nodes",
        };
        format!("{what}, {whom}")
    }

    /// What it asks for, once it is known whom it means.
    pub(super) fn on(self, victims: &[u64], nodes: u64) -> Want {
        let mut want = Want::default();
        for &victim in victims {
            match self {
                Fault::Kill(_) => drop(want.down.insert(victim)),
                Fault::Pause(_) => drop(want.paused.insert(victim)),
                Fault::Fill(_) => drop(want.full.insert(victim)),
                Fault::Crowd(_) => drop(want.crowded.insert(victim)),
                Fault::Unread(_) => drop(want.unread.insert(victim)),
                Fault::Lose(loss, _) => want.lost.extend(loss.links(victim, nodes)),
            }
        }
        want
    }
}

impl Loss {
    /// From whom to whom.
    fn links(self, node: u64, nodes: u64) -> Vec<(u64, u64)> {
        let others = (1..=nodes).filter(|other| *other != node);
        match self {
            Loss::Alone => others.flat_map(|other| [(node, other), (other, node)]).collect(),
            Loss::Deaf => others.map(|other| (other, node)).collect(),
            Loss::Mute => others.map(|other| (node, other)).collect(),
            Loss::OneWay => vec![(node, node % nodes + 1)],
            Loss::Unanswered => vec![(node, CLIENTS)],
        }
    }
}

/// How the world is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) down: BTreeSet<u64>,
    pub(super) paused: BTreeSet<u64>,
    pub(super) full: BTreeSet<u64>,
    pub(super) crowded: BTreeSet<u64>,
    pub(super) unread: BTreeSet<u64>,
    pub(super) lost: BTreeSet<(u64, u64)>,
}

impl Want {
    /// All that any of them asks for.
    pub(super) fn union<'w>(all: impl IntoIterator<Item = &'w Want>) -> Want {
        let mut union = Want::default();
        for want in all {
            union.down.extend(&want.down);
            union.paused.extend(&want.paused);
            union.full.extend(&want.full);
            union.crowded.extend(&want.crowded);
            union.unread.extend(&want.unread);
            union.lost.extend(&want.lost);
        }
        union
    }
}
