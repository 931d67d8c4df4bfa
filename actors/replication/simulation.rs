//! The core under a simulated disk, network and clock, in one thread: a seed is a run.
//!
//! What is replaced is the world: what the disk has synced and what it has not, what a link delivers, loses or cuts
//! off, when a tick comes, who crashes. The core is the product's. Held at every step: one leader per term, an
//! applied index never changes, hard state never goes back; after healing: every proposal that was applied anywhere is
//! applied everywhere, in the same order.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use converge_ledger_core::chance::Dice;
use converge_ledger_core::{LogIndex, NodeId};
use raft::eraftpb::{ConfState, Entry, HardState, Message, Snapshot};
use raft::{GetEntriesContext, RaftState, StateRole, StorageError};

use super::core::{Bounds, Core, Output, Settings};
use super::history::ReadLog;
use super::judge::Objection;

const NODES: u64 = 3;

/// A disk that tells what is synced from what is only written.
#[derive(Default)]
struct LogDisk {
    /// Readable: all that was written.
    log: Vec<Entry>,
    /// What a crash leaves.
    synced_log: Vec<Entry>,
    synced_state: HardState,
    /// Written in order, not synced.
    queue: VecDeque<(u64, Vec<Entry>, Option<HardState>)>,
}

/// S4: entries that start at i replace every one from i on.
fn write(log: &mut Vec<Entry>, entries: &[Entry]) {
    if let Some(first) = entries.first() {
        let keep = usize::try_from(first.index - 1).unwrap();
        assert!(keep <= log.len(), "log has a gap before {}", first.index);
        log.truncate(keep);
        log.extend_from_slice(entries);
    }
}

impl LogDisk {
    fn sync_next(&mut self) -> Option<u64> {
        let (number, entries, state) = self.queue.pop_front()?;
        write(&mut self.synced_log, &entries);
        if let Some(state) = state {
            assert!(state.term >= self.synced_state.term, "a term went back");
            self.synced_state = state;
        }
        Some(number)
    }

    fn crash(&mut self) {
        self.queue.clear();
        self.log = self.synced_log.clone();
    }
}

#[derive(Clone)]
struct SimLog(Rc<RefCell<LogDisk>>);

impl ReadLog for SimLog {}

impl raft::Storage for SimLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let disk = self.0.borrow();
        let mut state = disk.synced_state.clone();
        state.commit = state.commit.min(disk.log.len() as u64);
        Ok(RaftState::new(state, ConfState { voters: (1..=NODES).collect(), ..ConfState::default() }))
    }
    fn entries(
        &self,
        low: u64,
        high: u64,
        _: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let at = |index: u64| usize::try_from(index - 1).unwrap();
        Ok(self.0.borrow().log[at(low)..at(high)].to_vec())
    }
    fn term(&self, index: u64) -> raft::Result<u64> {
        match index {
            0 => Ok(0),
            i => {
                let term = self.0.borrow().log.get(usize::try_from(i - 1).unwrap()).map(|e| e.term);
                term.ok_or(raft::Error::Store(StorageError::Unavailable))
            }
        }
    }
    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }
    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.0.borrow().log.len() as u64)
    }
    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

struct SimNode {
    core: Core<SimLog>,
    disk: Rc<RefCell<LogDisk>>,
    applied: u64,
}

#[derive(Default)]
struct Outbox {
    messages: Vec<Message>,
    applied: Vec<Entry>,
    disk: Option<Rc<RefCell<LogDisk>>>,
}

impl Output for Outbox {
    fn send(&mut self, message: Message) {
        self.messages.push(message);
    }
    fn persist(&mut self, number: u64, entries: Vec<Entry>, hard_state: Option<HardState>) {
        let mut disk = self.disk.as_ref().expect("set before every step").borrow_mut();
        write(&mut disk.log, &entries);
        disk.queue.push_back((number, entries, hard_state));
    }
    fn apply(&mut self, entries: Vec<Entry>) {
        self.applied.extend(entries);
    }
    fn read_state(&mut self, _: Vec<u8>, _: LogIndex) {}
}

