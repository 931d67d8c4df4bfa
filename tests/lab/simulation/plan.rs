//! What a run is to be: drawn from a seed, written down, and cut shorter by whoever looks for the cause of a failure.

use converge_ledger_core::chance::Dice;
use converge_ledger_core::chance::mix;
use serde::{Deserialize, Serialize};

use super::links::{NetworkPlan, Weather};
use super::tuning::Tuning;
use crate::workload::Mix;

/// The smallest window of keys that a cluster can be given: about every other run comes to its end.
const KEY_WINDOW: u64 = 1 << 10;

/// Everything that a run depends on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Chance within the run: latencies, what clients do.
    pub seed: u64,
    pub(super) nodes: Vec<Tuning>,
    pub(super) network: NetworkPlan,
    pub(super) clients: Vec<Mix>,
    /// What the cluster is formed with, in place of a window that no run comes to the end of.
    #[serde(default)]
    pub(super) key_window: Option<u64>,
    /// Faults touch only these, fewer than half: the others have to go on within a bounded time.
    pub(super) victims: Option<Vec<u64>>,
    /// In order of time.
    pub(super) faults: Vec<Timed>,
    /// How long faults and clients go on; then everything is healed.
    pub(super) faults_ms: u64,
}

/// A fault and when it comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Timed {
    pub(super) at_ms: u64,
    pub(super) fault: Fault,
}

/// What goes wrong. Nodes are named by their ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// The process is gone; after a power cut, so is what was not synced.
    Crash { node: u64, power: bool, down_ms: u64 },
    /// All processes are gone in the same moment.
    Blackout { power: bool, down_ms: u64 },
    /// A process is gone at the n-th operation of its disk from now: within a write, a sync, a commit, a recovery.
    CrashWithin { node: u64, operations: u64, power: bool },
    /// Stopped in order, and started with other settings.
    Restart { node: u64, tuning: Box<Tuning>, down_ms: u64 },
    /// Stopped in order, and started as an older program, which cannot read what the cluster commits; as this one again
    /// later. Only while most nodes are of this one.
    Older { node: u64, for_ms: u64 },
    /// An actor or supervisor of the node dies.
    Kill { node: u64, place: u64, panic: bool },
    /// Nothing passes one way.
    OneWay { from: u64, to: u64, for_ms: u64 },
    /// Nothing passes between these and the others.
    Split { side: Vec<u64>, for_ms: u64 },
    /// Nothing passes between two nodes that others still reach.
    Apart { a: u64, b: u64, for_ms: u64 },
    /// Whoever leads is cut off from all others.
    Isolate { for_ms: u64 },
    /// Connections between two nodes break.
    Reset { a: u64, b: u64 },
    /// Frames are lost, late, doubled, out of order.
    Weather { weather: Weather, for_ms: u64 },
    /// Every step of the disk takes so long.
    SlowDisk { node: u64, step_ms: (u64, u64), for_ms: u64 },
    /// The n-th sync from now fails; an operator restarts the node later.
    FailSync { node: u64, nth: u64, operator_ms: u64 },
    /// The n-th write from now fails; an operator restarts the node later.
    FailWrite { node: u64, nth: u64, operator_ms: u64 },
    /// Reads fail, from the n-th on so many: from now, or from a start of the process, which then ends now. An operator
    /// starts it anew, who looks once in so long.
    FailRead { node: u64, nth: u64, many: u64, in_start: bool, operator_ms: u64 },
    /// The disk has so many bytes left, and room again later: the node goes on by itself.
    Full { node: u64, room_bytes: u64, for_ms: u64 },
    /// Files cannot be opened for lack of a descriptor, from the n-th on so many: from now, or from a start of the
    /// process, which then ends now. The node goes on by itself.
    Lack { node: u64, nth: u64, many: u64, in_start: bool },
    /// One bit of the database's file turns over.
    Rot { node: u64, place_permille: u64, bit: u8 },
    /// One bit of the journal turns over, of those that are durable and mean something; then the machine may fail.
    RotJournal { node: u64, place: u64, bit: u8, end: Option<Ending> },
    /// One bit of the last journal record turns over, as soon as there is one that the database does not have, and the
    /// process ends, and comes back.
    RotTail { node: u64, place: u64, bit: u8, power: bool },
    /// The wall clock jumps.
    Clock { node: u64, by_ms: i64 },
    /// Somebody copies the directory of a node that is a member of the cluster.
    Copy { node: u64 },
    /// All processes are gone in the same moment, and each node that has a copy of its directory comes back with that,
    /// after so long for each.
    PutBack { down_ms: Vec<u64> },
}

