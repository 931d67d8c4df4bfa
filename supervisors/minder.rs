//! One task per incarnation of a child: starts it, waits for its end, stops it when told.
//!
//! The supervisor never awaits a child; its minder does, and reports by message. A minder outlives its supervisor: when
//! the supervisor's end of the order channel is dropped, it calls off the start or kills the child, and it holds the
//! incarnation's [`Live`] until the child's join handle has completed. So whatever a supervisor dies of, nothing it
//! started stays; and its own minder, which says that it is gone only when nothing lives below it, is what its successor
//! waits for.
//!
//! It runs where its supervisor does, also where the child has a runtime of its own: a thread that hangs there holds up no
//! time-out here. When the supervisor's runtime ends, the supervisor ends with it, and `ractor` kills what it had linked.

mod starting;

use std::future::Future;
use std::sync::Arc;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, ActorRef, ActorStatus, SpawnErr};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout, timeout_at};

pub(crate) use self::starting::describe;
use self::starting::{CalledOff, Starting};
use crate::exit::{Exit, IGNORE, KILLED, SHUTDOWN};
use crate::latch::Latch;
use crate::node::{Incarnation, Live, Node};
use crate::spec::{Body, ChildSpec, Restart, Shutdown, Spawned, Spawning};
use crate::strategy::{Place, StartFailure};
use crate::supervisor::{Msg, Orders, Setup, Supervisor};

/// How long a killed actor, and a dead supervisor's subtree, may take to go. A kill takes effect at an await point, so
/// only an actor that blocks its thread needs more; it can never be replaced, and its supervisor gives up.
pub(crate) const KILL_WAIT: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 30_000 });

/// Orders that can be waiting for a minder; a supervisor gives one.
const ORDERS: usize = 1;

/// How a supervisor's start ended, from the supervisor itself.
pub(crate) type Boot = oneshot::Receiver<Result<(), StartFailure>>;

/// What a minder tells its supervisor.
#[derive(Clone, Debug)]
pub(crate) enum MinderReport {
    /// The child is up.
    Started(ActorCell),
    /// There is nothing to run.
    Ignored,
    /// It did not start, or its start was called off; nothing of it is left.
    StartFailed(StartFailure),
    /// It was up and nothing of it is left. An exit event knows better than this why.
    Gone(Exit),
    /// It was killed and is still there.
    Stuck(String),
}

/// A supervisor's hold on one incarnation of a child.
#[derive(Debug)]
pub(crate) struct Minder {
    pub(crate) incarnation: u64,
    orders: mpsc::Sender<Shutdown>,
    task: JoinHandle<MinderReport>,
}

impl Minder {
    /// Starts the next incarnation of `spec`, linked to `parent`, as its child number `child`.
    pub(crate) fn start(spec: &ChildSpec, child: Place, node: &Arc<Node>, parent: ActorRef<Msg>) -> Minder {
        let (incarnation, live) = node.begin();
        node.hook.begins(spec.restart);
        let number = incarnation.number;
        let (orders, inbox) = mpsc::channel(ORDERS);
        let job = Job { spec: spec.clone(), child, incarnation, parent, live: Some(live) };
        Minder { incarnation: number, orders, task: tokio::spawn(job.run(inbox)) }
    }

    /// Orders the end of the child. A second order adds nothing to the first.
    pub(crate) fn stop(&self, how: Shutdown) {
        let _ = self.orders.try_send(how);
    }

    /// The minder's last report. To be awaited once, by a supervisor that reads no messages any more.
    pub(crate) async fn end(&mut self) -> MinderReport {
        match (&mut self.task).await {
            Ok(report) => report,
            Err(error) => MinderReport::Gone(Exit::abnormal(error.to_string())),
        }
    }
}

struct Job {
    spec: ChildSpec,
    child: Place,
    incarnation: Incarnation,
    parent: ActorRef<Msg>,
    /// Until its end is reported.
    live: Option<Live>,
}

/// How a start went.
enum Launch {
    Up(Spawned),
    Ignored,
    Failed(StartFailure, Left),
}

