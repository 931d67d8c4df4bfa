//! A worker that records what happens to it and obeys: the probe of every test here.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses its own part of this"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use converge_supervisors::ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef};
use converge_supervisors::{
    ChildSpec, ChildState, Intensity, Service, Strategy, SupervisorRef, SupervisorSpec, Tree, TreeNode,
};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Duration, Instant, sleep, timeout};

mod asked;
pub use asked::*;

/// Far more than anything here takes; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn second() -> Duration {
    Duration::from_secs(1)
}

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// What happened, in order, over all probes of a test.
#[derive(Clone, Debug)]
pub struct Log(Arc<watch::Sender<Vec<String>>>);

impl Log {
    pub fn new() -> Log {
        Log(Arc::new(watch::Sender::new(Vec::new())))
    }

    pub fn push(&self, line: impl Into<String>) {
        self.0.send_modify(|lines| lines.push(line.into()));
    }

    /// What was logged since the last take.
    pub fn take(&self) -> Vec<String> {
        let mut taken = Vec::new();
        self.0.send_modify(|lines| taken = std::mem::take(lines));
        taken
    }

    /// Waits until a line was logged `count` times.
    pub async fn seen(&self, line: &str, count: usize) {
        let mut lines = self.0.subscribe();
        let enough = lines.wait_for(|lines| lines.iter().filter(|l| *l == line).count() >= count);
        let waited = timeout(PATIENCE, enough).await.map(|result| result.is_ok());
        assert_eq!(waited, Ok(true), "{line:?} was not logged {count} times: {:?}", self.0.borrow());
    }
}

/// What only one incarnation may own at a time, like a locked file.
#[derive(Clone, Debug, Default)]
pub struct Lock(Arc<LockState>);

#[derive(Debug, Default)]
struct LockState {
    held: AtomicBool,
    broken: AtomicU32,
    taken: AtomicU32,
}

impl Lock {
    pub fn held(&self) -> bool {
        self.0.held.load(Ordering::SeqCst)
    }

    pub fn taken(&self) -> u32 {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// Times someone found it held: must be none.
    pub fn broken(&self) -> u32 {
        self.0.broken.load(Ordering::SeqCst)
    }

    fn take(&self) -> Held {
        if self.0.held.swap(true, Ordering::SeqCst) {
            self.0.broken.fetch_add(1, Ordering::SeqCst);
        }
        self.0.taken.fetch_add(1, Ordering::SeqCst);
        Held(self.clone())
    }
}

/// The lock, taken; released when dropped.
pub struct Held(Lock);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.held.store(false, Ordering::SeqCst);
    }
}

/// What a test sets on a probe from outside, over all its incarnations.
#[derive(Clone, Debug, Default)]
pub struct Knobs {
    pub lock: Lock,
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    nothing_to_do: AtomicBool,
    fail_starts: AtomicU32,
    panic_starts: AtomicU32,
    hang_start: AtomicBool,
    hang_stop: AtomicBool,
    slow_start: Mutex<Duration>,
    slow_drop: Mutex<Duration>,
    juniors: Mutex<Vec<Lock>>,
    disorder: AtomicU32,
    released: Notify,
    starting: Mutex<Option<ActorCell>>,
}

impl Knobs {
    pub fn new() -> Knobs {
        Knobs::default()
    }

    /// The next `count` starts fail.
    pub fn fail_starts(&self, count: u32) {
        self.inner.fail_starts.store(count, Ordering::SeqCst);
    }

    /// The factory has nothing to run; only those that may say so ask.
    pub fn nothing_to_do(&self, on: bool) {
        self.inner.nothing_to_do.store(on, Ordering::SeqCst);
    }

    /// The next `count` starts panic.
    pub fn panic_starts(&self, count: u32) {
        self.inner.panic_starts.store(count, Ordering::SeqCst);
    }

    pub fn failing_starts_left(&self) -> u32 {
        self.inner.fail_starts.load(Ordering::SeqCst)
    }