struct SimCluster {
    chance: Dice,
    nodes: Vec<SimNode>,
    /// In flight, by (from, to), in order: links are TCP connections.
    links: BTreeMap<(u64, u64), VecDeque<Message>>,
    cut: BTreeMap<(u64, u64), bool>,
    /// What was applied at each index, by whoever applied it first.
    history: BTreeMap<u64, (u64, Bytes)>,
    leaders: BTreeMap<u64, u64>,
    proposed: u64,
    trace: u64,
    /// The most bytes of entries that one step sent to one peer.
    most_bytes: usize,
}

impl SimCluster {
    fn new(seed: u64) -> SimCluster {
        let mut cluster = SimCluster {
            chance: Dice(seed),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            cut: BTreeMap::new(),
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            proposed: 0,
            trace: 0,
            most_bytes: 0,
        };
        for id in 1..=NODES {
            let disk = Rc::default();
            let core = SimCluster::boot(id, &disk, seed);
            cluster.nodes.push(SimNode { core, disk, applied: 0 });
        }
        cluster
    }

    fn boot(id: u64, disk: &Rc<RefCell<LogDisk>>, seed: u64) -> Core<SimLog> {
        let settings = Settings {
            id: NodeId(id),
            heartbeat_ticks: 2,
            election_ticks: 10,
            applied: LogIndex(0),
            seed,
            single: false,
            bounds: Bounds::default(),
        };
        Core::new(settings, SimLog(disk.clone())).unwrap()
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.chance.below(bound)
    }

    /// Runs one step of a node's core and carries out what it decides.
    fn drive(&mut self, at: usize, step: impl FnOnce(&mut Core<SimLog>, &mut Outbox)) {
        let disk = Some(self.nodes[at].disk.clone());
        let mut out = Outbox { disk: disk.clone(), ..Outbox::default() };
        step(&mut self.nodes[at].core, &mut out);
        while self.carry_out(at, out) {
            out = Outbox { disk: disk.clone(), ..Outbox::default() };
            let node = &mut self.nodes[at];
            node.core.applied(LogIndex(node.applied), &mut out);
        }
    }

    /// Whether anything was applied, which the core must hear of.
    fn carry_out(&mut self, at: usize, out: Outbox) -> bool {
        let node = &mut self.nodes[at];
        for entry in &out.applied {
            assert_eq!(entry.index, node.applied + 1, "apply takes exactly the next index");
            node.applied = entry.index;
            let fact = (entry.term, entry.data.clone());
            let first = self.history.entry(entry.index).or_insert_with(|| fact.clone());
            assert_eq!(*first, fact, "index {} was applied differently elsewhere", entry.index);
        }
        let summary = node.core.summary();
        if summary.role == StateRole::Leader {
            let id = at as u64 + 1;
            assert_eq!(*self.leaders.entry(summary.term.get()).or_insert(id), id, "two leaders in one term");
        }
        let mut bytes = BTreeMap::<u64, usize>::new();
        for message in out.messages {
            let key = (message.from, message.to);
            let sent = bytes.entry(message.to).or_default();
            *sent += message.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
            self.most_bytes = self.most_bytes.max(*sent);
            self.trace =
                self.trace.rotate_left(7) ^ message.index ^ (message.term << 20) ^ (key.0 << 50) ^ (key.1 << 54);
            if !self.cut.get(&key).copied().unwrap_or(false) {
                self.links.entry(key).or_default().push_back(message);
            }
        }
        !out.applied.is_empty()
    }

    fn step(&mut self) {
        let at = usize::try_from(self.draw(NODES)).unwrap();
        match self.draw(100) {
            0..=24 => self.drive(at, |core, out| core.tick(out)),
            25..=59 => self.deliver(),
            60..=84 => self.sync(at),
            85..=94 => self.propose(at),
            95..=96 => self.reset_link(at),
            97 => self.toggle_cut(),
            98 => self.lacks(at),
            _ if self.draw(4) == 0 => self.crash(at),
            _ => {}
        }
    }

