//! The nodes of a run: real ones, each on its own disk. How they come and go is in [`lives`], how they are of
//! an older program in [`older`], how disks rot in [`rot`], how directories are copied and put back in [`copies`].

mod copies;
mod lives;
mod older;
mod rot;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::disk::{Counters, Faults, SimDisk};
use crate::segments::{SegmentFiles, of_disk};
use converge_actors::storage::{self, Phase};
use converge_ledger_core::NodeId;
use converge_ledger_core::chance::Dice;
use converge_ledger_core::chance::mix;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::facts::Facts;
use super::network::SimNetwork;
use super::plan::Plan;
use super::settings::{DIRECTORY, calls, config, entry_bounds, raft_bounds, storage_settings, watch_bounds};
use super::threads::{Pace, SimThreads};
use super::trace::Trace;
use super::tuning::Tuning;
use converge_ledger::config::Config;
use converge_ledger::environment::Environment;
use converge_ledger::supervisors::Tree;
use converge_ledger::{Ledger, Node};

/// The wall clock at the beginning of a run: 2023-11-14T22:13:20Z.
const WALL_NS: u64 = 1_700_000_000_000_000_000;

/// See the module.
pub(super) struct World {
    pub(super) facts: Facts,
    pub(super) trace: Trace,
    pub(super) network: SimNetwork,
    count: u64,
    key_window: Option<u64>,
    hosts: Mutex<BTreeMap<NodeId, Host>>,
    ending: AtomicBool,
    /// Copies of directories were put back.
    restored: AtomicBool,
    /// No fault comes any more.
    healing: AtomicBool,
}

/// A machine.
struct Host {
    disk: SimDisk,
    /// What somebody kept of it.
    copy: Option<SimDisk>,
    pace: Arc<Pace>,
    wall: Arc<AtomicI64>,
    tuning: Tuning,
    /// How many faults slow the disk down.
    slow: u32,
    dice: Dice,
    life: Option<Arc<Life>>,
    /// The program that is started there is an older one.
    older: bool,
    /// Somebody is starting or ending it.
    busy: bool,
    /// Ends the start that is on its way.
    starting: Option<CancellationToken>,
    /// It may say that it lost data: its disk rots, or was put back from a copy.
    rotten: bool,
    lives: u64,
    /// An actor of this life was killed, or made to panic: its supervisors may give up.
    hurt: bool,
    /// How it ends at the operation that is chosen for it.
    falls_by: End,
}

impl Host {
    /// Its disk is as fast as it is meant to be, unless something slows it down.
    fn steady(&self) {
        if self.slow == 0 {
            self.pace.set(self.tuning.disk_us);
        }
    }
}

/// A process.
pub(super) struct Life {
    pub(super) id: NodeId,
    number: u64,
    /// The restart intensities that it was started with are those that no run comes near; the host's may be others by now.
    forgiving: bool,
    /// Of an older program.
    older: bool,
    node: Mutex<Option<Node>>,
    ledger: Ledger,
    over: CancellationToken,
    /// Somebody has asked it to stop.
    stopping: AtomicBool,
}

impl Life {
    /// Returns when the process is gone.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn storage(&self) -> storage::Status {
        self.ledger.storage().status()
    }

    /// Voters that it leads and does not hear of.
    pub(super) fn unheard(&self) -> Vec<NodeId> {
        self.ledger.replication().unheard().into_iter().map(|(voter, _)| voter).collect()
    }

    fn is_full(&self) -> bool {
        matches!(self.fenced(), Some(storage::Cause::DiskFull { .. }))
    }

    fn fenced(&self) -> Option<storage::Cause> {
        match self.storage().phase {
            Phase::Fenced { cause } => Some(cause),
            _ => None,
        }
    }
}

/// Within so long a full disk is left once there is room: longer than storage's longest pause.
const LEAVE_FULL: Duration = Duration::from_secs(60);

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Killed: what was written is in the page cache.
    Kill,
    /// With the machine: what was not synced may be gone.
    PowerCut,
}

