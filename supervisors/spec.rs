//! What to run: specifications of children and supervisors.
//!
//! Data only. Knows how to make an actor, not when.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, SpawnErr};
use tokio::runtime::Handle;
use tokio::time::Duration;

use crate::backoff::Backoff;
use crate::dynamic::DynamicSpec;
use crate::intensity::Intensity;
use crate::latch::Latch;
use crate::node::Incarnation;
use crate::service::{Service, SlotGuard};
use crate::sole;
use crate::strategy::Terms;
use crate::supervised::Supervised;

/// Time a worker has to start when its spec says nothing else.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a worker has to stop when its spec says nothing else (OTP's default).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is restarted when one child fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The child alone.
    OneForOne,
    /// All children: the others are stopped first, in reverse order, then all are started in order.
    OneForAll,
    /// The child and those started after it: stopped in reverse order, started in order.
    RestForOne,
}

/// Whether a child is restarted when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always, a normal exit included.
    Permanent,
    /// After an abnormal exit only.
    Transient,
    /// Never. Its spec is forgotten when it ends, and a restart of its group does not bring it back.
    Temporary,
}

/// Whether a supervisor exits when its significant children have ended by themselves. One that does so exits with
/// `"shutdown"`, after it has stopped what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoShutdown {
    /// It does not.
    #[default]
    Never,
    /// It does when one of them has.
    AnySignificant,
    /// It does when the last of them that ran has.
    AllSignificant,
}

/// How a child is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Killed at once; its `post_stop` does not run.
    BrutalKill,
    /// Asked to stop, and killed if it is still there after this long.
    Timeout(Duration),
    /// Asked to stop, and waited for without bound. For supervisors, whose children have bounds of their own.
    Infinity,
}

/// One child of a supervisor: how to make it, and what to do about its end.
///
/// Defaults: permanent; a worker stops within 5 s and starts within 30 s; a supervisor has no bound of its own for
/// either; no backoff.
#[derive(Clone)]
pub struct ChildSpec {
    pub(crate) id: String,
    pub(crate) body: Body,
    pub(crate) restart: Restart,
    pub(crate) shutdown: Shutdown,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) significant: bool,
    /// The identity and the name of the service that it fills.
    pub(crate) service: Option<(usize, &'static str)>,
    pub(crate) latches: Vec<Latch>,
    /// Where it runs; `None`: where its supervisor does.
    pub(crate) runtime: Option<Handle>,
}

/// A supervisor: its children in start order, and what to do when one fails.
#[derive(Clone, Debug)]
pub struct SupervisorSpec {
    /// Who is restarted when one child fails.
    pub strategy: Strategy,
    /// How many restarts are tolerated before the supervisor gives up.
    pub intensity: Intensity,
    /// Whether it exits when significant children have ended.
    pub auto_shutdown: AutoShutdown,
    /// In start order. Ids are unique, not empty, and hold no `/`.
    pub children: Vec<ChildSpec>,
    /// For `RestForOne` and `OneForAll`: how long a sibling that is stopped *because another child failed* gets before
    /// it is killed, where that is less than its own shutdown time. An addition to OTP: when an elder is gone, its
    /// juniors have little left to do, and callers wait. `None`: each its own shutdown time.
    pub sibling_shutdown: Option<Duration>,
}

/// What a child is made of.
#[derive(Clone)]
pub(crate) enum Body {
    Worker(Launch),
    Supervisor(Arc<SupervisorSpec>),
    Dynamic(Arc<DynamicSpec>),
    /// A temporary child's, once it runs: it will not be started again, and what it was started with is let go.
    Spent,
}

/// Spawns one incarnation of a worker, linked to its supervisor.
pub(crate) type Launch = Arc<dyn Fn(Incarnation, ActorCell) -> Spawning + Send + Sync>;
/// A worker that is starting: resolves after its `pre_start`, with nothing if there is nothing to run; dropping it calls
/// the start off.
pub(crate) type Spawning = Pin<Box<dyn Future<Output = Result<Option<Spawned>, SpawnErr>> + Send>>;
/// A running actor and its end.
pub(crate) type Spawned = (ActorCell, JoinHandle<()>);