    fn deliver(&mut self) {
        let waiting: Vec<(u64, u64)> = self.links.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
        if waiting.is_empty() {
            return;
        }
        let pick = usize::try_from(self.draw(waiting.len() as u64)).unwrap();
        let key = waiting[pick];
        let message = self.links.get_mut(&key).unwrap().pop_front().unwrap();
        let to = usize::try_from(key.1 - 1).unwrap();
        self.drive(to, |core, out| match core.message(message, out) {
            Ok(()) | Err(Objection::Late) => {}
            Err(objection) => panic!("{objection:?} of a correct node"),
        });
    }

    fn sync(&mut self, at: usize) {
        let number = self.nodes[at].disk.borrow_mut().sync_next();
        if let Some(number) = number {
            self.drive(at, |core, out| core.persisted(number, out));
        }
    }

    fn propose(&mut self, at: usize) {
        self.proposed += 1;
        let data = Bytes::from(self.proposed.to_le_bytes().to_vec());
        // Refused where this node does not lead.
        self.drive(at, |core, out| {
            let _ = core.propose(data, out);
        });
    }

    /// A connection breaks: what is in flight in both directions is lost, and both ends hear of it.
    fn reset_link(&mut self, at: usize) {
        let (a, b) = (at as u64 + 1, (at as u64 + 1) % NODES + 1);
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(from, to));
            let end = usize::try_from(from - 1).unwrap();
            self.drive(end, |core, out| core.unreachable(NodeId(to), out));
        }
    }

    /// A disk becomes slow, or short of room, or well again.
    fn lacks(&mut self, at: usize) {
        let lacks = self.draw(2) == 0;
        self.nodes[at].core.set_reluctant(lacks);
        if lacks {
            self.drive(at, |core, out| core.step_down(out));
        }
    }

    fn toggle_cut(&mut self) {
        let from = self.draw(NODES) + 1;
        let to = (from + self.draw(NODES - 1)) % NODES + 1;
        let cut = self.cut.entry((from, to)).or_default();
        *cut = !*cut;
    }

    fn crash(&mut self, at: usize) {
        let id = at as u64 + 1;
        self.links.retain(|(from, to), _| *from != id && *to != id);
        let disk = self.nodes[at].disk.clone();
        disk.borrow_mut().crash();
        let seed = self.draw(u64::MAX);
        self.nodes[at] = SimNode { core: SimCluster::boot(id, &disk, seed), disk, applied: 0 };
        self.drive(at, |core, out| core.settle(out));
    }

    /// No more faults: everything is delivered and synced, and time passes.
    fn heal(&mut self) {
        self.cut.clear();
        (0..NODES).for_each(|at| self.reset_link(usize::try_from(at).unwrap()));
        for round in 0..4000 {
            for at in 0..self.nodes.len() {
                if round % 4 == 0 {
                    self.drive(at, |core, out| core.tick(out));
                }
                self.sync(at);
            }
            (0..8).for_each(|_| self.deliver());
        }
    }
}

fn run(seed: u64) -> (u64, u64) {
    let mut cluster = SimCluster::new(seed);
    (0..4000).for_each(|_| cluster.step());
    cluster.heal();
    let before = cluster.proposed;
    (0..cluster.nodes.len()).for_each(|at| cluster.propose(at));
    cluster.heal();
    let last = *cluster.history.keys().last().unwrap();
    for node in &cluster.nodes {
        assert_eq!(node.applied, last, "seed {seed}: a healed node lags");
    }
    let newest =
        cluster.history.values().filter_map(|(_, data)| Some(u64::from_le_bytes(data[..].try_into().ok()?))).max();
    assert!(newest > Some(before), "seed {seed}: a healed cluster takes proposals");
    (cluster.trace, last)
}

#[test]
fn faults_never_fork_the_log_and_healing_converges() {
    let applied: u64 = (0..60).map(|seed| run(seed).1).sum();
    assert!(applied > 60 * 20, "the runs did work: {applied} entries applied");
}

#[test]
fn a_seed_repeats_a_run_exactly() {
    for seed in [3, 77, 1234] {
        assert_eq!(run(seed), run(seed));
    }
}

