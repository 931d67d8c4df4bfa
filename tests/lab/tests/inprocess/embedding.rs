//! A node inside a host application: what a host may rely on.
#![allow(missing_docs)]

use std::time::Duration;

use crate::inprocess::{PATIENCE, config, entry, eventually, peers};
use converge_ledger::cli::ledger_thread::LedgerThread;
use converge_ledger::remote::{CallContext, Remote};
use converge_ledger::supervisors::ractor::{Actor, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use converge_ledger::supervisors::{Intensity, Strategy, SupervisorSpec, Tree};
use converge_ledger::{AppendOptions, Error, Ledger, Node, NodeId, ReadOptions, Rejection, WatchOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

async fn append(ledger: &Ledger, payload: &str) -> Result<u64, Error> {
    let options = AppendOptions { deadline: Some(Duration::from_secs(5)), ..AppendOptions::default() };
    ledger.append(entry("c", payload.to_owned()), options).await.map(|done| done.entry.sequence.get())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_is_valid_before_the_start_and_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (child, ledger) = Node::child(config(1, dir.path(), &[])).unwrap();
    let early = tokio::spawn({
        let ledger = ledger.clone();
        async move { append(&ledger, "called before the start").await }
    });
    let intensity = Intensity { restarts: 3, period: Duration::from_secs(60) };
    let tree = Tree::start("host", SupervisorSpec::new(Strategy::OneForOne, intensity, vec![child])).await.unwrap();
    assert_eq!(early.await.unwrap().unwrap(), 1);
    let node = tree.find("host/converge-ledger").unwrap();
    node.kill();
    assert_eq!(append(&ledger, "after the whole node was killed").await.unwrap(), 2);
    tree.stop(PATIENCE).await.unwrap();
    assert!(tree.find("host/converge-ledger/ledger/storage").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_watch_of_a_child_ends_when_nobody_is_left_who_could_say_more() {
    let dir = tempfile::tempdir().unwrap();
    let (child, ledger) = Node::child(config(1, dir.path(), &[])).unwrap();
    let intensity = Intensity { restarts: 3, period: Duration::from_secs(60) };
    let tree = Tree::start("host", SupervisorSpec::new(Strategy::OneForOne, intensity, vec![child])).await.unwrap();
    append(&ledger, "x").await.unwrap();
    let mut watch = ledger.watch("c", WatchOptions::default());
    watch.next().await.unwrap().unwrap();
    let idle = tokio::spawn(async move { watch.next().await.is_none() });
    tree.stop(PATIENCE).await.unwrap();
    drop((tree, ledger));
    let ended = tokio::time::timeout(PATIENCE, idle).await.expect("it waits for nothing that can come");
    assert!(ended.unwrap());
}

#[derive(Serialize, Deserialize)]
struct Double(u64);

impl Remote for Double {
    const TAG: &'static str = "test.Double";
    type Reply = u64;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_child_go_on_while_somebody_holds_them_and_end_with_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let (child, ledger) = Node::child(config(1, dir.path(), &[])).unwrap();
    let intensity = Intensity { restarts: 3, period: Duration::from_secs(60) };
    let tree = Tree::start("host", SupervisorSpec::new(Strategy::OneForOne, intensity, vec![child])).await.unwrap();
    let remote = ledger.remote();
    let mut events = remote.events();
    drop(ledger);
    let double = |_: CallContext, Double(number): Double| async move { Ok::<_, String>(2 * number) };
    let _name = remote.register("double", double).unwrap();
    assert_eq!(remote.call(NodeId(1), "double", Double(4), PATIENCE).await, Ok(8));
    tree.stop(PATIENCE).await.unwrap();
    drop((tree, remote));
    let ended = tokio::time::timeout(PATIENCE, events.next()).await.expect("it waits for nothing that can come");
    assert!(ended.is_none());
}

struct Owner;

impl Actor for Owner {
    type Msg = ();
    type State = mpsc::UnboundedSender<String>;
    type Arguments = mpsc::UnboundedSender<String>;

    async fn pre_start(&self, _: ActorRef<()>, heard: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(heard)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        heard: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if !matches!(event, SupervisionEvent::ActorStarted(_)) {
            let _ = heard.send(event.to_string());
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_linked_to_a_hosts_actor_dies_with_it_and_tells_of_its_own_end() {
    let (heard, mut hears) = mpsc::unbounded_channel();
    let (owner, _) = Actor::spawn(None, Owner, heard).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let node = Node::spawn_linked(config(1, dir.path(), &[]), owner.get_cell()).await.unwrap();
    append(&node.ledger(), "x").await.unwrap();
    node.stop(PATIENCE).await.unwrap();
    hears.recv().await.unwrap();

    let node = Node::spawn_linked(config(1, dir.path(), &[]), owner.get_cell()).await.unwrap();
    let storage = node.tree().find("root/ledger/storage").unwrap();
    owner.kill();
    eventually("the node dies with its owner", || storage.get_status() == ActorStatus::Stopped).await;
    assert!(node.wait().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_node_stops_and_its_ledger_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(config(1, dir.path(), &[])).await.unwrap();
    let (ledger, tree) = (node.ledger(), node.tree());
    let mut watch = ledger.watch("c", WatchOptions::default());
    append(&ledger, "x").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().sequence.get(), 1);
    drop(node);
    tree.wait().await.unwrap();
    assert!(watch.next().await.is_none(), "a watch ends with the node");
    assert!(matches!(append(&ledger, "y").await, Err(Error::Stopped)));
    assert!(matches!(ledger.read("c", ReadOptions::default()).await, Err(Error::Stopped)));
    // Nothing holds the directory any more.
    Node::start(config(1, dir.path(), &[])).await.unwrap().stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_ledger_runtime_is_dropped_ends_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let thread = LedgerThread::start().unwrap();
    let peers = peers(3);
    let builder = Node::builder(config(1, dir.path(), &peers)).ledger_runtime(thread.runtime());
    let node = builder.start().await.unwrap();
    let ledger = node.ledger();
    let waits = tokio::spawn(async move { append(&ledger, "without a majority").await });
    drop(thread);
    let ended = tokio::time::timeout(PATIENCE, node.wait()).await.expect("it ends, and does not hang");
    assert!(ended.unwrap_err().reason.contains("its runtime has ended"));
    waits.await.unwrap().unwrap_err();
    // Soon nothing holds the directory or the port any more: storage's own threads store what they have.
    let until = Instant::now() + PATIENCE;
    let again = loop {
        match Node::start(config(1, dir.path(), &peers)).await {
            Ok(node) => break node,
            Err(held) => assert!(Instant::now() < until, "{held}"),
        }
    };
    again.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validator_refuses_and_may_panic() {
    let dir = tempfile::tempdir().unwrap();
    let rule = |entry: &converge_ledger::NewEntry| match &entry.payload[..] {
        b"bad" => Err(Rejection { reason: "it is bad".into() }),
        b"panic" => panic!("a bug of the host"),
        _ => Ok(()),
    };
    let node = Node::builder(config(1, dir.path(), &[])).validator(rule).start().await.unwrap();
    let ledger = node.ledger();
    assert!(matches!(append(&ledger, "bad").await, Err(Error::Rejected(r)) if r.reason == "it is bad"));
    assert!(matches!(append(&ledger, "panic").await, Err(Error::Rejected(_))));
    assert_eq!(append(&ledger, "good").await.unwrap(), 1);
    let restarts: u64 = node.tree().snapshot().nodes.iter().map(|n| n.restarts).sum();
    assert_eq!(restarts, 0, "no actor noticed");
    node.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bound_addresses_can_be_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(1, dir.path(), &[]);
    settings.listen.grpc = "127.0.0.1:0".into();
    let node = Node::start(settings).await.unwrap();
    let port = node.grpc_addr().unwrap().port();
    assert_ne!(port, 0);
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(node.peer_addr(), None, "a node alone has no peer port");
    node.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Node::start(config(1, dir.path(), &[])).await.unwrap();
    let second = Node::start(config(1, dir.path(), &[])).await.err().unwrap();
    let said = second.to_string();
    assert!(said.contains(&dir.path().display().to_string()), "{said}");
    append(&first.ledger(), "x").await.unwrap();
    first.stop(PATIENCE).await.unwrap();
}