impl World {
    pub(super) fn new(plan: &Plan, network: SimNetwork, facts: Facts, trace: Trace) -> Arc<World> {
        let hosts = plan.nodes.iter().zip(1..).map(|(tuning, id)| {
            let host = Host {
                disk: SimDisk::default(),
                copy: None,
                pace: Arc::new(Pace::default()),
                wall: Arc::default(),
                tuning: tuning.clone(),
                slow: 0,
                dice: Dice(mix(plan.seed ^ mix(id))),
                life: None,
                older: false,
                busy: false,
                starting: None,
                rotten: false,
                lives: 0,
                hurt: false,
                falls_by: End::PowerCut,
            };
            host.pace.set(tuning.disk_us);
            (NodeId(id), host)
        });
        Arc::new(World {
            facts,
            trace,
            network,
            count: plan.nodes.len() as u64,
            key_window: plan.key_window,
            hosts: Mutex::new(hosts.collect()),
            ending: AtomicBool::new(false),
            restored: AtomicBool::new(false),
            healing: AtomicBool::new(false),
        })
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<NodeId, Host>> {
        self.hosts.lock().expect("no code panics while it holds this lock")
    }

    fn with<R>(&self, id: NodeId, act: impl FnOnce(&mut Host) -> R) -> R {
        act(self.hosts().get_mut(&id).expect("plans name nodes that exist"))
    }

    /// What is on the disk of a node that does not run.
    pub(super) fn segments(&self, id: NodeId) -> SegmentFiles {
        self.with(id, |host| of_disk(&host.disk, Path::new(DIRECTORY)))
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.hosts().keys().copied().collect()
    }

    pub(super) fn ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Clients finish.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn life(&self, id: NodeId) -> Option<Arc<Life>> {
        self.with(id, |host| host.life.clone())
    }

    /// The node that leads, as it says itself.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let lives: Vec<Arc<Life>> = self.hosts().values().filter_map(|host| host.life.clone()).collect();
        let leads = lives.iter().map(|life| life.ledger.status()).filter(|status| status.role == "leader");
        leads.max_by_key(|status| status.term).map(|status| NodeId(status.node_id))
    }

    /// The client's own node, if it has one and that runs; any other otherwise.
    pub(super) fn life_for(&self, home: Option<u64>, dice: &mut Dice) -> Option<Arc<Life>> {
        home.and_then(|home| self.life(NodeId(home))).or_else(|| self.some_life(dice))
    }

    /// Any node that runs.
    pub(super) fn some_life(&self, dice: &mut Dice) -> Option<Arc<Life>> {
        let lives: Vec<Arc<Life>> = self.hosts().values().filter_map(|host| host.life.clone()).collect();
        (!lives.is_empty()).then(|| lives[dice.below(lives.len() as u64) as usize].clone())
    }

    pub(super) fn is_rotten(&self, id: NodeId) -> bool {
        self.with(id, |host| host.rotten)
    }

    pub(super) fn retune(&self, id: NodeId, tuning: Tuning) {
        self.with(id, |host| {
            host.tuning = tuning;
            host.steady();
        });
    }

    pub(super) fn slow_down(&self, id: NodeId, us: (u64, u64)) {
        self.with(id, |host| {
            host.slow += 1;
            host.pace.set(us);
        });
    }

    pub(super) fn speed_up(&self, id: NodeId) {
        self.with(id, |host| {
            host.slow = host.slow.saturating_sub(1);
            host.steady();
        });
    }

    pub(super) fn falls_by(&self, id: NodeId, end: End) {
        self.with(id, |host| host.falls_by = end);
    }

    /// Something is to go wrong at an operation of the disk to come.
    pub(super) fn arm(&self, id: NodeId, arm: impl FnOnce(Counters, &mut Faults)) {
        self.with(id, |host| {
            let mut faults = host.disk.faults();
            faults.seed = host.dice.roll();
            arm(host.disk.counters(), &mut faults);
            host.disk.set_faults(faults);
        });
    }

    /// Leaves a disk so much room, or all that it wants.
    pub(super) fn set_room(&self, id: NodeId, room: Option<u64>) {
        self.with(id, |host| {
            let capacity = room.map(|room| host.disk.used() + room);
            host.disk.set_capacity(capacity);
        });
    }

    pub(super) fn disk(&self, id: NodeId) -> SimDisk {
        self.with(id, |host| host.disk.clone())
    }

    pub(super) fn jump(&self, id: NodeId, by_ms: i64) {
        self.with(id, |host| host.wall.fetch_add(by_ms, Ordering::Relaxed));
    }

