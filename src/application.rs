//! The whole supervision tree, top to bottom, on one screen.
//!
//! ```text
//! root                one_for_one
//! ├─ verdict          fails when this node must not run, and so ends it
//! ├─ ledger           rest_for_one: storage, replication, entry, watch
//! ├─ distribution     one_for_one: links (one per peer and lane), listener
//! └─ api              one_for_one: listener, connections
//! ```
//!
//! Every slot is made before the tree, every socket is bound before the tree: a restart needs no name and refuses
//! no connection. The arrows between actors are in [`Wires`], which routes frames, link events and applied
//! batches to whoever needs them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use converge_actors::distribution::calls;
use converge_actors::distribution::{self, Distribution, Identity, Inbound, Lane, LinkEvent, Sink, WeakDistribution};
use converge_actors::entry::{self, Entries};
use converge_actors::replication::{self, Replication, wire};
use converge_actors::storage::{self, Storage};
use converge_actors::watch::Watches;
use converge_ledger_core::{ClusterId, Limits, NodeId};
use converge_supervisors::{ChildSpec, Strategy, SupervisorSpec};
use tokio::sync::watch;

use crate::Config;
use crate::config::ENTRY_BYTES_MAX;
use crate::environment::{Environment, Observer};
use crate::ledger::{Inner, Ledger, Validator};
use crate::node::StartError;
use crate::reached::LimitsReached;
use crate::sockets::{Sockets, address};
use crate::verdict::Verdict;

/// A node before it runs.
pub(crate) struct Parts {
    pub(crate) spec: SupervisorSpec,
    pub(crate) ledger: Ledger,
    pub(crate) verdict: Verdict,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
}

/// The parts of the ledger, of which each knows some others.
struct Actors {
    storage: Storage,
    replication: Replication,
    entries: Entries,
    watches: Watches,
    distribution: Distribution,
    calls: Arc<calls::HostCalls>,
    verdict: Verdict,
}

/// Lays out the tree.
pub(crate) fn build(
    config: &Config,
    validator: Option<Validator>,
    environment: Environment,
    sockets: Sockets,
) -> Result<Parts, StartError> {
    let Sockets { peer: peer_socket, grpc: grpc_socket } = sockets;
    let by_sockets = peer_socket.is_some();
    let (grpc, peer) = (address(grpc_socket.as_ref()), address(peer_socket.as_ref()));
    let voters = config.voters().map_err(StartError::new)?;
    let ids: Vec<NodeId> = voters.keys().copied().collect();
    let identity = Identity { cluster_id: cluster_id(&config.cluster.name, &ids), node_id: NodeId(config.node.id) };
    let actors = Actors::new(config, &environment, identity, voters, peer_socket)?;
    let ledger = actors.ledger(config, validator, &environment, identity);
    let supervision = &config.supervision;
    // Between these and what is not moved, nothing but channels.
    let on = |child: ChildSpec| match &environment.ledger_runtime {
        Some(runtime) => child.on(runtime.clone()),
        None => child,
    };
    let mut children = vec![actors.verdict.child_spec(), on(actors.child_spec(config, &environment, identity, ids))];
    if by_sockets {
        let links = one_for_one("distribution", supervision.distribution, actors.distribution.children());
        children.push(on(links));
    }
    #[cfg(feature = "grpc")]
    if let Some(socket) = grpc_socket {
        let api = crate::api::grpc::children(socket, ledger.clone(), config.into());
        children.push(one_for_one("api", supervision.api, api));
    }
    #[cfg(not(feature = "grpc"))]
    drop(grpc_socket);
    let spec = SupervisorSpec::new(Strategy::OneForOne, supervision.root.into(), children);
    Ok(Parts { spec, ledger, verdict: actors.verdict, grpc, peer })
}

/// A host may change its working directory; the files stay where they are.
fn directory(config: &Config, environment: &Environment) -> Result<PathBuf, StartError> {
    let given = &config.node.data_dir;
    if environment.network.is_some() {
        return Ok(given.clone());
    }
    std::path::absolute(given)
        .map_err(|error| StartError::new(format!("node.data_dir = {given:?}: {error}; name a directory")))
}

impl Actors {
    fn new(
        config: &Config,
        environment: &Environment,
        identity: Identity,
        voters: BTreeMap<NodeId, String>,
        peer_socket: Option<TcpListener>,
    ) -> Result<Actors, StartError> {
        let (replication, watches) = (Replication::new(), Watches::new(environment.watch));
        let entries = Entries::new(identity.node_id, size(config.limits.inflight_bytes), environment.entry);
        let calls = calls::HostCalls::new(identity.node_id, voters.keys().copied());
        let wires = Arc::new(Wires {
            replication: replication.clone(),
            calls: calls.clone(),
            entries: entries.clone(),
            watches: watches.clone(),
            distribution: OnceLock::new(),
            observer: environment.observer.clone(),
        });
        let storage = {
            let (dir, wires) = (directory(config, environment)?, wires.clone());
            let free_bytes_min = config.storage.free_bytes_min;
            let settings = storage::Settings { dir, free_bytes_min, ..environment.storage.clone() };
            Storage::new(settings, Arc::new(move |batch| wires.applied(&batch)))
        };
        let links = distribution::Settings {
            links_intensity: config.supervision.links.into(),
            level: storage.level(),
            ..Default::default()
        };
        let distribution = match &environment.network {
            None => Distribution::new(links, identity, voters, peer_socket, wires.clone()),
            Some(network) => Distribution::elsewhere(network.join(identity, wires.clone())),
        };
        calls.attach(distribution.downgrade());
        let _ = wires.distribution.set(distribution.downgrade());
        Ok(Actors { storage, replication, entries, watches, distribution, calls, verdict: Verdict::new() })
    }