/// What is left of a child after its end was awaited.
enum Left {
    Nothing,
    /// Its task, which will not end.
    Task(JoinHandle<()>),
    /// The task of its start, on a runtime of its own.
    Start(JoinHandle<Result<Option<Spawned>, SpawnErr>>),
    /// Something below it.
    Subtree,
    /// Actors that a worker had linked to itself.
    Linked,
    /// What it gave to a thread.
    Latch(Latch),
}

impl Job {
    async fn run(mut self, mut orders: mpsc::Receiver<Shutdown>) -> MinderReport {
        let incarnation = self.incarnation.number;
        let (exit, report, left) = match self.launch(&mut orders).await {
            Launch::Up((cell, join)) => {
                if self.spec.restart == Restart::Temporary {
                    self.spec.body = Body::Spent; // not kept for a restart that will not be
                }
                self.node().running(incarnation);
                self.report(MinderReport::Started(cell.clone()));
                let (exit, left) = self.watch(cell, join, &mut orders).await;
                (exit.clone(), MinderReport::Gone(exit), left)
            }
            Launch::Ignored => (Exit::from_reason(Some(IGNORE.to_owned())), MinderReport::Ignored, Left::Nothing),
            Launch::Failed(failure, left) => {
                (Exit::abnormal(failure.reason.clone()), MinderReport::StartFailed(failure), left)
            }
        };
        let left = match left {
            Left::Nothing => self.all_let_go().await,
            left => left,
        };
        let report = match left {
            Left::Nothing => report,
            Left::Task(join) => {
                let gone = async move { drop(join.await) };
                return self.stuck(still_runs(&self.node().path), gone);
            }
            Left::Start(task) => return self.stuck(still_starts(&self.node().path), starting::ended(task)),
            Left::Linked => {
                let node = Arc::clone(self.node());
                let reason = linked_run(&node);
                return self.stuck(reason, async move { node.linked.gone().await });
            }
            Left::Latch(latch) => {
                let held = held_on(&self.node().path, latch.name());
                return self.stuck(held, async move { latch.released().await });
            }
            Left::Subtree => MinderReport::Stuck(still_runs(&self.node().live_below().join(", "))),
        };
        self.over(&exit, report.clone());
        report
    }

    /// Nothing of it is left: from here on a successor may start.
    fn over(&mut self, exit: &Exit, report: MinderReport) {
        self.node().ended(self.incarnation.number, exit);
        drop(self.live.take());
        self.report(report);
    }

    /// The task is gone; waits for those that it had linked to itself, and for what it gave to threads.
    async fn all_let_go(&self) -> Left {
        let deadline = Instant::now() + KILL_WAIT;
        if timeout_at(deadline, self.node().linked.gone()).await.is_err() {
            return Left::Linked;
        }
        for latch in &self.spec.latches {
            if timeout_at(deadline, latch.released()).await.is_err() {
                return Left::Latch(latch.clone());
            }
        }
        Left::Nothing
    }

    /// The child will not go: it keeps its place until it does after all.
    fn stuck(&mut self, reason: String, gone: impl Future<Output = ()> + Send + 'static) -> MinderReport {
        let live = self.live.take();
        tokio::spawn(async move {
            gone.await;
            drop(live);
        });
        let stuck = MinderReport::Stuck(reason);
        self.report(stuck.clone());
        stuck
    }

    fn node(&self) -> &Arc<Node> {
        &self.incarnation.node
    }

    fn report(&self, report: MinderReport) {
        let incarnation = self.incarnation.number;
        // A supervisor that no longer reads will learn the end from `Minder::end`, or has died.
        let _ = self.parent.send_message(Msg::Report { child: self.child, incarnation, report });
    }

    fn failed(&self, reason: impl Into<String>) -> StartFailure {
        StartFailure { path: self.node().path.clone(), reason: reason.into() }
    }

