//! A ledger inside an application: start a node, append, read, watch, stop.
//!
//! ```text
//! cargo run --example embedded
//! ```
#![allow(clippy::print_stdout, reason = "an example speaks to people")]

use std::collections::BTreeMap;
use std::time::Duration;

use converge_ledger::{AppendOptions, Config, NewEntry, Node, ReadOptions, Rejection, WatchOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = Config::default();
    config.node.data_dir = dir.path().join("ledger");
    config.listen.grpc = "off".into(); // this process is the only client

    // A rule of the application's own; whatever it refuses is never written.
    let only_json = |entry: &NewEntry| match entry.payload.first() {
        Some(b'{') => Ok(()),
        _ => Err(Rejection { reason: "orders are JSON objects".into() }),
    };
    let node = Node::builder(config).validator(only_json).start().await?;
    let ledger = node.ledger(); // clone it freely; it survives every restart inside the node

    let mut watch = ledger.watch("orders", WatchOptions::default());
    for n in 1..=3 {
        let entry = NewEntry {
            context_id: "orders".into(),
            key: "facts".into(),
            payload: format!("{{\"order\":{n}}}").into(),
            metadata: BTreeMap::from([("source".into(), "example".into())]),
        };
        let options = AppendOptions { idempotency_key: Some(format!("order-{n}")), ..AppendOptions::default() };
        let done = ledger.append(entry, options).await?;
        println!("appended {} as sequence {}", done.entry.id, done.entry.sequence);
    }
    let refused = NewEntry {
        context_id: "orders".into(),
        key: "facts".into(),
        payload: "free text".into(),
        metadata: BTreeMap::new(),
    };
    println!("refused: {}", ledger.append(refused, AppendOptions::default()).await.unwrap_err());

    let page = ledger.read("orders", ReadOptions::default()).await?;
    println!("read {} entries, latest {}", page.entries.len(), page.latest);
    for _ in 0..3 {
        if let Some(entry) = watch.next().await {
            println!("watched sequence {}", entry?.sequence);
        }
    }
    node.stop(Duration::from_secs(10)).await?;
    Ok(())
}