impl ChildSpec {
    /// A worker. `make` is called for each incarnation and returns the actor and its arguments; it should do no more
    /// than that: `pre_start` is the place for work. A panic in `make` is a failed start.
    pub fn actor<A, F>(id: impl Into<String>, make: F) -> ChildSpec
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::worker(id.into(), None, move || Some(make()))
    }

    /// A worker that may have nothing to do: `None` is what `ignore` is to OTP's `init`. The child is then there and
    /// does not run, until its group is restarted or someone asks for it; its supervisor is content.
    pub fn optional<A, F>(id: impl Into<String>, make: F) -> ChildSpec
    where
        A: Actor,
        F: Fn() -> Option<(A, A::Arguments)> + Send + Sync + 'static,
    {
        ChildSpec::worker(id.into(), None, make)
    }

    /// A worker that fills `service` once it has started, before the next sibling starts. The slot is empty again when
    /// that incarnation stops, is killed, panics or is aborted.
    pub fn service<A, F>(id: impl Into<String>, service: &Service<A::Msg>, make: F) -> ChildSpec
    where
        A: Actor,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        ChildSpec::worker(id.into(), Some(service.clone()), move || Some(make()))
    }

    /// A supervisor as a child: its start is over when all its children have started. When it gives up it exits with
    /// `"shutdown: …"` as OTP's does, so a permanent one is restarted by its parent and a transient one is not.
    pub fn supervisor(id: impl Into<String>, spec: SupervisorSpec) -> ChildSpec {
        ChildSpec::above(id.into(), Body::Supervisor(Arc::new(spec)))
    }

    /// A dynamic supervisor as a child. A [`DynamicSupervisor`](crate::DynamicSupervisor) has one place in one tree: while
    /// it runs there, it does not start in another.
    pub fn dynamic<T>(id: impl Into<String>, supervisor: &crate::DynamicSupervisor<T>) -> ChildSpec {
        ChildSpec::above(id.into(), Body::Dynamic(supervisor.spec()))
    }

    /// One that cannot be started, to be checked.
    pub(crate) fn spent(id: &str) -> ChildSpec {
        ChildSpec::above(id.to_owned(), Body::Spent)
    }

    fn above(id: String, body: Body) -> ChildSpec {
        ChildSpec {
            id,
            body,
            restart: Restart::Permanent,
            shutdown: Shutdown::Infinity,
            start_timeout: None,
            backoff: None,
            significant: false,
            service: None,
            latches: Vec::new(),
            runtime: None,
        }
    }

    /// Sets when the child is restarted.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Sets how the child is stopped.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Sets how long a start may take: past that it is called off (a supervisor: killed with its subtree) and counts as
    /// failed.
    #[must_use]
    pub fn start_timeout(mut self, start_timeout: Duration) -> Self {
        self.start_timeout = Some(start_timeout);
        self
    }

    /// Sets a delay before restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = Some(backoff);
        self
    }

    /// Makes its end by itself count for the [`AutoShutdown`] of its supervisor. Not for a permanent child, which never
    /// ends by itself.
    #[must_use]
    pub fn significant(mut self, significant: bool) -> Self {
        self.significant = significant;
        self
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms { restart: self.restart, backoff: self.backoff, significant: self.significant }
    }

    /// Adds a latch: the child is gone, and may be started again, only when its task has ended and the latch is
    /// released.
    #[must_use]
    pub fn latch(mut self, latch: &Latch) -> Self {
        self.latches.push(latch.clone());
        self
    }

    /// Sets the runtime that the child runs on, over every restart, and with it all below the child that has no other of
    /// its own. Without it: where its supervisor runs.
    ///
    /// The runtime is to outlive the child, and somebody is to drive it (a current-thread one runs while its `block_on`
    /// does). One that is dropped takes the child with it; its restarts fail, and its supervisor gives up. What the
    /// supervisor waits for has its bounds also where that runtime hangs, or nobody drives it: a start that takes too long
    /// is called off, a stop becomes a kill, and a child that is still there 30 s later is stuck.
    #[must_use]
    pub fn on(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The id, unique among its siblings.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn worker<A, F>(id: String, service: Option<Service<A::Msg>>, make: F) -> ChildSpec
    where
        A: Actor,
        F: Fn() -> Option<(A, A::Arguments)> + Send + Sync + 'static,
    {
        let make = Arc::new(Quiet(Some(make)));
        let identity = service.as_ref().map(|service| (service.identity(), service.name()));
        let launch = move |incarnation: Incarnation, parent: ActorCell| -> Spawning {
            let make = Arc::clone(&make);
            let slot = service.clone().map(|service| SlotGuard::new(service, Arc::clone(&incarnation.node.pulse)));
            Box::pin(async move {
                let made =
                    catch_unwind(AssertUnwindSafe(|| make.0.as_ref().and_then(|make| make()))).map_err(|panic| {
                        SpawnErr::StartupFailed(format!("the child's factory panicked: {}", panic_text(&*panic)).into())
                    })?;
                let Some((actor, arguments)) = made else {
                    return Ok(None);
                };
                let wrapped = Supervised::new(actor, incarnation, slot);
                let (actor, join) = Supervised::spawn_linked(None, wrapped, arguments, parent).await?;
                Ok(Some((actor.get_cell(), join)))
            })
        };
        ChildSpec {
            id,
            body: Body::Worker(Arc::new(launch)),
            restart: Restart::Permanent,
            shutdown: Shutdown::Timeout(SHUTDOWN_TIMEOUT),
            start_timeout: Some(START_TIMEOUT),
            backoff: None,
            significant: false,
            service: identity,
            latches: Vec::new(),
            runtime: None,
        }
    }
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("ChildSpec");
        out.field("id", &self.id)
            .field("restart", &self.restart)
            .field("shutdown", &self.shutdown)
            .field("start_timeout", &self.start_timeout)
            .field("backoff", &self.backoff)
            .field("significant", &self.significant);
        match &self.body {
            Body::Supervisor(spec) => out.field("supervisor", spec).finish(),
            Body::Worker(_) | Body::Dynamic(_) | Body::Spent => out.finish_non_exhaustive(),
        }
    }
}