    /// Up to the moment when the child counts as started.
    async fn launch(&self, orders: &mut mpsc::Receiver<Shutdown>) -> Launch {
        // `None`: no bound, also when it lies beyond what the clock can say.
        let deadline = self.spec.start_timeout.and_then(|limit| Instant::now().checked_add(limit));
        let (spawning, boot) = self.spawning();
        let mut starting = Starting::begin(spawning, self.spec.runtime.as_ref());
        let (spawned, why) = tokio::select! {
            biased;
            _ = orders.recv() => (None, "its start was called off".to_owned()),
            spawned = starting.done() => (Some(spawned), String::new()),
            () = until(deadline) => (None, self.timed_out()),
        };
        let Some(spawned) = spawned else {
            // Only when it has ended does the incarnation become free.
            let left = self.called_off(starting, orders).await;
            return Launch::Failed(self.failed(why), left);
        };
        starting.let_go(self.node());
        match (spawned, boot) {
            (Err(reason), _) => Launch::Failed(self.failed(reason), Left::Nothing),
            (Ok(None), _) => Launch::Ignored,
            (Ok(Some(spawned)), None) => Launch::Up(spawned),
            (Ok(Some(spawned)), Some(boot)) => self.booting(spawned, boot, deadline, orders).await,
        }
    }

    /// Ends a start, and what came up of it all the same.
    async fn called_off(&self, starting: Starting, orders: &mut mpsc::Receiver<Shutdown>) -> Left {
        match starting.call_off(self.node()).await {
            CalledOff::Nothing => Left::Nothing,
            CalledOff::Task(task) => Left::Start(task),
            CalledOff::Up((cell, mut join)) => {
                let (_, ending) = self.end(cell, Some(&mut join), Shutdown::BrutalKill, orders).await;
                ending.leaves(join)
            }
        }
    }

    /// The actor to be, and for a supervisor the news of its children's start.
    fn spawning(&self) -> (Spawning, Option<Boot>) {
        let parent = self.parent.get_cell();
        let orders = match &self.spec.body {
            Body::Worker(launch) => return (launch(self.incarnation.clone(), parent), None),
            Body::Supervisor(spec) => Orders::Static(Arc::clone(spec)),
            Body::Dynamic(spec) => Orders::Dynamic(Arc::clone(spec)),
            // Read back from a temporary child that runs.
            Body::Spent => {
                let gone = "what this temporary child was started with is gone";
                return (Box::pin(async move { Err(SpawnErr::StartupFailed(gone.into())) }), None);
            }
        };
        let (tell, boot) = oneshot::channel();
        let setup = Setup { orders, incarnation: self.incarnation.clone(), boot: tell };
        let spawning = async move {
            let (actor, join) = Supervisor::spawn_linked(None, Supervisor::new(), setup, parent).await?;
            Ok(Some((actor.get_cell(), join)))
        };
        (Box::pin(spawning), Some(boot))
    }

    /// A supervisor has been spawned and starts its children.
    async fn booting(
        &self,
        (cell, mut join): Spawned,
        boot: Boot,
        deadline: Option<Instant>,
        orders: &mut mpsc::Receiver<Shutdown>,
    ) -> Launch {
        let (failure, how) = tokio::select! {
            biased;
            order = orders.recv() => (self.failed("its start was called off"), order.unwrap_or(Shutdown::BrutalKill)),
            booted = boot => match booted {
                Ok(Ok(())) => return Launch::Up((cell, join)),
                // It has stopped its children and is about to exit.
                Ok(Err(failure)) => (failure, Shutdown::Infinity),
                Err(_dropped) => (self.failed("it died while it was starting"), Shutdown::BrutalKill),
            },
            () = until(deadline) => (self.failed(self.timed_out()), Shutdown::BrutalKill),
        };
        let (_, ending) = self.end(cell, Some(&mut join), how, orders).await;
        Launch::Failed(failure, ending.leaves(join))
    }

    /// From up to gone.
    async fn watch(
        &self,
        cell: ActorCell,
        mut join: JoinHandle<()>,
        orders: &mut mpsc::Receiver<Shutdown>,
    ) -> (Exit, Left) {
        let order = tokio::select! {
            biased;
            _ = &mut join => None,
            order = orders.recv() => Some(order.unwrap_or(Shutdown::BrutalKill)),
        };
        let (exit, ending) = match order {
            // The exit event says why; this is for one that was unlinked from its supervisor.
            None => {
                let (_, ending) = self.end(cell, None, Shutdown::BrutalKill, orders).await;
                (self.unheard(), ending)
            }
            Some(how) => self.end(cell, Some(&mut join), how, orders).await,
        };
        (exit, ending.leaves(join))
    }

