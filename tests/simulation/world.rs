//! The nodes of a run: real ones, each on its own disk, that come and go.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use converge_actors::storage::{self, Phase};
use converge_actors::testing::{Dice, Faults, SimDisk};
use converge_actors::{entry, replication};
use converge_ledger_core::NodeId;
use tokio_util::sync::CancellationToken;

use super::facts::Facts;
use super::network::SimNetwork;
use super::plan::{Plan, Tuning};
use super::threads::{Pace, SimThreads};
use super::trace::{Trace, mix};
use crate::config::{Config, IntensityConfig};
use crate::environment::{Environment, Offload};
use crate::supervisors::{ChildState, Tree};
use crate::{Ledger, Node};

/// Where a simulated node keeps its data.
const DIRECTORY: &str = "/data";
const DATABASE: &str = "/data/ledger.redb";
/// The wall clock at the beginning of a run: 2023-11-14T22:13:20Z.
const WALL_NS: u64 = 1_700_000_000_000_000_000;
/// A node that is stopped in order gets this long.
const STOP: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct World {
    pub(super) facts: Facts,
    pub(super) trace: Trace,
    pub(super) network: SimNetwork,
    count: u64,
    hosts: Mutex<BTreeMap<NodeId, Host>>,
    ending: AtomicBool,
    /// Faults stop, everything is healed.
    healing: AtomicBool,
}

