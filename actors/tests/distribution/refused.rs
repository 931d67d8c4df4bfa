//! Nodes that do not belong together, and what is said of it. Alone in its process, because it counts
//! log lines.
#![allow(missing_docs)]

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::*;
use converge_actors::distribution::{LinkPhase, Settings};
use converge_ledger_core::ClusterId;
use tracing_real::field::{Field, Visit};
use tracing_real::{Event, Level, Metadata, Subscriber, span};

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers warnings.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = EventText(String::new());
        event.record(&mut line);
        WARNINGS.lock().unwrap().push(line.0);
    }
}

struct EventText(String);

impl Visit for EventText {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

fn warnings(of: u64, about: &str) -> usize {
    let node = format!("node={of} ");
    let lines = WARNINGS.lock().unwrap();
    lines.iter().filter(|line| line.contains(&node) && line.contains(about)).count()
}

fn quick() -> Settings {
    Settings { backoff_first: Duration::from_millis(5), backoff_max: Duration::from_millis(20), ..settings() }
}

/// Waits until `dialer` was refused so often that a loop of logging would show.
async fn refused_often(dialer: &PeerNode, at_least: u32) {
    let attempts = || -> u32 {
        let status = dialer.distribution.status();
        let phases = status[0].lanes.values().map(|lane| lane.phase);
        let attempt = |phase| match phase {
            LinkPhase::Connecting { attempt } | LinkPhase::Handshaking { attempt } => attempt,
            _ => 0,
        };
        phases.map(attempt).sum()
    };
    until("refused often enough", || attempts() >= at_least).await;
}

/// Why the handshake with its one peer is refused, as the node's status has it.
async fn refusal(node: &PeerNode) -> String {
    let refused = || node.distribution.status()[0].refused.clone();
    until("its refusal", || refused().is_some()).await;
    refused().unwrap()
}

async fn until(what: &str, enough: impl Fn() -> bool) {
    let wait = async {
        while !enough() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_told_of_once() {
    tracing_real::subscriber::set_global_default(Log).unwrap();
    wrong_cluster().await;
    unknown_node().await;
    wrong_address().await;
    forged_ids().await;
}

async fn wrong_cluster() {
    let (socket, address) = bind();
    let peers = [(12, "unused.invalid:1".to_owned())];
    let one = PeerNode::start(11, CLUSTER, quick(), Some(socket), &peers).await;
    let two = PeerNode::start(12, ClusterId([8; 16]), quick(), None, &[(11, address.clone())]).await;
    refused_often(&two, 20).await;
    for node in [&one, &two] {
        let told = refusal(node).await;
        assert!(told.contains("belongs to cluster"), "{told}");
        assert_eq!(warnings(node.id, ""), 1);
        assert_eq!(warnings(node.id, "belongs to cluster"), 1);
    }
    assert_eq!(refusal(&one).await, refusal(&two).await, "both sides say the same");
    two.stop().await;

    // The configuration was corrected: it connects, and the old reason is forgotten.
    let two = PeerNode::start(12, CLUSTER, quick(), None, &[(11, address)]).await;
    two.connected().await;
    one.connected().await;
    assert_eq!(one.distribution.status()[0].refused, None);
    one.stop().await;
    two.stop().await;
}

async fn unknown_node() {
    let (socket, address) = bind();
    let peers = [(22, "unused.invalid:1".to_owned())];
    let one = PeerNode::start(21, CLUSTER, quick(), Some(socket), &peers).await;
    let three = PeerNode::start(23, CLUSTER, quick(), None, &[(21, address)]).await;
    refused_often(&three, 20).await;
    refusal(&three).await;
    assert_eq!((warnings(21, ""), warnings(23, "")), (1, 1));
    assert_eq!(one.distribution.status()[0].refused, None, "that of a stranger is not its peer's");
    assert_eq!((warnings(21, "not among"), warnings(23, "not among")), (1, 1));
    one.stop().await;
    three.stop().await;
}

async fn wrong_address() {
    let (socket, address) = bind();
    let peers = [(33, "unused.invalid:1".to_owned())];
    let one = PeerNode::start(31, CLUSTER, quick(), Some(socket), &peers).await;
    let three = PeerNode::start(33, CLUSTER, quick(), None, &[(32, address)]).await;
    let reason = refusal(&three).await;
    assert!(reason.contains("node 33 dialed node 32 but reached node 31"), "{reason}");
    one.stop().await;
    three.stop().await;
}

async fn forged_ids() {
    let (socket, address) = bind();
    let peers = [(41, "127.0.0.1:1".to_owned()), (43, "unused.invalid:1".to_owned())];
    let two = PeerNode::start(42, CLUSTER, quick(), Some(socket), &peers).await;
    for (forged, reason) in [
        (hello(42, 42, 1), "own id"),
        (hello(41, 42, 1), "higher id dials"),
        (RawHello { lane: 9, ..hello(43, 42, 1) }, "lane 9"),
        (RawHello { group: 9, ..hello(43, 42, 1) }, "group 9"),
        (RawHello { protocol_min: 7, protocol_max: 9, ..hello(43, 42, 1) }, "peer protocols"),
    ] {
        let (mut stream, kind) = greet(&address, &forged).await;
        assert_eq!(kind, Some(REFUSE), "{forged:?}");
        closed(&mut stream).await;
        assert_eq!(warnings(42, reason), 1, "{reason}");
    }
    assert!(two.sink.seen().is_empty());
    two.stop().await;
}