    /// Starts hang, holding the lock.
    pub fn hang_start(&self, on: bool) {
        self.inner.hang_start.store(on, Ordering::SeqCst);
        self.inner.released.notify_waiters();
    }

    /// `post_stop` hangs.
    pub fn hang_stop(&self, on: bool) {
        self.inner.hang_stop.store(on, Ordering::SeqCst);
        self.inner.released.notify_waiters();
    }

    pub fn slow_start(&self, pause: Duration) {
        *self.inner.slow_start.lock().unwrap() = pause;
    }

    /// Dropping the state blocks its thread for so long.
    pub fn slow_drop(&self, pause: Duration) {
        *self.inner.slow_drop.lock().unwrap() = pause;
    }

    /// Locks that must be free whenever this one starts, and when it stops in order.
    pub fn juniors(&self, locks: Vec<Lock>) {
        *self.inner.juniors.lock().unwrap() = locks;
    }

    fn check_order(&self) {
        if self.inner.juniors.lock().unwrap().iter().any(Lock::held) {
            self.inner.disorder.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Times a junior was still there: must be none.
    pub fn disorder(&self) -> u32 {
        self.inner.disorder.load(Ordering::SeqCst)
    }

    /// The actor whose start hangs.
    pub fn starting(&self) -> Option<ActorCell> {
        self.inner.starting.lock().unwrap().clone()
    }

    fn one_of(counter: &AtomicU32) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }

    async fn hang_while(&self, flag: impl Fn(&Inner) -> &AtomicBool) {
        loop {
            let released = self.inner.released.notified();
            if !flag(&self.inner).load(Ordering::SeqCst) {
                return;
            }
            released.await;
        }
    }
}

pub struct Probe {
    pub name: String,
    pub log: Log,
    pub knobs: Knobs,
}

pub enum Do {
    Ping(oneshot::Sender<ActorId>),
    Panic,
    Fail,
    /// Hangs inside the handler for ever, keeping the reply.
    Hang(oneshot::Sender<()>),
    Unlink(ActorCell),
}

pub struct ProbeState {
    // In the order in which they are dropped: the lock goes last.
    _slow: SlowDrop,
    _lock: Held,
}

struct SlowDrop(Knobs);

impl Drop for SlowDrop {
    fn drop(&mut self) {
        let pause = *self.0.inner.slow_drop.lock().unwrap();
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

impl Actor for Probe {
    type Msg = Do;
    type State = ProbeState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Do>, (): ()) -> Result<ProbeState, ActorProcessingErr> {
        let held = self.knobs.lock.take();
        self.knobs.check_order();
        self.log.push(format!("start {}", self.name));
        if Knobs::one_of(&self.knobs.inner.fail_starts) {
            self.log.push(format!("no start {}", self.name));
            return Err("told to fail".into());
        }
        if Knobs::one_of(&self.knobs.inner.panic_starts) {
            panic!("told to panic");
        }
        *self.knobs.inner.starting.lock().unwrap() = Some(myself.get_cell());
        let pause = *self.knobs.inner.slow_start.lock().unwrap();
        if !pause.is_zero() {
            sleep(pause).await;
        }
        self.knobs.hang_while(|inner| &inner.hang_start).await;
        Ok(ProbeState { _lock: held, _slow: SlowDrop(self.knobs.clone()) })
    }

    async fn post_stop(&self, _: ActorRef<Do>, _: &mut ProbeState) -> Result<(), ActorProcessingErr> {
        self.knobs.check_order();
        self.log.push(format!("stop {}", self.name));
        self.knobs.hang_while(|inner| &inner.hang_stop).await;
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Do>, msg: Do, _: &mut ProbeState) -> Result<(), ActorProcessingErr> {
        match msg {
            Do::Ping(reply) => drop(reply.send(myself.get_id())),
            Do::Panic => panic!("told to panic"),
            Do::Fail => return Err("told to fail".into()),
            Do::Hang(reply) => {
                std::future::pending::<()>().await;
                drop(reply);
            }
            Do::Unlink(supervisor) => myself.unlink(supervisor),
        }
        Ok(())
    }
}

/// A worker with its own knobs, logging under its id.
pub fn probe(id: &str, log: &Log, knobs: &Knobs) -> ChildSpec {
    let (name, log, knobs) = (id.to_owned(), log.clone(), knobs.clone());
    ChildSpec::actor(id, move || (Probe { name: name.clone(), log: log.clone(), knobs: knobs.clone() }, ()))
}

/// Like [`probe`], in a slot.
pub fn served(id: &str, service: &Service<Do>, log: &Log, knobs: &Knobs) -> ChildSpec {
    let (name, log, knobs) = (id.to_owned(), log.clone(), knobs.clone());
    let make = move || (Probe { name: name.clone(), log: log.clone(), knobs: knobs.clone() }, ());
    ChildSpec::service(id, service, make)
}

pub fn spec(strategy: Strategy, restarts: u32, seconds: u64, children: Vec<ChildSpec>) -> SupervisorSpec {
    SupervisorSpec::new(strategy, Intensity { restarts, period: Duration::from_secs(seconds) }, children)
}

/// A root "root" over probes with these ids; all share a log, each has its knobs.
pub struct Bench {
    pub tree: Tree,
    pub log: Log,
    pub knobs: BTreeMap<String, Knobs>,
}

impl Bench {
    pub async fn start(
        strategy: Strategy,
        restarts: u32,
        ids: &[&str],
        adjust: impl Fn(&str, ChildSpec) -> ChildSpec,
    ) -> Bench {
        let log = Log::new();
        let knobs: BTreeMap<String, Knobs> = ids.iter().map(|id| ((*id).to_owned(), Knobs::new())).collect();
        let children = ids.iter().map(|id| adjust(id, probe(id, &log, &knobs[*id]))).collect();
        let tree = Tree::start("root", spec(strategy, restarts, 5, children)).await.unwrap();
        Bench { tree, log, knobs }
    }

