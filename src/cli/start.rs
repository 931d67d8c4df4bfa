//! `start`: a node as a process. Owns what a library must not: the subscriber, the signals, the exit.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use converge_ledger::config::Overrides;
use converge_ledger::supervisors::Signals;
use converge_ledger::{Config, Node};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::{Failure, Format, Global, Kind, output, signals};

/// What a stop may take beyond the drain of the API: the sum of the tree's own bounds, and some more.
const STOP: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A TOML file with settings; the environment and flags win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Unique in the cluster, at least 1.
    #[arg(long, value_name = "ID")]
    node_id: Option<u64>,
    /// Where the node keeps its data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where it listens for clients, host:port or `off`.
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<String>,
    /// Where it listens for the other nodes, host:port.
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<String>,
    /// All voters, this node among them: 1=host:port,2=host:port,3=host:port.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    peers: Option<Vec<String>>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let flags = Overrides {
        node_id: arguments.node_id,
        data_dir: arguments.data_dir,
        grpc: arguments.grpc,
        peer: arguments.peer,
        peers: arguments.peers,
    };
    let config = Config::load(arguments.config.as_deref(), flags)
        .map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
    log_to_stderr();
    let mut signals = signals()?;
    let node = tokio::select! {
        node = Node::start(config.clone()) => node.map_err(|error| Failure::error(error.to_string()))?,
        // Dropping a start stops what it started.
        () = signals.next() => return Ok(()),
    };
    announce(global.output, &config, &node)?;
    tokio::select! {
        ended = node.wait() => match ended {
            Ok(()) => Err(Failure::error("the node ended without being told to")),
            Err(escalated) => Err(Failure::error(format!("the node gave up: {escalated}"))),
        },
        () = signals.next() => stop(node, &config, &mut signals).await,
    }
}

async fn stop(node: Node, config: &Config, signals: &mut Signals) -> Result<(), Failure> {
    tracing::info!("stopping: no new calls, calls in flight get their answers");
    let deadline = STOP + Duration::from_millis(config.grpc.drain_ms);
    tokio::select! {
        stopped = node.stop(deadline) => stopped.map_err(|error| Failure::error(format!(
            "the stop was cut short: {error}; what was acknowledged is durable, start the node again"
        ))),
        () = signals.next() => Err(Failure::error(
            "told twice to stop: gone at once; what was acknowledged is durable",
        )),
    }
}

/// One line, when the node is ready to serve.
fn announce(format: Format, config: &Config, node: &Node) -> Result<(), Failure> {
    let address = |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
    let (grpc, peer) = (address(node.grpc_addr()), address(node.peer_addr()));
    let id = config.node.id;
    let data = config.node.data_dir.display();
    match format {
        Format::Json => output::json(&json!({
            "ready": true, "node_id": id, "grpc": grpc, "peer": peer, "data_dir": data.to_string(),
        })),
        Format::Table => output::line(format!(
            "ready: node {id}, grpc {}, peer {}, data {data}",
            grpc.as_deref().unwrap_or("off"),
            peer.as_deref().unwrap_or("none (alone)"),
        )),
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal).with_writer(std::io::stderr).init();
}
