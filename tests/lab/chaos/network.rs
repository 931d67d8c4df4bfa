//! A network namespace for each node, a bridge between them, and packets that get lost on it.
//!
//! Only in a network namespace of our own: it takes any name and address it likes. A packet is lost by sending it to a
//! hardware address that nobody has: nothing comes back, neither a reset nor an ICMP, and each direction of each pair is
//! cut on its own. That needs `ip` alone, no packet filter.

use std::path::Path;

use super::faults::CLIENTS;
use super::system;
use converge_ledger::cli::processes::Process;

const BRIDGE: &str = "bridge0";
const GRPC_PORT: u16 = 50_051;
const PEER_PORT: u16 = 7_001;
/// Nobody's.
const NOWHERE: &str = "02:00:00:00:ff:ff";

/// See the module.
pub(super) struct Network {
    nodes: u64,
}

fn address(end: u64) -> String {
    // The clients' end is the bridge itself.
    format!("10.77.0.{}", if end == CLIENTS { 254 } else { end })
}

fn hardware(end: u64) -> String {
    format!("02:00:00:00:00:{end:02x}")
}

fn space(node: u64) -> String {
    format!("node{node}")
}

/// What makes a command run where this end is.
fn through(end: u64) -> Vec<String> {
    match end {
        CLIENTS => Vec::new(),
        node => vec!["nsenter".into(), format!("--net=/run/netns/{}", space(node)), "--".into()],
    }
}

impl Network {
    /// Builds it; says why where that cannot be done.
    pub(super) async fn build(nodes: u64) -> Result<Network, String> {
        // The names of network namespaces are files there, and nobody else shall see ours.
        system::run(&["mount", "-t", "tmpfs", "tmpfs", "/run"]).await?;
        let network = Network { nodes };
        let bridge = ["ip link add", BRIDGE, "address", &hardware(CLIENTS), "type bridge"].join(" ");
        network.at(CLIENTS, &bridge).await?;
        network.at(CLIENTS, &format!("ip addr add {}/24 dev {BRIDGE}", address(CLIENTS))).await?;
        network.at(CLIENTS, &format!("ip link set {BRIDGE} up")).await?;
        for node in 1..=nodes {
            network.join(node).await?;
        }
        for from in 0..=nodes {
            for to in (0..=nodes).filter(|to| *to != from) {
                network.deliver(from, to, true).await?;
            }
        }
        Ok(network)
    }

    async fn join(&self, node: u64) -> Result<(), String> {
        let (space, hardware, address) = (space(node), hardware(node), address(node));
        self.at(CLIENTS, &format!("ip netns add {space}")).await?;
        let pair = format!("ip link add port{node} type veth peer name eth0 address {hardware} netns {space}");
        self.at(CLIENTS, &pair).await?;
        self.at(CLIENTS, &format!("ip link set port{node} master {BRIDGE} up")).await?;
        self.at(node, "ip link set lo up").await?;
        self.at(node, &format!("ip addr add {address}/24 dev eth0")).await?;
        self.at(node, "ip link set eth0 up").await
    }

    async fn at(&self, end: u64, command: &str) -> Result<(), String> {
        let through = through(end);
        let words: Vec<&str> = through.iter().map(String::as_str).chain(command.split(' ')).collect();
        system::run(&words).await.map(drop)
    }

    /// From now on, packets on this way arrive, or get lost.
    pub(super) async fn deliver(&self, from: u64, to: u64, arrive: bool) -> Result<(), String> {
        let device = if from == CLIENTS { BRIDGE } else { "eth0" };
        let hardware = if arrive { hardware(to) } else { NOWHERE.to_owned() };
        let command = format!("ip neigh replace {} lladdr {hardware} dev {device} nud permanent", address(to));
        self.at(from, &command).await
    }

    /// The nodes that live on it.
    pub(super) fn nodes(&self, directory: &Path) -> Vec<Process> {
        let at = |id, port| format!("{}:{port}", address(id));
        let mut nodes: Vec<_> =
            (1..=self.nodes).map(|id| Process::new(directory, id, at(id, GRPC_PORT), at(id, PEER_PORT))).collect();
        nodes.iter_mut().for_each(|node| node.through = through(node.id));
        nodes
    }
}
