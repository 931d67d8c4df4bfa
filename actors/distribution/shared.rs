//! What outlives the actors: a slot per link, and what all links of a node have in common.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use converge_ledger_core::NodeId;

use super::arrivals::Arrivals;
use super::handshake::Local;
use super::notices::{Noted, Notices};
use super::settings::Settings;
use super::slot::LinkSlot;
use super::status::{LaneStatus, PeerStatus};
use super::types::{Identity, Lane, Sink};

/// Everything the actors of one node's distribution share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) local: Local,
    pub(super) addresses: BTreeMap<NodeId, String>,
    pub(super) slots: BTreeMap<(NodeId, Lane), Arc<LinkSlot>>,
    /// Bound before the tree; every incarnation of the listener accepts on a clone. Gone once the node has ended.
    pub(super) socket: Mutex<Option<TcpListener>>,
    pub(super) notices: Arc<Notices>,
    pub(super) arrivals: Arrivals,
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        identity: Identity,
        mut peers: BTreeMap<NodeId, String>,
        socket: Option<TcpListener>,
        sink: Arc<dyn Sink>,
    ) -> Shared {
        let settings = settings.sane();
        peers.remove(&identity.node_id);
        let notices = Arc::new(Notices::new(identity.node_id, sink));
        let slot = |peer, lane| Arc::new(LinkSlot::new(peer, lane, &settings.of(lane), Arc::clone(&notices)));
        let slots = peers
            .keys()
            .flat_map(|peer| Lane::ALL.map(|lane| (*peer, lane)))
            .map(|(peer, lane)| ((peer, lane), slot(peer, lane)))
            .collect();
        Shared {
            local: Local {
                cluster: identity.cluster_id,
                group: settings.group,
                node: identity.node_id,
                incarnation: rand::random(),
                peers: peers.keys().copied().collect(),
                level: Arc::clone(&settings.level),
            },
            addresses: peers,
            slots,
            socket: Mutex::new(socket),
            notices,
            arrivals: Arrivals::default(),
            settings,
        }
    }

    pub(super) fn status(&self) -> Vec<PeerStatus> {
        let peer = |(id, address): (&NodeId, &String)| {
            let lanes: BTreeMap<Lane, LaneStatus> =
                Lane::ALL.map(|lane| (lane, self.slots[&(*id, lane)].status())).into();
            let Noted { refused, unresolved } = self.notices.of(*id);
            PeerStatus {
                id: *id,
                address: address.clone(),
                connected: Lane::OF_THE_LEDGER.iter().all(|lane| lanes[lane].epoch.is_some()),
                rtt_us: lanes[&Lane::Control].rtt_us,
                refused,
                unresolved,
                lanes,
            }
        };
        self.addresses.iter().map(peer).collect()
    }
}
