//! The nodes, their network and their disks, brought to what the faults in force ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use converge_lab::workload::Record;
use tokio::time::{Instant, sleep_until};

use super::crowd::{self, Crowd};
use super::disk::Disks;
use super::faults::{Abilities, Timed, Turn, Want, Who, turns};
use super::network::Network;
use converge_ledger::cli::client::Client;
use converge_ledger::cli::processes::look::{leader, statuses};
use converge_ledger::cli::processes::{Cluster, on_loopback};
use converge_ledger::cli::{Failure, output};

/// Short, so that a run sees many elections.
const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS: u64 = 500;
/// How often nodes are looked at that may have ended by themselves.
const LOOK: Duration = Duration::from_millis(500);

const DIARY: &str = "faults.log";

/// See the module.
pub(super) struct World {
    pub(super) cluster: Cluster,
    network: Option<Network>,
    disks: Option<Disks>,
    nodes: u64,
    have: Want,
    running: BTreeSet<u64>,
    paused: BTreeSet<u64>,
    crowds: BTreeMap<u64, Crowd>,
    /// Their disk was full in this life, which may end it.
    starved: BTreeSet<u64>,
    /// By the number of their fault in the plan.
    in_force: BTreeMap<usize, Want>,
    pub(super) faults: BTreeMap<String, u64>,
    record: Arc<Record>,
    /// What came when, by the clock of the history.
    diary: PathBuf,
}

impl World {
    /// Starts the nodes; says what cannot be done to them here.
    pub(super) async fn start(
        program: Vec<OsString>,
        directory: &Path,
        nodes: u64,
        isolated: bool,
        record: Arc<Record>,
        skipped: &mut Vec<String>,
    ) -> Result<World, Failure> {
        let mut skip = |what: &str, why: String| {
            let skip = format!("{what}: {why}");
            output::note(format!("skipped: {skip}"));
            skipped.push(skip);
        };
        let (mut network, mut disks) = (None, None);
        let mut processes = on_loopback(directory, nodes)?;
        if isolated {
            match Network::build(nodes).await {
                Ok(built) => processes = network.insert(built).nodes(directory),
                Err(why) => skip("partitions", why),
            }
            match Disks::mount(processes.iter().map(|node| node.data.as_path())).await {
                Ok(mounted) => disks = Some(mounted),
                Err(why) => skip("full disks", why),
            }
        }
        for node in &mut processes {
            node.program.clone_from(&program);
            node.set("raft.heartbeat_ms", HEARTBEAT_MS);
            node.set("raft.election_ms", ELECTION_MS);
        }
        let mut cluster = Cluster::new(processes);
        cluster.start().await?;
        Ok(World {
            running: cluster.ids().into_iter().collect(),
            cluster,
            network,
            disks,
            nodes,
            have: Want::default(),
            paused: BTreeSet::new(),
            crowds: BTreeMap::new(),
            starved: BTreeSet::new(),
            in_force: BTreeMap::new(),
            faults: BTreeMap::new(),
            record,
            diary: directory.join(DIARY),
        })
    }

    pub(super) fn abilities(&self) -> Abilities {
        Abilities { partitions: self.network.is_some(), disks: self.disks.is_some() }
    }

    /// Lets the plan's faults come and go until the time is up; then all is as it was before.
    pub(super) async fn drive(&mut self, plan: &[Timed], client: &Client, until: Instant) -> Result<(), Failure> {
        let began = Instant::now();
        for (at, number, turn) in turns(plan) {
            let at = began + at;
            if at >= until {
                break;
            }
            while Instant::now() < at {
                sleep_until(at.min(Instant::now() + LOOK)).await;
                self.look_after().await?;
            }
            if turn == Turn::Begins {
                let victims = self.victims(plan[number].fault.who(), client).await;
                let want = plan[number].fault.on(&victims, self.nodes);
                let name = plan[number].fault.name();
                self.note(&format!("{number} begins: {name}: {victims:?}"))?;
                *self.faults.entry(name).or_default() += 1;
                self.in_force.insert(number, want);
            } else {
                self.note(&format!("{number} ends"))?;
                self.in_force.remove(&number);
            }
            self.reconcile(Want::union(self.in_force.values())).await?;
        }
        sleep_until(until).await;
        self.heal().await
    }

    fn note(&self, what: &str) -> Result<(), Failure> {
        let ns = self.record.now().0;
        let file = OpenOptions::new().create(true).append(true).open(&self.diary);
        let written = file.and_then(|mut file| writeln!(file, "{:9.3} s: {what}", ns as f64 / 1e9));
        written.map_err(|error| Failure::error(format!("cannot write {:?}: {error}", self.diary)))
    }

