//! `start`: a node as a process. Owns what a library must not: the subscriber, the signals, the exit.
//!
//! Nothing that it says can fail it or hold it up; see [`outlet`](super::outlet).

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Overrides, check_text};
use crate::supervisors::Signals;
use crate::{Config, Node};
use clap::Args;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::ledger_thread::LedgerThread;
use super::output::Outlets;
use super::{Failure, Format, Global, Kind, limits, number, output, signals};

/// What a stop may take beyond the drain of the API: the sum of the tree's own bounds, and some more.
const STOP: Duration = Duration::from_secs(60);
/// The phase of a node that takes nothing, as status says it.
const FENCED: &str = "fenced";
/// How often a fenced node looks whether it serves.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A TOML file with settings; the environment and flags win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Unique in the cluster, at least 1.
    #[arg(long, value_name = "ID", value_parser = number::<u64>(1..=u64::MAX), allow_negative_numbers = true)]
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
    // First of all, for what comes before it would end the process without an ordered stop.
    let mut signals = signals()?;
    let outlets = output::serve()?;
    log_to(outlets)?;
    let flags = Overrides {
        node_id: arguments.node_id,
        data_dir: arguments.data_dir,
        grpc: arguments.grpc,
        peer: arguments.peer,
        peers: arguments.peers,
    };
    // A file may be one that nobody ever writes to.
    let load = tokio::task::spawn_blocking(move || Config::load(arguments.config.as_deref(), flags));
    let mut config = tokio::select! {
        loaded = load => match loaded {
            Ok(loaded) => loaded.map_err(|error| Failure::new(Kind::Usage, error.to_string()))?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        },
        () = signals.next() => return Ok(()),
    };
    limits::fit(&mut config);
    // Ends after the node, however that ends.
    let ledger = LedgerThread::start()?;
    let builder = Node::builder(config.clone()).ledger_runtime(ledger.runtime());
    let builder = builder.alarm(|| outlets.stdout.alarm()).alarm(|| outlets.stderr.alarm());
    let node = tokio::select! {
        node = builder.start() => node.map_err(|error| Failure::error(error.to_string()))?,
        // Dropping a start stops what it started.
        () = signals.next() => return Ok(()),
    };
    let announced = announce(outlets, global.output, &config, &node);
    tokio::select! {
        () = announced => unreachable!("it waits for ever in the end"),
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

/// One line, when the node is ready to serve; where it is fenced, one that says so before it. Whether anybody reads them is
/// all the same to the node.
async fn announce(outlets: &Outlets, format: Format, config: &Config, node: &Node) {
    let is_fenced = || node.ledger().status().phase == FENCED;
    if is_fenced() {
        say(outlets, format, config, node, false);
        while is_fenced() {
            tokio::time::sleep(LOOK).await;
        }
    }
    say(outlets, format, config, node, true);
    std::future::pending().await
}

fn say(outlets: &Outlets, format: Format, config: &Config, node: &Node, ready: bool) {
    let address = |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
    let (grpc, peer) = (address(node.grpc_addr()), address(node.peer_addr()));
    let id = config.node.id;
    let data = config.node.data_dir.display();
    let line = match format {
        Format::Json => json!({
            "ready": ready, "node_id": id, "grpc": grpc, "peer": peer, "data_dir": data.to_string(),
        })
        .to_string(),
        Format::Table => format!(
            "{}: node {id}, grpc {}, peer {}, data {data}",
            if ready { "ready" } else { "fenced, see the log" },
            grpc.as_deref().unwrap_or("off"),
            peer.as_deref().unwrap_or("none (alone)"),
        ),
    };
    outlets.stdout.push(format!("{line}\n").as_bytes());
}

/// The log goes to stderr, at the level of `RUST_LOG`.
fn log_to(outlets: &'static Outlets) -> Result<(), Failure> {
    // What h2 says of its peers is said once for each of their connections, however many they are.
    const LEVEL: &str = "info,h2=error";
    let given = std::env::var_os("RUST_LOG").unwrap_or_default();
    let wrong = |why: String| {
        let shape = "write a level, or targets with levels: RUST_LOG=info, RUST_LOG=warn,converge_actors=debug";
        Failure::new(Kind::Usage, format!("RUST_LOG = {given:?}: {why}; {shape}"))
    };
    let text = given.to_str().ok_or_else(|| wrong("it is not valid UTF-8".into()))?;
    check_text(text).map_err(wrong)?;
    check_levels(text).map_err(wrong)?;
    let text = if text.is_empty() { LEVEL } else { text };
    let filter = EnvFilter::builder().parse(text).map_err(|error| wrong(error.to_string()))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(terminal)
        .log_internal_errors(false)
        .with_writer(|| outlets.stderr.clone())
        .init();
    Ok(())
}

/// A word alone is a level. The filter would take one that is none for the name of a target, and nothing but that target
/// would ever be logged.
fn check_levels(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || word.parse::<u8>().is_ok();
    if text.is_empty() || text.contains(['[', '{']) {
        return Ok(());
    }
    let mut words = text.split(',').map(str::trim).filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Err("it has no level".into());
    }
    match words.find(|word| !word.contains('=') && !level(word)) {
        Some(word) => Err(format!("{word:?} is no level")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check_levels;

    #[test]
    fn a_word_alone_is_a_level() {
        for right in ["", "info", "WARN", "warn,converge_actors=debug", "off", "3", "[span{field=1}]=debug"] {
            check_levels(right).unwrap();
        }
        for wrong in ["inof", "vrbose", ",,", "info,converge_actors", " , "] {
            check_levels(wrong).unwrap_err();
        }
    }
}