impl SupervisorSpec {
    /// A specification without auto-shutdown and without the grace for siblings.
    pub fn new(strategy: Strategy, intensity: Intensity, children: Vec<ChildSpec>) -> Self {
        let auto_shutdown = AutoShutdown::Never;
        SupervisorSpec { strategy, intensity, auto_shutdown, children, sibling_shutdown: None }
    }

    /// Sets when the supervisor exits because of significant children.
    #[must_use]
    pub fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.auto_shutdown = auto_shutdown;
        self
    }

    /// Checks a specification, and all below it, without starting anything: OTP's `check_childspecs`.
    ///
    /// # Errors
    /// What [`Tree::start`](crate::Tree::start) would refuse: a period of zero; ids that are empty, double, or hold a `/`; a significant
    /// child that is permanent, or whose supervisor never shuts down for one; a backoff so long that the restarts of a
    /// child that dies at once could never pass the intensity; a [`Service`], a dynamic supervisor or a [`Latch`] that is
    /// given to two children, at whatever level. What other trees run is not looked at: where one of them has such a thing
    /// already, the child does not start.
    pub fn check(&self) -> Result<(), SpecError> {
        self.check_alone()?;
        sole::check(&self.children)
    }

    /// But for what two children of the whole tree may not share.
    fn check_alone(&self) -> Result<(), SpecError> {
        self.intensity.check()?;
        let mut seen = BTreeSet::new();
        for child in &self.children {
            child.check_alone(self.intensity, self.auto_shutdown)?;
            if !seen.insert(child.id.as_str()) {
                return Err(SpecError(format!("two children have the id {:?}", child.id)));
            }
        }
        Ok(())
    }
}

impl ChildSpec {
    /// Checks this child, and all below it, against the supervisor it is to have.
    pub(crate) fn check(&self, intensity: Intensity, auto_shutdown: AutoShutdown) -> Result<(), SpecError> {
        self.check_alone(intensity, auto_shutdown)?;
        sole::check(std::slice::from_ref(self))
    }

    fn check_alone(&self, intensity: Intensity, auto_shutdown: AutoShutdown) -> Result<(), SpecError> {
        check_id(&self.id)?;
        let refused = |reason: String| Err(SpecError(format!("{}: {reason}", self.id)));
        if self.significant && self.restart == Restart::Permanent {
            return refused("a permanent child cannot be significant, for it never ends by itself".into());
        }
        if self.significant && auto_shutdown == AutoShutdown::Never {
            return refused("it is significant, but its supervisor's auto-shutdown is `Never`".into());
        }
        if let Some(backoff) = self.backoff
            && self.restart != Restart::Temporary
        {
            let quickest = backoff.quickest(intensity.restarts);
            if quickest > intensity.period {
                let Intensity { restarts, period } = intensity;
                return refused(format!(
                    "with its backoff {restarts} restarts take at least {quickest:?}, so that it would never give up \
                     after {restarts} within {period:?}; shorten the backoff or lengthen the period"
                ));
            }
        }
        match &self.body {
            Body::Supervisor(spec) => {
                spec.check_alone().map_err(|SpecError(reason)| SpecError(format!("{}/{reason}", self.id)))
            }
            Body::Dynamic(spec) => {
                spec.check().map_err(|SpecError(reason)| SpecError(format!("{}: {reason}", self.id)))
            }
            Body::Worker(_) | Body::Spent => Ok(()),
        }
    }
}

/// A specification that is none, and why. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

/// An id is one segment of a path.
pub(crate) fn check_id(id: &str) -> Result<(), SpecError> {
    if id.is_empty() {
        return Err(SpecError("a child's id is empty".to_owned()));
    }
    if id.contains('/') {
        return Err(SpecError(format!("the id {id:?} holds a '/', which separates the ids of a path")));
    }
    Ok(())
}

/// A user's value whose drop may panic: that is no business of whoever lets go of it last, which may be a supervisor.
struct Quiet<T>(Option<T>);

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
            tracing::error!("what a child is made from panicked while it was dropped");
        }
    }
}

/// What a panic had to say.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