    /// An actor is about to die.
    pub(super) fn hurt(&self, id: NodeId) {
        self.with(id, |host| host.hurt = true);
    }

    pub(super) fn tree(&self, id: NodeId) -> Option<Tree> {
        let life = self.life(id)?;
        let node = life.node.lock().expect("unpoisoned");
        node.as_ref().map(Node::tree)
    }

    /// Whether the node runs, but will not write any more until it is started anew.
    pub(super) fn is_fenced(&self, id: NodeId) -> bool {
        self.life(id).is_some_and(|life| life.fenced().is_some())
    }

    /// Whether the node runs, and says that its disk has no room.
    pub(super) fn is_short_of_room(&self, id: NodeId) -> bool {
        self.life(id).is_some_and(|life| life.is_full() || life.ledger.storage().room() != storage::Room::Ample)
    }

    /// A disk that has room again is left without a restart of the process.
    async fn leave_full(&self, id: NodeId) {
        let Some(life) = self.life(id) else { return };
        let left = timeout(LEAVE_FULL, async {
            while life.is_full() && !life.over.is_cancelled() {
                sleep(Duration::from_millis(50)).await;
            }
        });
        if left.await.is_err() {
            self.facts.violated(format!("node {id} stays fenced though its disk has room again"));
        }
    }

    /// No more faults: room, speed and power for all; who is down comes up, who is fenced is started anew.
    pub(super) async fn heal(self: &Arc<Self>) {
        self.network.mend_all();
        self.healing.store(true, Ordering::Relaxed);
        for id in self.ids() {
            self.arm(id, |_, faults| *faults = Faults { seed: faults.seed, ..Faults::default() });
            self.with(id, |host| {
                host.slow = 0;
                host.steady();
                host.older = false;
            });
        }
        for id in self.ids() {
            self.leave_full(id).await;
            if self.is_fenced(id) || self.is_older(id) {
                self.crash(id, End::Kill);
            }
            if self.life(id).is_none() {
                self.clone().start(id).await;
            }
            // It may have been on its way, with a failure in it.
            while self.life(id).is_none() {
                sleep(Duration::from_millis(10)).await;
            }
            if (self.is_fenced(id) && !self.is_rotten(id)) || self.is_older(id) {
                self.crash(id, End::Kill);
                self.clone().start(id).await;
            }
        }
    }

    fn settings(
        &self,
        id: NodeId,
        host: &mut Host,
        over: &CancellationToken,
        fell: &CancellationToken,
        number: u64,
    ) -> (Config, Environment) {
        let seed = mix(host.dice.roll() ^ number);
        let threads = SimThreads {
            pace: host.pace.clone(),
            disk: host.disk.clone(),
            commit_steps: host.tuning.bounds.commit_steps,
            over: over.clone(),
            fell: fell.clone(),
            seed,
        };
        let chance = Arc::new(AtomicU64::new(seed));
        let random: storage::Random = Arc::new(move || mix(chance.fetch_add(0x9e37_79b9, Ordering::Relaxed)));
        let (wall, began) = (host.wall.clone(), tokio::time::Instant::now());
        let (since, rate) = (self.trace.elapsed_ms(), host.tuning.bounds.wall_permille);
        let clock = Arc::new(move || {
            let went = (since + began.elapsed().as_millis() as u64) * rate / 1000;
            let ms = wall.load(Ordering::Relaxed) + went as i64;
            WALL_NS.saturating_add_signed(ms * 1_000_000)
        });
        let facts = self.facts.clone();
        let mut storage = storage_settings(&host.tuning, &host.disk, Arc::new(threads), random.clone());
        storage.batch_version_max -= u8::from(host.older);
        let environment = Environment {
            storage,
            raft: raft_bounds(&host.tuning),
            entry: entry_bounds(&host.tuning),
            watch: watch_bounds(&host.tuning),
            calls: calls(&host.tuning),
            sibling_shutdown: Duration::from_millis(host.tuning.bounds.sibling_shutdown_ms),
            // One thread for all.
            ledger_runtime: None,
            random,
            clock,
            network: Some(Arc::new(self.network.clone())),
            observer: Some(Arc::new(move |batch| facts.applied(id, batch))),
            alarms: Vec::new(),
        };
        (config(id, &host.tuning, self.count, self.key_window), environment)
    }
}