    /// The handle of those who use it.
    fn ledger(
        &self,
        config: &Config,
        validator: Option<Validator>,
        environment: &Environment,
        identity: Identity,
    ) -> Ledger {
        Ledger {
            inner: Arc::new(Inner {
                id: identity.node_id,
                cluster_id: identity.cluster_id,
                limits: Limits { payload_bytes: size(config.limits.payload_bytes), ..Limits::default() },
                response_bytes: size(config.limits.response_bytes),
                snapshot_bytes: size(config.limits.snapshot_bytes).max(ENTRY_BYTES_MAX),
                election: Duration::from_millis(config.raft.election_ms),
                storage: self.storage.clone(),
                replication: self.replication.clone(),
                entries: self.entries.clone(),
                watches: self.watches.clone(),
                distribution: self.distribution.clone(),
                remote: self.calls.clone(),
                validator,
                clock: environment.clock.clone(),
                random: environment.random.clone(),
                calls: environment.calls,
                alarms: environment.alarms.clone(),
                tree: OnceLock::new(),
                stopped: watch::Sender::new(false),
                reached: LimitsReached::default(),
            }),
        }
    }

    /// The actors of the ledger itself: the younger ones hang on the elder.
    fn child_spec(
        &self,
        config: &Config,
        environment: &Environment,
        identity: Identity,
        voters: Vec<NodeId>,
    ) -> ChildSpec {
        let election = Duration::from_millis(config.raft.election_ms);
        let raft = replication::Arguments {
            storage: self.storage.clone(),
            distribution: self.distribution.clone(),
            id: identity.node_id,
            voters,
            cluster_id: identity.cluster_id,
            key_window: config.cluster.key_window,
            heartbeat: Duration::from_millis(config.raft.heartbeat_ms),
            election,
            random: environment.random.clone(),
            bounds: environment.raft,
            fatal: {
                let (verdict, dir) = (self.verdict.clone(), config.node.data_dir.clone());
                Arc::new(move |reason| verdict.give(format!("data directory {dir:?}: {reason}")))
            },
        };
        let submission = entry::Arguments {
            storage: self.storage.clone(),
            replication: self.replication.clone(),
            distribution: self.distribution.clone(),
            patience: election,
            random: environment.random.clone(),
        };
        let children = vec![
            self.storage.child_spec(),
            self.replication.child_spec(raft),
            self.entries.child_spec(submission),
            self.watches.child_spec(&self.storage),
        ];
        let spec = SupervisorSpec {
            sibling_shutdown: Some(environment.sibling_shutdown),
            ..SupervisorSpec::new(Strategy::RestForOne, config.supervision.ledger.into(), children)
        };
        ChildSpec::supervisor("ledger", spec)
    }
}

fn one_for_one(id: &str, intensity: crate::config::IntensityConfig, children: Vec<ChildSpec>) -> ChildSpec {
    ChildSpec::supervisor(id, SupervisorSpec::new(Strategy::OneForOne, intensity.into(), children))
}

/// Who hears of what. Called from storage and from the links; nothing here waits.
struct Wires {
    replication: Replication,
    entries: Entries,
    watches: Watches,
    calls: Arc<calls::HostCalls>,
    /// Set as soon as it is made, which needs this.
    distribution: OnceLock<WeakDistribution>,
    observer: Option<Observer>,
}

impl Wires {
    fn applied(&self, batch: &storage::AppliedBatch) {
        if let Some(observer) = &self.observer {
            observer(batch);
        }
        self.entries.applied(batch);
        self.replication.applied(batch.index);
        self.watches.applied(batch);
    }

    /// Batches for the leader go to replication, refusals of ours to entry.
    fn forwarded(&self, inbound: Inbound) -> Result<(), wire::Error> {
        match wire::Frame::decode(&inbound.payload)? {
            (wire::Frame::NotProposed { token, hint }, _) => self.entries.not_proposed(inbound.from, token, hint),
            _ => self.replication.deliver(inbound)?,
        }
        Ok(())
    }
}

impl Sink for Wires {
    fn deliver(&self, inbound: Inbound) {
        let Inbound { from, lane, epoch, .. } = inbound;
        let result = match lane {
            Lane::Forward => self.forwarded(inbound).map_err(|error| error.to_string()),
            Lane::Control | Lane::Append => self.replication.deliver(inbound).map_err(|error| error.to_string()),
            Lane::Call => self.calls.deliver(inbound).map_err(|error| error.to_string()),
        };
        if let (Err(error), Some(distribution)) = (result, self.distribution.get().and_then(WeakDistribution::upgrade))
        {
            distribution.reject(from, lane, epoch, &error);
        }
    }

    fn event(&self, event: LinkEvent) {
        let (LinkEvent::Up { peer, lane, .. } | LinkEvent::Down { peer, lane, .. }) = event;
        match lane {
            // The ledger does not hang on them.
            Lane::Call => return self.calls.event(event),
            Lane::Forward => self.entries.lost_link(peer),
            Lane::Control | Lane::Append => {}
        }
        self.replication.link(event);
    }
}

/// Follows from the name and the voters, so that nodes of different clusters refuse each other before either is
/// formed.
fn cluster_id(name: &str, voters: &[NodeId]) -> ClusterId {
    let mut hasher = blake3::Hasher::new_derive_key("converge-ledger cluster id v1");
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
    for id in voters {
        hasher.update(&id.get().to_le_bytes());
    }
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    ClusterId(id)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
