//! A node as a host application holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use converge_ledger_core::NewEntry;
use converge_supervisors::ractor::ActorCell;
use converge_supervisors::{Application, ApplicationError, ChildSpec, Escalated, StopError, Tree};
use tokio::runtime::Handle;

use crate::application::{self, Parts};
use crate::environment::Environment;
use crate::ledger::{Ledger, Validator};
use crate::remote::RemoteCalls;
use crate::sockets::Sockets;
use crate::verdict::Verdict;
use crate::{Config, Rejection};

/// Name of a node's root supervisor, the first part of every path.
const ROOT: &str = "root";
/// What a node that is dropped instead of stopped gets.
const DROP_DEADLINE: Duration = Duration::from_secs(30);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

impl StartError {
    pub(crate) fn new(reason: impl ToString) -> StartError {
        StartError(reason.to_string())
    }
}

/// A running node. Stop it with [`Node::stop`]; one that is dropped is asked to stop, and nobody waits for it.
///
/// It runs on the tokio runtime that starts it, but for what [`Builder::ledger_runtime`] moves, and installs no subscriber, signal handler, allocator or runtime.
pub struct Node {
    running: Option<Running>,
}

#[derive(Clone)]
struct Running {
    tree: Tree,
    ledger: Ledger,
    verdict: Verdict,
    /// Where it runs: a node may be dropped elsewhere.
    runtime: Handle,
    grpc: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

/// A node to be started, with what only a host can give.
pub struct Builder {
    config: Config,
    validator: Option<Validator>,
    environment: Environment,
}

impl Builder {
    /// A rule of the host's for every entry appended through this node. Runs in the caller's task; a panic is a
    /// rejection.
    #[must_use]
    pub fn validator(mut self, rule: impl Fn(&NewEntry) -> Result<(), Rejection> + Send + Sync + 'static) -> Builder {
        self.validator = Some(Arc::new(rule));
        self
    }

    /// Something of the host's that an operator should look at, beside the node's own alarms: called for every status,
    /// in the caller's task. A panic is an alarm.
    #[must_use]
    pub fn alarm(mut self, alarm: impl Fn() -> Option<String> + Send + Sync + 'static) -> Builder {
        self.environment.alarms.push(Arc::new(alarm));
        self
    }

    /// Runs the ledger's actors and the links on a runtime of their own, and only the APIs and calls where the node is
    /// started: a crowd of calls then takes no turn of theirs. A current-thread runtime on a thread that does nothing
    /// else is meant, with I/O and time enabled.
    ///
    /// It is to outlive the node, and somebody is to drive it. A node whose ledger runtime is dropped ends with an error
    /// at once, as if killed; nothing that was acknowledged is lost.
    #[must_use]
    pub fn ledger_runtime(mut self, runtime: Handle) -> Builder {
        self.environment.ledger_runtime = Some(runtime);
        self
    }

    /// Puts another world in place of the machine's.
    #[cfg(any(test, feature = "lab"))]
    #[doc(hidden)]
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Builder {
        self.environment = environment;
        self
    }

    /// Starts the node: its tree is up, its data recovered. A leader may still have to be found; calls wait for
    /// it within their deadlines.
    ///
    /// # Errors
    /// [`StartError`] names the cause and the next step.
    pub async fn start(self) -> Result<Node, StartError> {
        self.run(None).await
    }

    /// Starts the node linked to an actor of the host's: if that one dies, the node does; if the node gives up,
    /// that one hears of it as of any child.
    ///
    /// # Errors
    /// [`StartError`] names the cause and the next step.
    pub async fn spawn_linked(self, parent: ActorCell) -> Result<Node, StartError> {
        self.run(Some(parent)).await
    }

    /// A child specification that runs the node under a supervisor of the host's, and the ledger to call it by.
    /// Sockets are bound here, at once: whoever calls this cannot be made to wait for one that is taken.
    ///
    /// # Errors
    /// [`StartError`] names the cause and the next step.
    pub fn child(self) -> Result<(ChildSpec, Ledger), StartError> {
        let sockets = Sockets::bind(&self.config, self.environment.network.is_some())?;
        let Parts { spec, ledger, .. } = self.build(sockets)?;
        Ok((ChildSpec::supervisor("converge-ledger", spec), ledger))
    }

    fn build(self, sockets: Sockets) -> Result<Parts, StartError> {
        application::build(&self.config, self.validator, self.environment, sockets)
    }

