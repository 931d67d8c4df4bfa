//! Idempotency keys and their window.

use converge_actors::storage::{Genesis, LogEntry, Phase, inspect};
use converge_lab::disk::SimDisk;
use converge_ledger_core::{Batch, ClusterId, Command, NodeId, Outcome};

use super::{Leader, RunningStorage, copy_out, one_thread, simulated, write};

async fn start(disk: &SimDisk, window: u64, commit_bytes: usize) -> RunningStorage {
    let node = RunningStorage::start(simulated(disk, 77, commit_bytes)).await;
    let voters = [(NodeId(1), node.recover().await.store_id)].into();
    let genesis = Genesis { cluster_id: ClusterId([5; 16]), group: 0, voters, key_window: window };
    node.storage.write_genesis(genesis).await.unwrap();
    node
}

/// The next log entry: one append for each of these keys, all of one content.
fn keyed(leader: &mut Leader, keys: impl IntoIterator<Item = u64>) -> LogEntry {
    let keys: Vec<String> = keys.into_iter().map(|key| format!("key {key}")).collect();
    let entry = leader.batch(&vec![write("c", "k", b"content"); keys.len()]);
    let mut batch = Batch::decode(&entry.data).unwrap();
    for (command, key) in batch.commands.iter_mut().zip(keys) {
        let Command::Append(append) = command else { unreachable!("a leader appends") };
        append.idempotency_key = Some(key);
    }
    LogEntry { data: batch.encode(), ..entry }
}

async fn take(node: &RunningStorage, leader: &Leader, entry: LogEntry) {
    node.append(vec![entry.clone()], Some(leader.hard_state())).await.unwrap();
    node.apply(vec![entry]).await;
}

/// Whether each append of the last batch found its key.
fn found(node: &RunningStorage) -> Vec<bool> {
    let outcomes = node.outcomes.lock().unwrap();
    let found = |(_, outcome): &(u64, Outcome)| match outcome {
        Outcome::Appended(appended) => appended.deduplicated,
        other => panic!("{other:?}"),
    };
    outcomes.last().unwrap().outcomes.iter().map(found).collect()
}

/// As many rows of keys stay as the window has positions, and about one for each bucket of fourteen.
pub fn rows_leave_with_the_window() {
    const KEYS: u64 = 10_000;
    const WINDOW: u64 = 100;
    one_thread(async {
        let (disk, mut leader) = (SimDisk::default(), Leader::new());
        let mut node = start(&disk, WINDOW, 4 << 10).await;
        for first in (1..=KEYS).step_by(20) {
            let entry = keyed(&mut leader, first..first + 20);
            take(&node, &leader, entry).await;
            if first == KEYS / 2 + 1 {
                node.stop().await;
                node = start(&disk, WINDOW, 4 << 10).await;
            }
        }
        node.stop().await;
        let temporary = tempfile::tempdir().unwrap();
        copy_out(&disk, temporary.path());
        let verified = inspect::verify(temporary.path()).unwrap();
        assert_eq!(verified.problems, Vec::<String>::new());
        assert!((WINDOW..WINDOW + 40).contains(&verified.keys), "{} rows of keys", verified.keys);

        let node = start(&disk, WINDOW, 4 << 10).await;
        let (last, next) = (KEYS, KEYS - WINDOW + 1);
        let entry = keyed(&mut leader, [last, next, 1, 1]);
        take(&node, &leader, entry).await;
        // The first of the window leaves it with the third.
        assert_eq!(found(&node), [true, true, false, true]);
        let entry = keyed(&mut leader, [next, last]);
        take(&node, &leader, entry).await;
        assert_eq!(found(&node), [false, true]);
        node.stop().await;
    });
}

/// Two nodes that took the rows away at other times are in one state.
pub fn what_is_known_does_not_hang_on_what_a_node_has() {
    one_thread(async {
        let disks = [SimDisk::default(), SimDisk::default()];
        let nodes = [start(&disks[0], 30, 1).await, start(&disks[1], 30, 1 << 30).await];
        let mut leader = Leader::new();
        for n in 0..120 {
            let entry = keyed(&mut leader, [n % 50, (n * 7) % 45]);
            for node in &nodes {
                take(node, &leader, entry.clone()).await;
            }
        }
        let statuses = nodes.each_ref().map(|node| node.storage.status());
        assert!(statuses[0].last_position.get() > 100, "keys come again");
        assert_eq!(statuses[0].digest, statuses[1].digest);
        for node in nodes {
            node.stop().await;
        }
    });
}

/// A commit may bring more keys than the window has positions.
pub fn keys_that_came_and_left_within_a_commit_are_absent() {
    const KEYS: u64 = 150;
    const WINDOW: u64 = 30;
    one_thread(async {
        let (disk, mut leader) = (SimDisk::default(), Leader::new());
        let node = start(&disk, WINDOW, 1 << 30).await;
        let entry = keyed(&mut leader, 0..KEYS);
        take(&node, &leader, entry).await;
        node.stop().await;
        let node = RunningStorage::start(simulated(&disk, 77, 1 << 30)).await;
        let entry = keyed(&mut leader, [KEYS - 1, 0, 1, 2]);
        take(&node, &leader, entry).await;
        assert_eq!(node.storage.status().phase, Phase::Serving);
        assert_eq!(found(&node), [true, false, false, false]);
        node.stop().await;
    });
}