/// A machine.
struct Host {
    disk: SimDisk,
    pace: Arc<Pace>,
    wall: Arc<AtomicI64>,
    tuning: Tuning,
    /// How many faults slow the disk down.
    slow: u32,
    dice: Dice,
    life: Option<Arc<Life>>,
    /// Somebody is starting or ending it.
    busy: bool,
    /// Ends the start that is on its way.
    starting: Option<CancellationToken>,
    rotten: bool,
    lives: u64,
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
        self.ledger.inner.storage.status()
    }

    fn fenced(&self) -> Option<storage::Cause> {
        match self.storage().phase {
            Phase::Fenced { cause } => Some(cause),
            _ => None,
        }
    }
}

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
                pace: Arc::new(Pace::default()),
                wall: Arc::default(),
                tuning: tuning.clone(),
                slow: 0,
                dice: Dice(mix(plan.seed ^ mix(id))),
                life: None,
                busy: false,
                starting: None,
                rotten: false,
                lives: 0,
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
            hosts: Mutex::new(hosts.collect()),
            ending: AtomicBool::new(false),
            healing: AtomicBool::new(false),
        })
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<NodeId, Host>> {
        self.hosts.lock().expect("no code panics while it holds this lock")
    }

    fn with<R>(&self, id: NodeId, act: impl FnOnce(&mut Host) -> R) -> R {
        act(self.hosts().get_mut(&id).expect("plans name nodes that exist"))
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

    /// Starts the node, again and again until it runs: its disk may fail while it does.
    pub(super) async fn start(self: Arc<Self>, id: NodeId) {
        let free = self.with(id, |host| {
            let free = host.life.is_none() && !host.busy;
            host.busy |= free;
            free
        });
        if !free {
            return;
        }
        loop {
            let (disk, over, fell, number) = self.with(id, |host| {
                host.lives += 1;
                (host.disk.clone(), CancellationToken::new(), CancellationToken::new(), host.lives)
            });
            let (config, environment) = self.with(id, |host| {
                host.starting = Some(fell.clone());
                self.settings(id, host, &over, &fell, number)
            });
            self.trace.note(&[10, id.get(), number], || format!("node {id} starts, life {number}"));
            // In a task of its own: whatever it has begun when the power fails has to be ended.
            let mut starting = tokio::spawn(Node::builder(config).environment(environment).start());
            let started = tokio::select! {
                biased;
                () = fell.cancelled() => None,
                started = &mut starting => Some(started.expect("a start is not aborted, nor does it panic")),
            };
            match started {
                Some(Ok(node)) if !fell.is_cancelled() => return self.runs(id, number, node, over, fell),
                Some(Ok(node)) => drop_node(node),
                Some(Err(error)) => self.start_failed(id, &disk, &error.to_string()),
                None => drop(tokio::spawn(async move {
                    if let Ok(Ok(node)) = starting.await {
                        drop_node(node);
                    }
                })),
            }
            self.network.leave(id, false);
            over.cancel();
            let how = self.with(id, |host| host.falls_by);
            if disk.is_off() {
                self.facts.took("power or process fails in an operation of a start");
            }
            self.take_disk(id, how);
            let pause = self.with(id, |host| host.dice.below(500));
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// A start may only fail where the disk did.
    fn start_failed(&self, id: NodeId, disk: &SimDisk, error: &str) {
        self.trace.note(&[11, id.get()], || format!("node {id} does not start: {error}"));
        if !disk.has_failed() && !self.is_rotten(id) {
            self.facts.violated(format!("node {id} does not start though its disk is well: {error}"));
        }
    }

    fn runs(self: &Arc<Self>, id: NodeId, number: u64, node: Node, over: CancellationToken, fell: CancellationToken) {
        let ledger = node.ledger();
        let life =
            Arc::new(Life { id, number, ledger, node: Mutex::new(Some(node)), over, stopping: AtomicBool::new(false) });
        if life.fenced().is_none() {
            let (term, last) = (life.ledger.status().term, life.storage().last);
            self.facts.recovered(id, term, last.get());
        }
        self.with(id, |host| {
            host.busy = false;
            host.starting = None;
            host.life = Some(life.clone());
        });
        tokio::spawn(self.clone().watch_over(life, fell));
    }

    /// Notices when a life ends by itself: its power fails within an operation, or its tree gives up.
    async fn watch_over(self: Arc<Self>, life: Arc<Life>, fell: CancellationToken) {
        let tree = life.node.lock().expect("unpoisoned").as_ref().map(Node::tree);
        let Some(tree) = tree else { return };
        let mut looks = tokio::time::interval(Duration::from_millis(53));
        // Of which incarnation of replication: a later one goes on from what is durable.
        let mut committed = (None, 0);
        loop {
            let how = tokio::select! {
                biased;
                () = fell.cancelled() => self.with(life.id, |host| host.falls_by),
                () = life.over() => return,
                ended = tree.wait() => {
                    if life.stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    self.gave_up(&life, ended.err().map(|escalated| escalated.reason));
                    End::Kill
                }
                _ = looks.tick() => {
                    let status = life.storage();
                    if status.phase == Phase::Serving {
                        self.facts.seen(life.id, status.applied.get(), status.digest);
                    }
                    let now = (incarnation(&tree), life.ledger.status().commit_index);
                    if now.0.is_some() && now.0 == committed.0 {
                        self.facts.commit_grows(life.id, committed.1, now.1);
                    }
                    committed = now;
                    continue;
                }
            };
            let down = self.with(life.id, |host| host.dice.below(1000));
            if fell.is_cancelled() {
                self.facts.took(match how {
                    End::PowerCut => "power cut within an operation",
                    End::Kill => "process killed within an operation",
                });
            }
            self.finish(&life, how);
            tokio::time::sleep(Duration::from_millis(down)).await;
            return self.start(life.id).await;
        }
    }

    /// Supervisors are generous in a simulation: none gives up by itself, but where every start meets a failed disk.
    fn gave_up(&self, life: &Life, reason: Option<String>) {
        self.trace.note(&[12, life.id.get()], || format!("node {} ends: {reason:?}", life.id));
        let disk = self.with(life.id, |host| host.disk.clone());
        if !disk.has_failed() && !self.is_rotten(life.id) {
            self.facts.violated(format!("node {} gave up though its disk is well: {reason:?}", life.id));
        }
    }

    /// Ends a process in the middle of whatever it does. Says whether there was one.
    pub(super) fn crash(&self, id: NodeId, end: End) -> bool {
        if let Some(life) = self.life(id) {
            return self.finish(&life, end);
        }
        // One that is starting comes back by itself.
        let starting = self.with(id, |host| {
            host.falls_by = end;
            host.starting.take()
        });
        if let Some(fell) = starting {
            self.facts.took("power or process fails in a start");
            fell.cancel();
        }
        false
    }

    fn finish(&self, life: &Arc<Life>, end: End) -> bool {
        let mine = self.with(life.id, |host| {
            let mine = host.life.as_ref().is_some_and(|current| current.number == life.number);
            if mine {
                host.life = None;
            }
            mine
        });
        if !mine {
            return false;
        }
        self.trace.note(&[13, life.id.get(), life.number], || format!("node {} is gone: {end:?}", life.id));
        self.network.leave(life.id, end == End::PowerCut);
        life.over.cancel();
        self.take_disk(life.id, end);
        let node = life.node.lock().expect("unpoisoned").take();
        if let Some(node) = node {
            drop_node(node);
        }
        true
    }

    /// The disk as the next process finds it; nothing of the last one reaches it any more.
    fn take_disk(&self, id: NodeId, end: End) {
        self.with(id, |host| {
            let old = host.disk.clone();
            host.disk = match end {
                End::Kill => old.killed(),
                End::PowerCut => old.crash(&mut host.dice),
            };
            // A disk does not get room by the death of a process, nor speed.
            host.disk.set_capacity(old.faults().capacity);
            old.cut();
            host.steady();
        });
    }

    /// Stops a node in order.
    pub(super) async fn stop(&self, id: NodeId) -> bool {
        let Some(life) = self.life(id) else { return false };
        let node = life.node.lock().expect("unpoisoned").take();
        let Some(node) = node else { return false };
        life.stopping.store(true, Ordering::Relaxed);
        self.trace.note(&[14, id.get()], || format!("node {id} is stopped"));
        let tree = node.tree();
        let stopped = tokio::select! {
            biased;
            () = life.over() => {
                kill_tree(&tree);
                return false;
            }
            stopped = node.stop(STOP) => stopped,
        };
        if stopped.is_err() {
            self.trace.note(&[15, id.get()], || format!("node {id} does not stop in time"));
        }
        self.finish(&life, End::Kill) && stopped.is_ok()
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
    pub(super) fn arm(&self, id: NodeId, arm: impl FnOnce(u64, u64, u64, &mut Faults)) {
        self.with(id, |host| {
            let counters = host.disk.counters();
            let mut faults = host.disk.faults();
            faults.seed = host.dice.roll();
            arm(counters.ops, counters.writes, counters.syncs, &mut faults);
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

    /// Turns over one bit of the database's file.
    pub(super) fn rot(&self, id: NodeId, place_permille: u64, bit: u8) -> bool {
        self.with(id, |host| {
            let path = Path::new(DATABASE);
            let Some(len) = host.disk.len(path).filter(|len| *len > 0) else { return false };
            host.rotten = true;
            host.disk.flip(path, (len - 1) * place_permille / 1000, bit)
        })
    }

    pub(super) fn jump(&self, id: NodeId, by_ms: i64) {
        self.with(id, |host| host.wall.fetch_add(by_ms, Ordering::Relaxed));
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

    /// No more faults: room, speed and power for all; who is down comes up, who is fenced is started anew.
    pub(super) async fn heal(self: &Arc<Self>) {
        self.healing.store(true, Ordering::Relaxed);
        self.network.mend_all();
        for id in self.ids() {
            self.arm(id, |_, _, _, faults| *faults = Faults { seed: faults.seed, ..Faults::default() });
            self.with(id, |host| {
                host.slow = 0;
                host.steady();
            });
        }
        for id in self.ids() {
            if self.is_fenced(id) {
                self.crash(id, End::Kill);
            }
            if self.life(id).is_none() {
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
            over: over.clone(),
            fell: fell.clone(),
            seed,
        };
        let chance = Arc::new(AtomicU64::new(seed));
        let random: storage::Random = Arc::new(move || mix(chance.fetch_add(0x9e37_79b9, Ordering::Relaxed)));
        let (wall, began) = (host.wall.clone(), tokio::time::Instant::now());
        let since = self.trace.elapsed_ms();
        let clock = Arc::new(move || {
            let ms = wall.load(Ordering::Relaxed) + (since + began.elapsed().as_millis() as u64) as i64;
            WALL_NS.saturating_add_signed(ms * 1_000_000)
        });
        let facts = self.facts.clone();
        let environment = Environment {
            storage: storage_settings(&host.tuning, &host.disk, Arc::new(threads), random.clone()),
            raft: raft_bounds(&host.tuning),
            entry: entry_bounds(&host.tuning),
            random,
            clock,
            network: Some(Arc::new(self.network.clone())),
            offload: Offload::Inline,
            observer: Some(Arc::new(move |batch| facts.applied(id, batch))),
        };
        (config(id, &host.tuning, self.count), environment)
    }
}

fn storage_settings(
    tuning: &Tuning,
    disk: &SimDisk,
    executor: Arc<SimThreads>,
    random: storage::Random,
) -> storage::Settings {
    storage::Settings {
        journal_file_bytes: tuning.journal_file_records * tuning.journal_record_bytes as u64,
        journal_record_bytes_max: tuning.journal_record_bytes,
        commit_interval: Duration::from_millis(tuning.commit_interval_ms),
        commit_bytes: tuning.commit_bytes,
        overlay_bytes_max: tuning.overlay_bytes,
        redb_cache_bytes: tuning.redb_cache_bytes,
        scan_bytes_max: tuning.scan_bytes,
        disk: Arc::new(disk.clone()),
        executor,
        random,
        ..storage::Settings::new(DIRECTORY)
    }
}

fn raft_bounds(tuning: &Tuning) -> replication::Bounds {
    replication::Bounds {
        message_bytes_max: tuning.message_bytes,
        inflight_messages_max: tuning.inflight_messages,
        uncommitted_bytes_max: tuning.uncommitted_bytes,
        committed_bytes_max: tuning.committed_bytes,
    }
}

fn entry_bounds(tuning: &Tuning) -> entry::Bounds {
    entry::Bounds {
        batches_max: tuning.batches,
        batch_bytes_max: tuning.batch_bytes,
        batch_commands_max: tuning.batch_commands,
        handed_bytes_max: tuning.handed_bytes,
        ..entry::Bounds::default()
    }
}

fn config(id: NodeId, tuning: &Tuning, count: u64) -> Config {
    let mut config = Config::default();
    config.node.id = id.get();
    config.node.data_dir = DIRECTORY.into();
    config.listen.grpc = "off".into();
    config.listen.peer = format!("127.0.0.1:{}", 7000 + id.get());
    if count > 1 {
        config.cluster.peers = (1..=count).map(|id| format!("{id}=127.0.0.1:{}", 7000 + id)).collect();
    }
    config.raft.heartbeat_ms = tuning.heartbeat_ms;
    config.raft.election_ms = tuning.election_ms;
    config.limits.payload_bytes = 4 << 10;
    config.limits.inflight_bytes = tuning.inflight_bytes;
    let generous = IntensityConfig { restarts: 100_000, seconds: 1 };
    let supervision = &mut config.supervision;
    (supervision.root, supervision.ledger) = (generous, generous);
    config
}

/// Which incarnation of replication runs.
fn incarnation(tree: &Tree) -> Option<u64> {
    let nodes = tree.snapshot().nodes;
    let replication = nodes.iter().find(|node| node.path.ends_with("/replication"))?;
    (replication.state == ChildState::Running).then_some(replication.incarnation)
}

fn kill_tree(tree: &Tree) {
    if let Some(root) = tree.find("root") {
        root.kill();
    }
}

/// Kills what is left of a process that is gone.
fn drop_node(node: Node) {
    let tree = node.tree();
    tokio::spawn(async move {
        kill_tree(&tree);
        let _ = node.stop(Duration::ZERO).await;
    });
}