/// How a process ends, and for how long it is gone.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) power: bool,
    pub(super) down_ms: u64,
}

impl Fault {
    /// The kind, as the report counts it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Fault::Crash { power: true, .. } => "power cut",
            Fault::Crash { .. } => "process killed",
            Fault::Blackout { power: true, .. } => "power cut of all nodes",
            Fault::Blackout { .. } => "all processes killed",
            Fault::CrashWithin { power: true, .. } => "power cut within an operation",
            Fault::CrashWithin { .. } => "process killed within an operation",
            Fault::Restart { .. } => "restart with other settings",
            Fault::Older { .. } => "older program",
            Fault::Kill { panic: true, .. } => "actor panics",
            Fault::Kill { .. } => "actor killed",
            Fault::OneWay { .. } => "one-way partition",
            Fault::Split { .. } => "whole partition",
            Fault::Apart { .. } => "partial partition",
            Fault::Isolate { .. } => "leader cut off",
            Fault::Reset { .. } => "connections reset",
            Fault::Weather { .. } => "loss, delay, reordering, duplication",
            Fault::SlowDisk { .. } => "slow disk",
            Fault::FailSync { .. } => "sync error",
            Fault::FailWrite { .. } => "write error",
            Fault::FailRead { in_start: true, .. } => "read error in a start",
            Fault::FailRead { .. } => "read error",
            Fault::Full { .. } => "disk full",
            Fault::Lack { .. } => "no descriptor",
            Fault::Rot { .. } => "bit rot",
            Fault::RotJournal { .. } => "bit rot in the journal",
            Fault::RotTail { .. } => "bit rot in the last record",
            Fault::Clock { .. } => "clock jump",
            Fault::Copy { .. } => "directory copied",
            Fault::PutBack { .. } => "copies put back",
        }
    }
}

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Faults of a run.
    pub faults: u64,
    /// Simulated time in which they come, in milliseconds.
    pub faults_ms: u64,
}

impl Default for Shape {
    /// 80 faults in 60 s.
    fn default() -> Shape {
        Shape { faults: 80, faults_ms: 60_000 }
    }
}

impl Plan {
    /// Whether pages of a database rot in it. redb does not check those that it keeps for itself: it panics over them.
    pub(super) fn rots_database(&self) -> bool {
        self.faults.iter().any(|timed| matches!(timed.fault, Fault::Rot { .. }))
    }