    /// Undoes every fault.
    pub(super) async fn heal(&mut self) -> Result<(), Failure> {
        self.note("all of them end")?;
        self.in_force.clear();
        self.reconcile(Want::default()).await
    }

    async fn victims(&self, who: Who, client: &Client) -> Vec<u64> {
        match who {
            Who::Node(id) => vec![id],
            Who::Leader(else_this) => vec![leader(&statuses(client).await).unwrap_or(else_this)],
            Who::All => (1..=self.nodes).collect(),
        }
    }

    async fn reconcile(&mut self, want: Want) -> Result<(), Failure> {
        for id in &self.paused - &want.paused {
            self.cluster.node(id)?.signal("CONT").await?;
            self.paused.remove(&id);
        }
        // In the end, too: what is said later is to be read.
        let gone = &(&want.down - &self.have.down) | &(&want.unread ^ &self.have.unread);
        for id in &self.have.full - &want.full {
            // It goes on by itself, or is started again where it could not start.
            self.disk(id, false).await?;
        }
        self.cluster.kill_at_once(&gone.iter().copied().collect::<Vec<_>>()).await?;
        self.running = &self.running - &gone;
        self.paused = &self.paused - &gone;
        let lost = std::mem::take(&mut self.have.lost);
        for way in &lost - &want.lost {
            self.deliver(way, true).await?;
        }
        for way in &want.lost - &lost {
            self.deliver(way, false).await?;
        }
        for id in &want.full - &self.have.full {
            self.disk(id, true).await?;
        }
        self.crowds.retain(|id, _| want.crowded.contains(id));
        for id in &want.crowded - &self.have.crowded {
            self.crowds.insert(id, Crowd::gather(&self.endpoint(id)).await);
        }
        self.have = want;
        self.look_after().await?;
        // Those just started, too, that another fault wants so.
        for id in &(&self.have.paused & &self.running) - &self.paused {
            self.cluster.node(id)?.signal("STOP").await?;
            self.paused.insert(id);
        }
        Ok(())
    }

    /// Starts every node that does not run and is not to be down; one that ended by itself is a finding.
    pub(super) async fn look_after(&mut self) -> Result<(), Failure> {
        for id in self.running.clone() {
            if let Some(status) = self.cluster.node(id)?.ended()? {
                self.running.remove(&id);
                self.paused.remove(&id);
                if !self.starved.contains(&id) {
                    let words = self.cluster.node(id)?.last_words();
                    self.record.trouble(format!("node {id} ended by itself, {status}: {words}"));
                }
            }
        }
        for id in self.cluster.ids() {
            if !self.running.contains(&id) && !self.have.down.contains(&id) {
                match self.have.unread.contains(&id) {
                    true => self.cluster.node(id)?.spawn_unread()?,
                    false => self.cluster.node(id)?.spawn()?,
                }
                self.running.insert(id);
                self.starved.remove(&id);
                if self.have.full.contains(&id) {
                    self.starved.insert(id);
                }
            }
        }
        Ok(())
    }

    fn endpoint(&self, id: u64) -> String {
        self.cluster.endpoints()[id as usize - 1].clone()
    }

    /// A crowd at one node after the other, in the end, when nothing else is wrong with them; the first that suffers is
    /// enough.
    pub(super) async fn crowd(&mut self) -> Result<(), Failure> {
        for id in self.cluster.ids() {
            let Some(pid) = self.cluster.node(id)?.pid() else { continue };
            if let Some(trouble) = crowd::trouble(&self.endpoint(id), pid).await {
                self.record.trouble(format!("node {id}: {trouble}"));
                break;
            }
        }
        Ok(())
    }

    async fn deliver(&self, (from, to): (u64, u64), arrive: bool) -> Result<(), Failure> {
        let Some(network) = &self.network else { return Ok(()) };
        let done = network.deliver(from, to, arrive).await;
        done.map_err(|why| Failure::error(format!("cannot change the network: {why}")))
    }

    async fn disk(&mut self, id: u64, full: bool) -> Result<(), Failure> {
        let Some(disks) = &self.disks else { return Ok(()) };
        if full {
            self.starved.insert(id);
        }
        let done = if full { disks.fill(id).await } else { disks.make_room(id).await };
        done.map_err(|why| Failure::error(format!("cannot change a disk: {why}")))
    }

    /// Ends the nodes; what is on disks that end with this process is kept in the directory, where that is asked for.
    pub(super) async fn end(mut self, keep: bool) -> Result<(), Failure> {
        self.cluster.kill_at_once(&self.cluster.ids()).await?;
        match &self.disks {
            Some(disks) if keep => {
                disks.save().await.map_err(|why| Failure::error(format!("cannot keep the nodes' data: {why}")))
            }
            _ => Ok(()),
        }
    }
}