    pub fn root(&self) -> SupervisorRef {
        self.tree.supervisor("root").unwrap()
    }

    pub fn cell(&self, id: &str) -> ActorCell {
        self.tree.find(&format!("root/{id}")).unwrap_or_else(|| panic!("{id} is not there"))
    }

    pub async fn up(&self, id: &str, incarnation: u64) {
        up(&self.tree, &format!("root/{id}"), incarnation).await;
    }

    pub fn node(&self, id: &str) -> Option<TreeNode> {
        node(&self.tree, &format!("root/{id}"))
    }
}

pub fn node(tree: &Tree, path: &str) -> Option<TreeNode> {
    tree.snapshot().nodes.into_iter().find(|node| node.path == path)
}

/// Waits until the snapshot says so. There is nothing to be awaited for that.
pub async fn until(what: &str, tree: &Tree, condition: impl Fn(&Tree) -> bool) {
    let poll = async {
        while !condition(tree) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = timeout(PATIENCE, poll).await;
    assert!(waited.is_ok(), "waited in vain for: {what}; {:#?}", tree.snapshot());
}

/// Waits until this incarnation, or a later one, runs.
pub async fn up(tree: &Tree, path: &str, incarnation: u64) {
    until(&format!("{path} is up as number {incarnation}"), tree, |tree| {
        node(tree, path).is_some_and(|n| n.state == ChildState::Running && n.incarnation >= incarnation)
    })
    .await;
}

/// Waits until the child runs no more and is not about to.
pub async fn down(tree: &Tree, path: &str) {
    until(&format!("{path} is down"), tree, |tree| node(tree, path).is_none_or(|n| n.state == ChildState::Stopped))
        .await;
}

/// Lets everything that is ready run. With paused time nothing else can happen without this test.
pub async fn settle() {
    sleep(Duration::from_millis(1)).await;
}