    /// The plan that a seed means.
    #[must_use]
    pub fn draw(seed: u64, shape: Shape) -> Plan {
        let mut draw = Draw(Dice(mix(seed ^ 0x5eed)));
        let count = draw.pick(&[3, 3, 3, 3, 3, 5, 1]);
        let (heartbeat, factor) = (draw.between(20, 120), draw.between(5, 12));
        let nodes = (0..count).map(|_| draw.tuning(heartbeat, factor)).collect();
        let network = draw.network();
        let clients = (0..draw.between(2, 8)).map(|_| draw.client(count)).collect();
        let victims = (count > 2 && draw.one_in(4)).then(|| draw.minority(count));
        let rotten = (count > 1 && draw.one_in(2)).then(|| match &victims {
            Some(victims) => draw.pick(victims),
            None => draw.between(1, count),
        });
        // Of one kind as a rule: a node whose database is damaged is seldom up for long enough to hear of its journal.
        let rots = draw.pick(&[Rots::Database, Rots::Journal, Rots::Tail, Rots::Both]);
        let world =
            Fleet { count, heartbeat, factor, rotten: rotten.map(|node| (node, rots)), victims: victims.clone() };
        let mut faults: Vec<Timed> = (0..shape.faults)
            .map(|_| Timed { at_ms: draw.moment(shape.faults_ms), fault: draw.fault(&world) })
            .collect();
        // Its node is fenced from then on, and misses all faults behind it.
        let tails = faults.iter_mut().filter(|timed| matches!(timed.fault, Fault::RotTail { .. }));
        tails.for_each(|timed| timed.at_ms = shape.faults_ms - (shape.faults_ms - timed.at_ms) / 5);
        // Apart from the rest: who rots or is to go on cannot be told from who was put back.
        if victims.is_none() && rotten.is_none() && count > 1 {
            Draw(Dice(mix(seed ^ 0xc0b1))).restoration(count, shape, &mut faults);
        }
        faults.sort_by_key(|fault| fault.at_ms);
        let faults_ms = shape.faults_ms;
        let mut plan = Plan { seed, nodes, network, clients, key_window: None, victims, faults, faults_ms };
        Draw(Dice(mix(seed ^ 0x2e75))).key_window(&mut plan);
        Draw(Dice(mix(seed ^ 0x01de))).older(&mut plan, shape);
        plan
    }

    /// How many faults come.
    #[must_use]
    pub fn faults(&self) -> usize {
        self.faults.len()
    }
}

/// What faults are drawn for.
struct Fleet {
    count: u64,
    heartbeat: u64,
    factor: u64,
    /// The one node whose disk may rot: a majority must stay whole.
    rotten: Option<(u64, Rots)>,
    victims: Option<Vec<u64>>,
}

/// What of a disk rots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rots {
    Database,
    Journal,
    /// The last record of the journal.
    Tail,
    Both,
}

pub(super) struct Draw(Dice);