    /// It ended by itself, and no event may tell why: a supervisor in its `post_stop` reads none.
    fn unheard(&self) -> Exit {
        let parent_stops = matches!(self.parent.get_status(), ActorStatus::Stopping | ActorStatus::Stopped);
        let own = if parent_stops { self.node().own_account() } else { None };
        own.unwrap_or_else(|| Exit::abnormal("ended without telling its supervisor"))
    }

    /// Ends the child the way it is to be ended, and waits until it and all below it are gone. Without `join`, its task
    /// has already completed.
    async fn end(
        &self,
        cell: ActorCell,
        join: Option<&mut JoinHandle<()>>,
        how: Shutdown,
        orders: &mut mpsc::Receiver<Shutdown>,
    ) -> (Exit, Ending) {
        let mut exit = Exit::from_reason(Some(SHUTDOWN.to_owned()));
        if let Some(join) = join {
            self.node().stopping(self.incarnation.number);
            self.node().pulse.leave();
            if !asked_to_stop(&cell, join, how, orders).await {
                exit = Exit::abnormal(KILLED);
                self.node().kill_all();
                if timeout(KILL_WAIT, join).await.is_err() {
                    return (exit, Ending::TaskRuns);
                }
            }
        }
        // A killed supervisor's children are killed by `ractor`, which neither waits nor reaches one that is draining.
        self.node().kill_subtree();
        match timeout(KILL_WAIT, self.node().subtree_gone()).await {
            Ok(()) => (exit, Ending::Gone),
            Err(_) => (exit, Ending::SubtreeRuns),
        }
    }

    fn timed_out(&self) -> String {
        format!("it did not start within {:?}", self.spec.start_timeout.unwrap_or_default())
    }
}

/// How far an end got.
enum Ending {
    Gone,
    TaskRuns,
    SubtreeRuns,
}

impl Ending {
    fn leaves(self, join: JoinHandle<()>) -> Left {
        match self {
            Ending::Gone => Left::Nothing,
            Ending::TaskRuns => Left::Task(join),
            Ending::SubtreeRuns => Left::Subtree,
        }
    }
}

/// Asks an actor to stop; true when it did in time. Gives up early when the supervisor dies: `ractor` kills the linked
/// children of a dead supervisor, but not one that is already stopping.
async fn asked_to_stop(
    cell: &ActorCell,
    join: &mut JoinHandle<()>,
    how: Shutdown,
    orders: &mut mpsc::Receiver<Shutdown>,
) -> bool {
    let patience = match how {
        Shutdown::BrutalKill => return false,
        Shutdown::Timeout(limit) => Some(limit),
        Shutdown::Infinity => None,
    };
    cell.stop(Some(SHUTDOWN.to_owned()));
    tokio::select! {
        biased;
        _ = join => true,
        () = supervisor_died(orders) => false,
        () = sleep_for(patience) => false,
    }
}

fn still_runs(path: &str) -> String {
    format!("{path} still runs {KILL_WAIT:?} after it was killed")
}

fn still_starts(path: &str) -> String {
    format!("the start of {path} still runs {KILL_WAIT:?} after it was called off")
}

fn linked_run(node: &Node) -> String {
    let ids: Vec<String> = node.linked.left().iter().map(|cell| cell.get_id().to_string()).collect();
    format!("actors linked to {} still run {KILL_WAIT:?} after it: {}", node.path, ids.join(", "))
}

fn held_on(path: &str, latch: &str) -> String {
    format!("the latch {latch:?} of {path} is still held {KILL_WAIT:?} after its task ended")
}

async fn supervisor_died(orders: &mut mpsc::Receiver<Shutdown>) {
    while orders.recv().await.is_some() {}
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn sleep_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// A task that is aborted when its owner lets go of it.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        AbortOnDrop(tokio::spawn(future))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
