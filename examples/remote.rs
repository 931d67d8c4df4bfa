//! Two processes that call each other's actors: a shop, and a warehouse that the shop starts as a process of its own.
//! Each runs a node of one cluster, whose third node stays away: the ledger waits for it, calls do not. The shop asks the warehouse for goods, and hears what becomes of calls when the
//! warehouse dies: *not sent* is told from *unknown*.
//!
//! ```text
//! cargo run --example remote
//! ```
#![allow(clippy::print_stdout, reason = "an example speaks to people")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use converge_ledger::remote::{CallContext, NodeEvent, NodeEvents, Remote};
use converge_ledger::supervisors::ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use converge_ledger::{Config, Node, NodeId};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

const WAREHOUSE: NodeId = NodeId(1);
const SHOP: NodeId = NodeId(2);
const PATIENCE: Duration = Duration::from_secs(10);

/// A message, and what is answered.
#[derive(Serialize, Deserialize)]
struct Reserve {
    item: String,
    count: u32,
}

impl Remote for Reserve {
    const TAG: &'static str = "shop.Reserve";
    /// What is left.
    type Reply = Result<u32, OutOfStock>;
}

#[derive(Debug, Serialize, Deserialize)]
struct OutOfStock {
    left: u32,
}

/// Takes as long as it is told.
#[derive(Serialize, Deserialize)]
struct Count {
    takes: Duration,
}

impl Remote for Count {
    const TAG: &'static str = "shop.Count";
    type Reply = u32;
}

/// What the warehouse casts back when it begins to count.
#[derive(Serialize, Deserialize)]
struct Counting;

impl Remote for Counting {
    const TAG: &'static str = "shop.Counting";
    type Reply = ();
}

/// The warehouse's actor. It knows nothing of nodes.
struct Stock;

struct Take(Reserve, RpcReplyPort<Result<u32, OutOfStock>>);

impl Actor for Stock {
    type Msg = Take;
    type State = BTreeMap<String, u32>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Take>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(BTreeMap::from([("tea".into(), 3)]))
    }

    async fn handle(
        &self,
        _: ActorRef<Take>,
        Take(wanted, reply): Take,
        stock: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let left = stock.entry(wanted.item).or_default();
        let answer = left.checked_sub(wanted.count).ok_or(OutOfStock { left: *left });
        if let Ok(rest) = answer {
            *left = rest;
        }
        // Nobody may wait for it any more.
        let _ = reply.send(answer);
        Ok(())
    }
}

async fn start(id: NodeId, dir: &Path, peers: &str) -> anyhow::Result<Node> {
    let mut config = Config::default();
    config.node.id = id.get();
    config.node.data_dir = dir.to_owned();
    config.listen.grpc = "off".into();
    config.cluster.peers = peers.split(',').map(str::to_owned).collect();
    config.listen.peer = config.cluster.peers[id.get() as usize - 1].split_once('=').expect("id=host:port").1.into();
    Ok(Node::start(config).await?)
}

/// The second process, until the first one has gone.
async fn warehouse(dir: &Path, peers: &str) -> anyhow::Result<()> {
    let node = start(WAREHOUSE, dir, peers).await?;
    let (stock, _) = Actor::spawn(None, Stock, ()).await?;
    let remote = node.remote();
    let _stock = remote.register_actor("stock", stock, Take)?;
    let back = remote.clone();
    let _count = remote.register("count", move |call: CallContext, count: Count| {
        let told = back.cast(call.from, "counting", Counting);
        async move {
            told.map_err(|error| error.to_string())?;
            tokio::time::sleep(count.takes).await;
            Ok::<_, String>(3)
        }
    })?;
    // Its input ends with the shop.
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
    node.stop(PATIENCE).await?;
    Ok(())
}

fn start_warehouse(dir: &Path, peers: &str) -> anyhow::Result<Child> {
    let mut program = Command::new(std::env::current_exe()?);
    program.arg("warehouse").arg(dir).arg(peers).stdin(Stdio::piped()).kill_on_drop(true);
    Ok(program.spawn()?)
}

/// Waits until the warehouse has come or gone.
async fn hear(events: &mut NodeEvents) -> anyhow::Result<()> {
    match tokio::time::timeout(PATIENCE, events.next()).await?.expect("the node runs")? {
        NodeEvent::Up { node, .. } => println!("node {node} is up"),
        NodeEvent::Down { node, .. } => println!("node {node} is down"),
    }
    Ok(())
}

async fn shop(dir: &Path) -> anyhow::Result<()> {
    // Ports that are free now.
    let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut peers = Vec::new();
    for (id, socket) in (1..).zip(&sockets) {
        peers.push(format!("{id}={}", socket.as_ref().expect("a port is free").local_addr()?));
    }
    drop(sockets);
    let peers = peers.join(",");
    let node = start(SHOP, &dir.join("shop"), &peers).await?;
    let remote = node.remote();
    let mut events = remote.events();
    let reserve = |count| {
        let wanted = Reserve { item: "tea".into(), count };
        remote.call(WAREHOUSE, "stock", wanted, PATIENCE)
    };

    println!("before it is there: {}", reserve(1).await.unwrap_err());
    let mut process = start_warehouse(&dir.join("warehouse"), &peers)?;
    hear(&mut events).await?;
    // It is connected a moment before it has registered anybody.
    while reserve(0).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("one packet of tea: {:?}", reserve(1).await?);
    println!("three more: {:?}", reserve(3).await?);
    let nobody = remote.call(WAREHOUSE, "cellar", Count { takes: PATIENCE }, PATIENCE).await;
    println!("a name that nobody has: {}", nobody.unwrap_err());

    let counts = Arc::new(Notify::new());
    let heard = Arc::clone(&counts);
    let _counting = remote.register("counting", move |_: CallContext, _: Counting| {
        heard.notify_one();
        async { Ok::<_, String>(()) }
    })?;
    let long = remote.call(WAREHOUSE, "count", Count { takes: PATIENCE }, PATIENCE);
    let killed = async {
        tokio::time::timeout(PATIENCE, counts.notified()).await?;
        anyhow::Ok(process.kill().await?)
    };
    let (unanswered, killed) = tokio::join!(long, killed);
    killed?;
    println!("killed while it counted: {}", unanswered.unwrap_err());
    hear(&mut events).await?;
    println!("after that: {}", reserve(1).await.unwrap_err());
    node.stop(PATIENCE).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [role, dir, peers] if role == "warehouse" => warehouse(Path::new(dir), peers).await,
        _ => {
            let dir = tempfile::tempdir()?;
            shop(dir.path()).await
        }
    }
}