impl Draw {
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.0.below(most - least + 1)
    }

    /// Any time; once in a while the first seconds, when a cluster is formed.
    fn moment(&mut self, faults_ms: u64) -> u64 {
        let within = if self.one_in(10) { faults_ms.min(2000) } else { faults_ms };
        self.between(0, within)
    }

    pub(super) fn size(&mut self, least: u64, most: u64) -> usize {
        usize::try_from(self.between(least, most)).expect("bounds are small")
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.0.one_in(n)
    }

    /// A draw that nothing takes any more. Without it, each seed would be another run than before.
    pub(super) fn skip(&mut self) -> &mut Self {
        self.0.roll();
        self
    }

    /// A number that takes no draw from those behind it: what they make of a seed stays.
    fn beside(&self, least: u64, most: u64) -> u64 {
        Draw(Dice(!self.0.0)).between(least, most)
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.0.below(of.len() as u64)).expect("small")]
    }

    fn network(&mut self) -> NetworkPlan {
        let latency = self.pick(&[(50, 300), (100, 2000), (1000, 10_000), (0, 30_000)]);
        let keepalive = self.between(200, 2000);
        NetworkPlan {
            latency_us: latency,
            keepalive_ms: (keepalive, keepalive * 3),
            redial_ms: (1, self.between(5, 500)),
            queue_bytes_max: self.size(32 << 10, 512 << 10),
        }
    }

    fn client(&mut self, count: u64) -> Mix {
        Mix {
            home: self.one_in(2).then(|| self.between(1, count)),
            contexts: self.between(1, 4),
            think_ms: self.pick(&[5, 20, 100, 500]),
            deadline_ms: self.pick(&[(50, 500), (200, 2000), (1000, 10_000)]),
            payload_bytes: self.pick(&[16, 64, 300, 2000]),
            read_one_in: self.between(2, 8),
            watch_one_in: self.between(10, 60),
            load_one_in: self.between(20, 100),
            expect_one_in: self.between(3, 20),
            key_one_in: self.between(1, 3),
            many_one_in: self.beside(2, 9),
            reuse_one_in: u64::MAX,
            page: 0,
        }
    }

    /// In some runs keys leave their window, and clients use them again.
    fn key_window(&mut self, plan: &mut Plan) {
        if self.one_in(3) {
            plan.key_window = Some(KEY_WINDOW);
            plan.clients.iter_mut().for_each(|client| client.reuse_one_in = self.between(2, 12));
        }
    }

    /// In some runs nodes are of an older program for a while. Not where copies are put back: of one that applies nothing it
    /// is not told what it had.
    fn older(&mut self, plan: &mut Plan, Shape { faults, faults_ms }: Shape) {
        let count = plan.nodes.len() as u64;
        let puts_back = plan.faults.iter().any(|timed| matches!(timed.fault, Fault::PutBack { .. }));
        if faults == 0 || count == 1 || puts_back || !self.one_in(4) {
            return;
        }
        for _ in 0..self.between(1, 3) {
            let node = match &plan.victims {
                Some(victims) => self.pick(victims),
                None => self.between(1, count),
            };
            let for_ms = self.pick(&[500, 2000, 8000]) + self.between(0, 500);
            plan.faults.push(Timed { at_ms: self.moment(faults_ms), fault: Fault::Older { node, for_ms } });
        }
        plan.faults.sort_by_key(|fault| fault.at_ms);
    }

    /// Fewer than half of the nodes, but one.
    fn minority(&mut self, count: u64) -> Vec<u64> {
        let (first, most) = (self.between(1, count), self.between(1, (count - 1) / 2));
        (0..most).map(|n| (first + n - 1) % count + 1).collect()
    }

    /// In some runs, copies of different age are put back on all nodes.
    fn restoration(&mut self, count: u64, Shape { faults, faults_ms }: Shape, all: &mut Vec<Timed>) {
        if faults == 0 || !self.one_in(3) {
            return;
        }
        let at_ms = self.between(faults_ms / 2, faults_ms * 4 / 5);
        for node in 1..=count {
            if !self.one_in(4) {
                all.push(Timed { at_ms: self.between(faults_ms / 10, at_ms), fault: Fault::Copy { node } });
            }
        }
        let down_ms = (0..count).map(|_| self.pick(&[0, 100, 1000, 4000])).collect();
        all.push(Timed { at_ms, fault: Fault::PutBack { down_ms } });
    }

    fn fault(&mut self, world: &Fleet) -> Fault {
        match (&world.victims, self.any_fault(world)) {
            (None, fault) => fault,
            // What touches all, or the others, is replaced.
            (Some(victims), fault) => match fault {
                Fault::Blackout { power, down_ms } => Fault::Crash { node: self.pick(victims), power, down_ms },
                Fault::Weather { for_ms, .. } | Fault::Isolate { for_ms } => {
                    Fault::OneWay { from: self.pick(victims), to: self.between(1, world.count), for_ms }
                }
                Fault::Split { for_ms, .. } => Fault::Split { side: victims.clone(), for_ms },
                other => other,
            },
        }
    }

    fn any_fault(&mut self, world: &Fleet) -> Fault {
        let node = match &world.victims {
            Some(victims) => self.pick(victims),
            None => self.between(1, world.count),
        };
        let for_ms = self.pick(&[50, 300, 1500, 4000]) + self.between(0, 500);
        let down_ms = self.pick(&[0, 100, 1000, 4000]) + self.between(0, 300);
        let other = (node + self.between(0, world.count.max(2) - 2)) % world.count + 1;
        match self.0.below(104) {
            0..=7 => Fault::Crash { node, power: self.one_in(2), down_ms },
            8..=9 => Fault::Blackout { power: !self.one_in(3), down_ms },
            10..=21 => {
                let operations = self.pick(&[1, 3, 10, 40, 150]);
                let operations = self.between(1, operations);
                Fault::CrashWithin { node, operations, power: !self.one_in(4) }
            }
            22..=26 => {
                let tuning = Box::new(self.tuning(world.heartbeat, world.factor));
                Fault::Restart { node, tuning, down_ms }
            }
            27..=41 => Fault::Kill { node, place: self.0.roll(), panic: self.one_in(2) },
            42..=47 if world.count > 1 => Fault::OneWay { from: node, to: other, for_ms },
            48..=49 if world.count > 1 => Fault::Isolate { for_ms },
            50..=54 if world.count > 1 => {
                // Neither nobody nor everybody.
                let (first, many) = (self.between(1, world.count), self.between(1, world.count - 1));
                let side = (0..many).map(|n| (first + n - 1) % world.count + 1).collect();
                Fault::Split { side, for_ms }
            }
            55..=59 if world.count > 2 => Fault::Apart { a: node, b: other, for_ms },
            60..=64 if world.count > 1 => Fault::Reset { a: node, b: other },
            65..=73 if world.count > 1 => Fault::Weather { weather: self.weather(), for_ms },
            74..=80 => {
                let least = self.pick(&[1, 20, 200]);
                Fault::SlowDisk { node, step_ms: (least, least * self.between(1, 10)), for_ms }
            }
            81..=84 => Fault::FailSync { node, nth: self.between(1, 12), operator_ms: for_ms },
            85..=87 => Fault::FailWrite { node, nth: self.between(1, 30), operator_ms: for_ms },
            88..=90 => Fault::Full { node, room_bytes: self.between(0, 200 << 10), for_ms },
            91 => {
                let in_start = !self.one_in(3);
                let (nth, many) = (self.between(1, if in_start { 12 } else { 2 }), self.between(1, 5));
                Fault::Lack { node, nth, many, in_start }
            }
            92..=94 => match world.rotten {
                Some((node, rots)) => self.rot(node, rots, down_ms),
                None => Fault::Kill { node, place: self.0.roll(), panic: false },
            },
            95..=98 => self.failed_reads(node, for_ms),
            _ => {
                let size = self.pick(&[10, 1000, 3_600_000]);
                let by = self.between(0, 2 * size) as i64 - size as i64;
                Fault::Clock { node, by_ms: by }
            }
        }
    }

    fn rot(&mut self, node: u64, rots: Rots, down_ms: u64) -> Fault {
        let (place, bit) = (self.0.roll(), self.0.roll() as u8 % 8);
        if rots == Rots::Database || (rots == Rots::Both && self.one_in(2)) {
            return Fault::Rot { node, place_permille: place % 1000, bit };
        }
        let power = self.one_in(2);
        if rots == Rots::Tail {
            return Fault::RotTail { node, place, bit, power };
        }
        // Only a start reads the journal.
        let end = (!self.one_in(3)).then_some(Ending { power, down_ms });
        Fault::RotJournal { node, place, bit, end }
    }

    fn failed_reads(&mut self, node: u64, operator_ms: u64) -> Fault {
        // Most reads are those of a start: behind it, what is in memory need not be read.
        let in_start = !self.one_in(3);
        let most = self.pick(if in_start { &[10, 60, 250, 800] } else { &[1, 3, 20, 20] });
        let nth = self.between(1, most);
        let many = self.pick(&[1, 1, 4, u64::from(u32::MAX)]);
        Fault::FailRead { node, nth, many, in_start, operator_ms }
    }

    fn weather(&mut self) -> Weather {
        Weather {
            loss_permille: self.pick(&[0, 10, 100, 300]),
            duplicate_permille: self.pick(&[0, 20, 200]),
            reorder_permille: self.pick(&[0, 20, 200]),
            delay_ms: self.pick(&[0, 5, 50, 400]),
        }
    }
}
