//! How nodes come and go: started until they run, ended in the middle of anything, stopped in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::disk::SimDisk;
use converge_actors::storage::{self, Phase};
use converge_ledger_core::NodeId;
use tokio_util::sync::CancellationToken;

use super::{End, Life, World};
use converge_ledger::Node;
use converge_ledger::supervisors::{ChildState, Tree};

/// A node that is stopped in order for the last time gets this long.
const STOP: Duration = Duration::from_secs(20);

/// What a life is started as.
struct Kind {
    number: u64,
    forgiving: bool,
    older: bool,
}

impl World {
    /// Starts the node, again and again until it runs: its disk may fail while it does.
    pub(in super::super) async fn start(self: Arc<Self>, id: NodeId) {
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
            let ((config, environment), kind) = self.with(id, |host| {
                host.starting = Some(fell.clone());
                let kind = Kind { number, forgiving: host.tuning.bounds.supervision.is_none(), older: host.older };
                (self.settings(id, host, &over, &fell, number), kind)
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
                Some(Ok(node)) if !fell.is_cancelled() => return self.runs(id, kind, node, over, fell),
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
        // A directory is made only where there is room for more than that.
        let full = disk.faults().capacity.is_some() && error.contains("no room");
        if !disk.has_failed() && !full && !self.is_rotten(id) {
            self.facts.violated(format!("node {id} does not start though its disk is well: {error}"));
        }
    }

    fn runs(
        self: &Arc<Self>,
        id: NodeId,
        Kind { number, forgiving, older }: Kind,
        node: Node,
        over: CancellationToken,
        fell: CancellationToken,
    ) {
        let (ledger, stopping) = (node.ledger(), AtomicBool::new(false));
        let life =
            Arc::new(Life { id, number, forgiving, older, ledger, node: Mutex::new(Some(node)), over, stopping });
        if life.fenced().is_none() {
            let (term, last) = (life.ledger.status().term, life.storage().last);
            self.facts.recovered(id, term, last.get());
        }
        self.with(id, |host| {
            host.busy = false;
            host.hurt = false;
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
        let disk = self.disk(life.id);
        let mut fence = None;
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
                    fence = self.judge_fence(&life, &disk, fence);
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

    /// A node is fenced for data loss only where its disk rots, otherwise only where that failed; and for as long as the
    /// process lives, unless it was for want of room.
    fn judge_fence(&self, life: &Life, disk: &SimDisk, before: Option<storage::Cause>) -> Option<storage::Cause> {
        let now = life.fenced();
        if self.is_restored() && now != before && matches!(now, Some(storage::Cause::DataLoss { .. })) {
            self.facts.fenced_since(life.id);
        }
        match &now {
            None if matches!(before, Some(storage::Cause::DiskFull { .. })) => {
                self.facts.took("full disk left");
            }
            None if before.is_some() => {
                self.facts.violated(format!("node {} is not fenced any more, within one process: {before:?}", life.id));
            }
            Some(cause) if now != before && !self.is_rotten(life.id) => {
                let lost = matches!(cause, storage::Cause::DataLoss { .. });
                if lost || !disk.has_failed() {
                    self.facts.violated(format!("node {} is fenced without cause: {cause}", life.id));
                }
            }
            _ => {}
        }
        now
    }

    /// A tree gives up where actors were killed and its intensities do not forgive that, or where every start meets a
    /// failed disk: never by itself.
    fn gave_up(&self, life: &Life, reason: Option<String>) {
        self.trace.note(&[12, life.id.get()], || format!("node {} ends: {reason:?}", life.id));
        let (disk, tried) = self.with(life.id, |host| (host.disk.clone(), host.hurt && !life.forgiving));
        self.facts.took("supervision gives up");
        if !tried && !disk.has_failed() && !self.is_rotten(life.id) {
            self.facts.violated(format!("node {} gave up though its disk is well: {reason:?}", life.id));
        }
    }

    /// Ends a process in the middle of whatever it does. Says whether there was one.
    pub(in super::super) fn crash(&self, id: NodeId, end: End) -> bool {
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
        let disk = self.disk(life.id);
        self.judge_fence(life, &disk, None);
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
    pub(in super::super) async fn stop(&self, id: NodeId) -> bool {
        let Some(life) = self.life(id) else { return false };
        let node = life.node.lock().expect("unpoisoned").take();
        let Some(node) = node else { return false };
        life.stopping.store(true, Ordering::Relaxed);
        self.trace.note(&[14, id.get()], || format!("node {id} is stopped"));
        let time =
            if self.ending() { STOP } else { self.with(id, |host| Duration::from_millis(host.tuning.bounds.stop_ms)) };
        let tree = node.tree();
        let stopped = tokio::select! {
            biased;
            () = life.over() => {
                kill_tree(&tree);
                return false;
            }
            stopped = node.stop(time) => stopped,
        };
        if stopped.is_err() {
            self.trace.note(&[15, id.get()], || format!("node {id} does not stop in time"));
        }
        self.finish(&life, End::Kill) && stopped.is_ok()
    }
}

/// Which incarnation of replication runs.
fn incarnation(tree: &Tree) -> Option<u64> {
    let nodes = tree.snapshot().nodes;
    let replication = nodes.iter().find(|node| node.path.ends_with("/replication"))?;
    (replication.state == ChildState::Running).then_some(replication.incarnation)
}

/// The root first; all else at once, in an order that repeats, which that of `ractor` does not.
fn kill_tree(tree: &Tree) {
    for node in tree.snapshot().nodes {
        if let Some(actor) = tree.find(&node.path) {
            actor.kill();
        }
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
