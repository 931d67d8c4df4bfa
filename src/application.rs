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

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

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

/// Lays out the tree.
pub(crate) fn build(
    config: &Config,
    validator: Option<Validator>,
    environment: Environment,
    sockets: Sockets,
) -> Result<Parts, StartError> {
    let voters = config.voters().map_err(StartError::new)?;
    let id = NodeId(config.node.id);
    let ids: Vec<NodeId> = voters.keys().copied().collect();
    let cluster_id = cluster_id(&config.cluster.name, &ids);
    let Sockets { peer: peer_socket, grpc: grpc_socket } = sockets;
    let by_sockets = peer_socket.is_some();
    let (grpc, peer) = (address(grpc_socket.as_ref()), address(peer_socket.as_ref()));

    let (replication, watches, verdict) = (Replication::new(), Watches::new(environment.watch), Verdict::new());
    let entries = Entries::new(id, size(config.limits.inflight_bytes), environment.entry);
    let wires = Arc::new(Wires {
        replication: replication.clone(),
        entries: entries.clone(),
        watches: watches.clone(),
        distribution: OnceLock::new(),
        observer: environment.observer,
    });
    // A host may change its working directory; the files stay where they are.
    let dir = match &environment.network {
        None => std::path::absolute(&config.node.data_dir).map_err(|error| {
            StartError::new(format!("node.data_dir = {:?}: {error}; name a directory", config.node.data_dir))
        })?,
        Some(_) => config.node.data_dir.clone(),
    };
    let storage = {
        let wires = wires.clone();
        let free_bytes_min = config.storage.free_bytes_min;
        let settings = storage::Settings { dir, free_bytes_min, ..environment.storage.clone() };
        Storage::new(settings, Arc::new(move |batch| wires.applied(&batch)))
    };
    let links = distribution::Settings { links_intensity: config.supervision.links.into(), ..Default::default() };
    let identity = Identity { cluster_id, node_id: id };
    let distribution = match &environment.network {
        None => Distribution::new(links, identity, voters, peer_socket, wires.clone()),
        Some(network) => Distribution::elsewhere(network.join(identity, wires.clone())),
    };
    let _ = wires.distribution.set(distribution.downgrade());

    let ledger = Ledger {
        inner: Arc::new(Inner {
            id,
            cluster_id,
            limits: Limits { payload_bytes: size(config.limits.payload_bytes), ..Limits::default() },
            response_bytes: size(config.limits.response_bytes),
            snapshot_bytes: size(config.limits.snapshot_bytes).max(ENTRY_BYTES_MAX),
            election: Duration::from_millis(config.raft.election_ms),
            storage: storage.clone(),
            replication: replication.clone(),
            entries: entries.clone(),
            watches: watches.clone(),
            distribution: distribution.clone(),
            validator,
            clock: environment.clock,
            random: environment.random.clone(),
            calls: environment.calls,
            alarms: environment.alarms,
            tree: OnceLock::new(),
            stopped: watch::Sender::new(false),
            reached: LimitsReached::default(),
        }),
    };

    let raft = replication::Arguments {
        storage: storage.clone(),
        distribution: distribution.clone(),
        id,
        voters: ids,
        cluster_id,
        heartbeat: Duration::from_millis(config.raft.heartbeat_ms),
        election: Duration::from_millis(config.raft.election_ms),
        random: environment.random.clone(),
        bounds: environment.raft,
        fatal: {
            let (verdict, dir) = (verdict.clone(), config.node.data_dir.clone());
            Arc::new(move |reason| verdict.give(format!("data directory {dir:?}: {reason}")))
        },
    };
    let submission = entry::Arguments {
        storage: storage.clone(),
        replication: replication.clone(),
        distribution: distribution.clone(),
        patience: Duration::from_millis(config.raft.election_ms),
        random: environment.random,
    };
    let supervision = &config.supervision;
    let mut children = vec![
        verdict.child_spec(),
        ChildSpec::supervisor(
            "ledger",
            SupervisorSpec {
                sibling_shutdown: Some(environment.sibling_shutdown),
                ..SupervisorSpec::new(
                    Strategy::RestForOne,
                    supervision.ledger.into(),
                    vec![
                        storage.child_spec(),
                        replication.child_spec(raft),
                        entries.child_spec(submission),
                        watches.child_spec(),
                    ],
                )
            },
        ),
    ];
    if by_sockets {
        children.push(one_for_one("distribution", supervision.distribution, distribution.children()));
    }
    #[cfg(feature = "grpc")]
    if let Some(socket) = grpc_socket {
        let actors = crate::api::grpc::children(socket, ledger.clone(), config.into());
        children.push(one_for_one("api", supervision.api, actors));
    }
    #[cfg(not(feature = "grpc"))]
    drop(grpc_socket);
    let spec = SupervisorSpec::new(Strategy::OneForOne, supervision.root.into(), children);
    Ok(Parts { spec, ledger, verdict, grpc, peer })
}

fn one_for_one(id: &str, intensity: crate::config::IntensityConfig, children: Vec<ChildSpec>) -> ChildSpec {
    ChildSpec::supervisor(id, SupervisorSpec::new(Strategy::OneForOne, intensity.into(), children))
}

/// Who hears of what. Called from storage and from the links; nothing here waits.
struct Wires {
    replication: Replication,
    entries: Entries,
    watches: Watches,
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
            Lane::Forward => self.forwarded(inbound),
            Lane::Control | Lane::Append => self.replication.deliver(inbound),
        };
        if let (Err(error), Some(distribution)) = (result, self.distribution.get().and_then(WeakDistribution::upgrade))
        {
            distribution.reject(from, lane, epoch, &error.to_string());
        }
    }

    fn event(&self, event: LinkEvent) {
        let (LinkEvent::Up { peer, lane, .. } | LinkEvent::Down { peer, lane, .. }) = event;
        if lane == Lane::Forward {
            self.entries.lost_link(peer);
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
