//! Children that come and go: OTP's `simple_one_for_one`, Elixir's `DynamicSupervisor`.
//!
//! One template, many children. Owns what is fixed about them; the supervisor itself is the same actor as every other,
//! with a machine that forgets a child when it is down and stops all of them at once, in no order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ractor::Actor;
use tokio::time::Duration;

use crate::backoff::Backoff;
use crate::intensity::Intensity;
use crate::node::Node;
use crate::requests::{ChildError, Started, SupervisorRef};
use crate::snapshot::{Counts, TreeNode};
use crate::spec::{AutoShutdown, ChildSpec, Restart, Shutdown, SpecError};

/// Children that a dynamic supervisor holds when nothing else is said.
const CHILDREN_MAX: usize = 1_000_000;

/// A handle on a supervisor of children that are all alike and come and go.
///
/// Made before the tree, like a [`Service`](crate::Service); given to [`ChildSpec::dynamic`] and to everyone who starts
/// children. Stays good when the supervisor is restarted, which then has no children. `T` is what a child is started
/// with; it is kept for restarts, and let go at once where the children are temporary.
///
/// Starting and stopping cost the same whether there are ten children or a hundred thousand.
pub struct DynamicSupervisor<T> {
    template: Arc<dyn Fn(T) -> ChildSpec + Send + Sync>,
    spec: Arc<DynamicSpec>,
}

/// What the supervisor goes by.
#[derive(Debug)]
pub(crate) struct DynamicSpec {
    pub(crate) template: Template,
    /// Children there have been, over all incarnations: an id is never used again.
    ids: AtomicU64,
    /// Where it is in its tree.
    place: Mutex<Option<Arc<Node>>>,
}

/// What all children of a [`DynamicSupervisor`] have in common. The defaults are those of [`ChildSpec`], but children
/// are temporary.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// How many restarts, of all children together, are tolerated before the supervisor gives up.
    pub intensity: Intensity,
    /// Whether a child is restarted when it ends.
    pub restart: Restart,
    /// How a child is stopped.
    pub shutdown: Option<Shutdown>,
    /// How long a start may take.
    pub start_timeout: Option<Duration>,
    /// A delay before restarts.
    pub backoff: Option<Backoff>,
    /// Children end the supervisor by their own end, as [`AutoShutdown`] says; `Never`: they are not significant.
    pub auto_shutdown: AutoShutdown,
    /// How many children there may be at a time; one more is refused.
    pub children_max: usize,
}

impl Default for Template {
    fn default() -> Self {
        Template {
            intensity: Intensity::default(),
            restart: Restart::Temporary,
            shutdown: None,
            start_timeout: None,
            backoff: None,
            auto_shutdown: AutoShutdown::Never,
            children_max: CHILDREN_MAX,
        }
    }
}

impl Template {
    fn applied_to(&self, mut spec: ChildSpec) -> ChildSpec {
        spec.restart = self.restart;
        spec.shutdown = self.shutdown.unwrap_or(spec.shutdown);
        spec.start_timeout = self.start_timeout.or(spec.start_timeout);
        spec.backoff = self.backoff;
        spec.significant = self.auto_shutdown != AutoShutdown::Never;
        spec
    }
}

impl<T> Clone for DynamicSupervisor<T> {
    fn clone(&self) -> Self {
        DynamicSupervisor { template: Arc::clone(&self.template), spec: Arc::clone(&self.spec) }
    }
}

impl<T> std::fmt::Debug for DynamicSupervisor<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DynamicSupervisor").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl<T: Clone + Send + Sync + 'static> DynamicSupervisor<T> {
    /// Children are what `make` makes of what they are started with; `None` is OTP's `ignore`, and leaves no child.
    pub fn new<A, F>(template: Template, make: F) -> Self
    where
        A: Actor,
        F: Fn(T) -> Option<(A, A::Arguments)> + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        let spec = move |with: T| {
            let make = Arc::clone(&make);
            template.applied_to(ChildSpec::optional("", move || make(with.clone())))
        };
        let of_all = DynamicSpec { template, ids: AtomicU64::new(0), place: Mutex::default() };
        DynamicSupervisor { template: Arc::new(spec), spec: Arc::new(of_all) }
    }

    /// Starts a child, and waits until it is up.
    ///
    /// # Errors
    /// See [`ChildError`]; then there is no such child.
    pub async fn start_child(&self, with: T) -> Result<Started, ChildError> {
        self.place()?.start_child((self.template)(with)).await
    }
}

impl<T> DynamicSupervisor<T> {
    /// Stops a child, by the id that [`Started::Running`] told, and forgets it. No other child ever has that id, not even
    /// after a restart of the supervisor.
    ///
    /// # Errors
    /// See [`ChildError`].
    pub async fn terminate_child(&self, id: &str) -> Result<(), ChildError> {
        self.place()?.terminate_child(id).await
    }

    /// Its children, oldest first.
    pub fn which_children(&self) -> Vec<TreeNode> {
        self.place().map(|place| place.which_children()).unwrap_or_default()
    }

    /// How many children it has.
    pub fn count_children(&self) -> Counts {
        self.place().map(|place| place.count_children()).unwrap_or_default()
    }

    pub(crate) fn spec(&self) -> Arc<DynamicSpec> {
        Arc::clone(&self.spec)
    }

    fn place(&self) -> Result<SupervisorRef, ChildError> {
        let place = self.spec.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        place.and_then(SupervisorRef::to).ok_or_else(|| ChildError::Down("no tree yet".to_owned()))
    }
}

impl DynamicSpec {
    /// Whether children of this template could be.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let Template { intensity, auto_shutdown, .. } = self.template;
        intensity.check()?;
        self.template.applied_to(ChildSpec::spent("its children")).check(intensity, auto_shutdown)
    }

    /// The supervisor has its place here. An error when it runs in another.
    pub(crate) fn settle(&self, node: &Arc<Node>) -> Result<(), String> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = place.as_ref().filter(|other| !Arc::ptr_eq(other, node) && other.is_live()) {
            return Err(format!("its handle is that of {}, which runs", other.path));
        }
        *place = Some(Arc::clone(node));
        Ok(())
    }

    /// The id of the next child. Only the supervisor asks, and there is one at a time.
    pub(crate) fn next_id(&self) -> String {
        self.ids.load(Ordering::Relaxed).to_string()
    }

    /// There is a child with that id.
    pub(crate) fn id_is_taken(&self) {
        self.ids.fetch_add(1, Ordering::Relaxed);
    }
}
