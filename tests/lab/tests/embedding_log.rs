//! A host whose tracing subscriber panics: the node works, and says so. One test, because a subscriber is the process's.
#![allow(missing_docs)]

mod inprocess;

use std::sync::atomic::{AtomicU64, Ordering};

use converge_ledger::{AppendOptions, Node};
use inprocess::{PATIENCE, config, entry};
use tracing_real::{Event, Metadata, Subscriber, span};

static HEARD: AtomicU64 = AtomicU64::new(0);

/// As one that writes to a log whose disk is full, and reports that to a stderr that is gone.
struct Broken;

impl Subscriber for Broken {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("converge")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        HEARD.fetch_add(1, Ordering::Relaxed);
        panic!("cannot write of {}", event.metadata().target());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_panics_takes_no_actor_down() {
    tracing_real::subscriber::set_global_default(Broken).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let alarm = || panic!("an alarm of the host's");
    let node = Node::builder(config(1, dir.path(), &[])).alarm(alarm).alarm(|| Some("the roof leaks".into()));
    let node = node.start().await.unwrap();
    let ledger = node.ledger();
    ledger.append(entry("c", "x"), AppendOptions::default()).await.unwrap();
    let restarts: u64 = node.tree().snapshot().nodes.iter().map(|n| n.restarts).sum();
    assert_eq!(restarts, 0, "no actor noticed");
    // Deaths are told, too, by the supervisors.
    node.tree().find("root/ledger/entry").unwrap().kill();
    ledger.append(entry("c", "y"), AppendOptions::default()).await.unwrap();
    let alarms = ledger.status().alarms;
    for wanted in ["log events were lost", "an alarm of the host's panicked", "the roof leaks"] {
        assert!(alarms.iter().any(|alarm| alarm.contains(wanted)), "{alarms:?}");
    }
    node.stop(PATIENCE).await.unwrap();
    assert!(HEARD.load(Ordering::Relaxed) > 10, "the subscriber heard what the node said");
}