    async fn run(self, parent: Option<ActorCell>) -> Result<Node, StartError> {
        let sockets = Sockets::wait(&self.config, self.environment.network.is_some()).await?;
        let Parts { spec, ledger, verdict, grpc, peer } = self.build(sockets)?;
        let (publish, of, judge) = (ledger.clone(), ledger.clone(), verdict.clone());
        verdict.starting();
        let mut application = Application::new(ROOT, spec)
            .stop_deadline(DROP_DEADLINE)
            .phase("publish the tree", |tree| async move {
                let _ = publish.inner.tree.set(tree);
                Ok(())
            })
            .phase("verdict", |_| async move { judge.started().map_err(Into::into) })
            // However it ends, and whether or not anyone waits for it.
            .on_end(move || of.ended());
        if let Some(parent) = parent {
            application = application.linked_to(parent);
        }
        match application.start().await {
            Ok(running) => {
                let (tree, runtime) = (running.tree().clone(), Handle::current());
                Ok(Node { running: Some(Running { tree, ledger, verdict, runtime, grpc, peer }) })
            }
            Err(ApplicationError::Phase { reason, .. }) => Err(StartError::new(reason)),
            Err(error) => Err(StartError::new(verdict.reason().unwrap_or_else(|| error.to_string()))),
        }
    }
}

impl Node {
    /// A node to be started with more than a configuration.
    #[must_use]
    pub fn builder(config: Config) -> Builder {
        Builder { config, validator: None, environment: Environment::default() }
    }

    /// See [`Builder::start`].
    ///
    /// # Errors
    /// [`StartError`] names the cause and the next step.
    pub async fn start(config: Config) -> Result<Node, StartError> {
        Node::builder(config).start().await
    }

    /// See [`Builder::child`].
    ///
    /// # Errors
    /// [`StartError`] names the cause and the next step.
    pub fn child(config: Config) -> Result<(ChildSpec, Ledger), StartError> {
        Node::builder(config).child()
    }

    /// See [`Builder::spawn_linked`].
    ///
    /// # Errors
    /// [`StartError`] names the cause and the next step.
    pub async fn spawn_linked(config: Config, parent: ActorCell) -> Result<Node, StartError> {
        Node::builder(config).spawn_linked(parent).await
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("a node runs until it is stopped, which takes it")
    }

    /// The handle to call; it outlives this value.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.running().ledger.clone()
    }

    /// Calls of actors of hosts, on every node of the cluster; see [`crate::remote`].
    #[must_use]
    pub fn remote(&self) -> RemoteCalls {
        self.running().ledger.remote()
    }

    /// Where gRPC is served; `None` where it is off.
    #[must_use]
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.running().grpc
    }

    /// Where peers connect; `None` for a node alone.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.running().peer
    }

    /// The supervision tree: to look at, and to kill actors of in tests.
    #[must_use]
    pub fn tree(&self) -> Tree {
        self.running().tree.clone()
    }

    /// Waits until the node is stopped, or its root supervisor gives up.
    ///
    /// # Errors
    /// [`Escalated`] with the reason.
    pub async fn wait(&self) -> Result<(), Escalated> {
        let Running { tree, ledger, verdict, .. } = self.running();
        let ended = tree.wait().await;
        ledger.ended();
        ended.map_err(|escalated| match verdict.reason() {
            Some(reason) => Escalated { reason, ..escalated },
            None => escalated,
        })
    }

    /// Stops the node in order: leadership handed over, no new calls, calls drained, actors from the youngest to the eldest. Past the
    /// deadline everything is killed, which loses nothing that was acknowledged.
    ///
    /// # Errors
    /// [`StopError`] when the deadline passed.
    pub async fn stop(mut self, deadline: Duration) -> Result<(), StopError> {
        let begun = tokio::time::Instant::now();
        // Still in its place: where nobody waits for the rest, dropping it stops the node.
        self.running().ledger.leave(deadline / 4).await;
        let Some(Running { tree, ledger, .. }) = self.running.take() else { return Ok(()) };
        let stopped = tree.stop(deadline.saturating_sub(begun.elapsed())).await;
        ledger.ended();
        stopped
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(Running { tree, ledger, runtime, .. }) = self.running.take() else { return };
        if *ledger.inner.stopped.borrow() {
            return;
        }
        tracing::warn!("a node was dropped; it is asked to stop, but nobody waits for it: call Node::stop");
        runtime.spawn(async move {
            let _ = tree.stop(DROP_DEADLINE).await;
            ledger.ended();
        });
    }
}
