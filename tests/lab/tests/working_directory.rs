//! A host may change its working directory: a data directory that was named by a relative path stays where it is.
//! Alone in its binary, for the working directory is the process's.
#![allow(missing_docs)]

mod inprocess;

use std::path::Path;
use std::time::{Duration, Instant};

use converge_ledger::{AppendOptions, Node};
use inprocess::{PATIENCE, config, entry};

/// Storage looks every second whether its directory is still there.
const LOOKS: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stays_with_its_files_when_its_host_goes_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    std::env::set_current_dir(dir.path()).unwrap();
    let node = Node::start(config(1, Path::new("data"), &[])).await.unwrap();
    std::env::set_current_dir("/").unwrap();
    let start = Instant::now();
    while start.elapsed() < LOOKS {
        let done = node.ledger().append(entry("c", "stays".to_owned()), AppendOptions::default()).await;
        assert!(done.is_ok(), "{:?}", node.ledger().status().alarms);
    }
    assert_eq!(node.ledger().status().phase, "serving");
    node.stop(PATIENCE).await.unwrap();
    assert!(dir.path().join("data").is_dir());
}