/// A cluster that has elected a leader, and the leader.
fn led(seed: u64) -> (SimCluster, usize) {
    let mut cluster = SimCluster::new(seed);
    cluster.heal();
    let leads = |node: &SimNode| node.core.summary().role == StateRole::Leader;
    let leader = cluster.nodes.iter().position(leads).unwrap();
    (cluster, leader)
}

#[test]
fn a_peer_that_comes_back_is_sent_no_more_at_once_than_its_link_takes() {
    let (mut cluster, leader) = led(5);
    let (id, lost) = (leader as u64 + 1, (leader as u64 + 1) % NODES + 1);
    let ways = [(id, lost), (lost, id)];
    cluster.cut.extend(ways.map(|way| (way, true)));
    for _ in 0..64 {
        let data = Bytes::from(vec![7; 1 << 20]);
        cluster.drive(leader, |core, out| core.propose(data, out).unwrap());
        for _ in 0..8 {
            (0..cluster.nodes.len()).for_each(|at| cluster.sync(at));
            (0..8).for_each(|_| cluster.deliver());
        }
    }
    cluster.most_bytes = 0;
    cluster.heal();
    let behind = usize::try_from(lost - 1).unwrap();
    assert_eq!(cluster.nodes[behind].applied, cluster.nodes[leader].applied);
    let link = crate::distribution::Settings::default().queue_bytes_max;
    assert!(cluster.most_bytes <= link, "{} bytes in one step, the link queues {link}", cluster.most_bytes);
}

#[test]
fn a_leader_that_cannot_sync_leaves_its_office_to_another() {
    let (mut cluster, leader) = led(9);
    let other = (leader + 1) % cluster.nodes.len();
    cluster.nodes[leader].core.set_reluctant(true);
    cluster.drive(leader, |core, out| core.step_down(out));
    for round in 0..200_u64 {
        // Readers on a follower go on asking; the disk of the one that led does nothing.
        cluster.drive(other, |core, out| core.read_index(round.to_le_bytes().to_vec(), out));
        for at in 0..cluster.nodes.len() {
            cluster.drive(at, |core, out| core.tick(out));
        }
        for _ in 0..8 {
            (0..cluster.nodes.len()).filter(|at| *at != leader).for_each(|at| cluster.sync(at));
            (0..8).for_each(|_| cluster.deliver());
        }
    }
    let leads = |node: &SimNode| node.core.summary().role == StateRole::Leader;
    let now = cluster.nodes.iter().enumerate().find(|(at, node)| *at != leader && leads(node));
    assert!(now.is_some(), "the followers elect another, though one of them asks the leader for reads");
}

/// One voter is down, and the leader has little room on its disk: who has more is elected, and appends go on.
#[test]
fn a_leader_short_of_room_gives_up_office_to_the_one_other_that_is_left() {
    for seed in 0..40 {
        let (mut cluster, leader) = led(seed);
        let (down, other) = ((leader + 1) % 3, (leader + 2) % 3);
        for peer in [leader, other] {
            let (a, b) = (down as u64 + 1, peer as u64 + 1);
            cluster.cut.extend([((a, b), true), ((b, a), true)]);
        }
        cluster.nodes[leader].core.set_reluctant(true);
        assert!(cluster.nodes[leader].core.is_drained_leader());
        cluster.drive(leader, |core, out| core.step_down(out));
        // The longest time-out of the other, in which one that is reluctant never campaigns.
        for _ in 0..2 * 10 {
            for at in [leader, other] {
                cluster.drive(at, |core, out| core.tick(out));
            }
            for _ in 0..4 {
                (0..3).for_each(|at| cluster.sync(at));
                (0..8).for_each(|_| cluster.deliver());
            }
        }
        assert_eq!(
            cluster.nodes[other].core.summary().role,
            StateRole::Leader,
            "seed {seed}: who has room is not elected"
        );
        let before = cluster.nodes[other].applied;
        cluster.propose(other);
        for _ in 0..8 {
            (0..3).for_each(|at| cluster.sync(at));
            (0..8).for_each(|_| cluster.deliver());
        }
        assert_eq!(cluster.nodes[other].applied, before + 1, "seed {seed}: an append does not go on");
    }
}
