//! Storage goes on through what is lacking for a while: descriptors, room, a thread of its own.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::support::{Leader, RunningStorage, copy_dir, lacks, one_thread, simulated, small, until, write};
use converge_actors::storage::{Cause, Phase, Settings};
use converge_lab::disk::{SimDisk, WatchedDisk};

#[test]
fn a_file_that_cannot_be_opened_is_opened_later() {
    lacks::a_file_that_cannot_be_opened_is_opened_later();
}

#[test]
fn what_no_segment_takes_for_want_of_a_file_stays_in_the_database() {
    lacks::what_no_segment_takes_for_want_of_a_file_stays_in_the_database();
}

#[test]
fn nothing_is_written_where_there_is_no_room() {
    lacks::nothing_is_written_where_there_is_no_room();
}

#[test]
fn a_node_that_waits_for_room_stops() {
    lacks::a_node_that_waits_for_room_stops();
}

#[test]
fn a_full_disk_is_left_by_itself() {
    lacks::a_full_disk_is_left_by_itself();
}

/// A first start that cannot serve says why, and does not look as if it could.
#[test]
fn a_first_start_without_room_is_refused() {
    for (capacity, mark) in [(1 << 20, 4 << 20), (40 << 10, 0)] {
        let disk = SimDisk::default();
        disk.set_capacity(Some(capacity));
        let settings = Settings { free_bytes_min: mark, ..simulated(&disk, 5, 10_000) };
        let started = one_thread(async { RunningStorage::try_start(settings).await.map(|_| ()) });
        let error = started.expect_err("it starts without room").to_string();
        assert!(error.contains("room") && error.contains("/data"), "{error}");
    }
}

#[test]
fn a_member_that_is_started_on_a_full_disk_goes_on_when_there_is_room() {
    lacks::a_member_that_is_started_on_a_full_disk_goes_on_when_there_is_room();
}

#[test]
fn a_member_that_was_started_on_a_full_disk_keeps_the_fence_of_a_failed_sync() {
    lacks::a_member_that_was_started_on_a_full_disk_keeps_the_fence_of_a_failed_sync();
}

/// A callback that panics takes the journal's thread with it: the actor exits and recovers, whatever it was at.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_a_thread_is_an_exit() {
    let dir = tempfile::tempdir().unwrap();
    let node = RunningStorage::start(small(dir.path())).await;
    let mut leader = Leader::new();
    let incarnation = |node: &RunningStorage| node.tree.find("root/storage").map(|actor| actor.get_id());
    for round in 0..20 {
        let before = incarnation(&node);
        let mut entries: Vec<_> =
            (0..30).map(|n| leader.batch(&[write(&format!("{round}/{n}"), "k", &[1; 100])])).collect();
        node.append(entries.clone(), Some(leader.hard_state())).await.expect("is durable");
        let last = leader.batch(&[write("c", "k", b"acknowledged to nobody")]);
        let panics = Box::new(|_| panic!("a planted panic"));
        node.storage.append(vec![last.clone()], Some(leader.hard_state()), panics).expect("is taken");
        // The database may be closed under it, and the last one may be applied before it is durable, which a commit
        // panics at.
        entries.push(last);
        for entry in entries {
            let _ = node.storage.apply(vec![entry]);
            tokio::task::yield_now().await;
        }
        let is_another = async || incarnation(&node).filter(|now| Some(*now) != before);
        until(&node.storage, "another incarnation", is_another).await;
        node.until_serving().await;
        let recovered = node.recover().await;
        assert_eq!(recovered.last_index.get(), leader.index, "what was written is there");
    }
    leader.check(&node);
    node.stop().await;
}

/// Files that were removed take writes as before, and nobody would ever find them.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_gone_fences() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = RunningStorage::start(small(&data)).await;
    Leader::new().write(&node, &[write("c", "k", &[1; 100])]).await;
    // Under another name first: a file that is made meanwhile would keep it.
    let gone = dir.path().join("gone");
    std::fs::rename(&data, &gone).unwrap();
    std::fs::remove_dir_all(&gone).unwrap();
    let Cause::Io { error, .. } = node.until_fenced().await else { panic!("another cause") };
    // Whoever comes first: the look at the directory, or a journal file that is made ahead.
    assert!(error.contains("removed") || error.contains("No such file"), "{error}");
    node.stop().await;
}

/// A node whose disk is full, and its directory.
struct Full {
    root: tempfile::TempDir,
    data: PathBuf,
    disk: WatchedDisk,
    node: RunningStorage,
}

impl Full {
    async fn new() -> Full {
        let root = tempfile::tempdir().unwrap();
        let (data, disk) = (root.path().join("data"), WatchedDisk::default());
        let node = RunningStorage::start(Settings { disk: Arc::new(disk.clone()), ..small(&data) }).await;
        let mut leader = Leader::new();
        leader.write(&node, &[write("c", "k", b"early")]).await;
        node.until_covered().await;
        copy_dir(&data, &root.path().join("older"));
        leader.write(&node, &[write("c", "k", b"late")]).await;
        disk.set_full(true);
        let entry = leader.batch(&[write("c", "k", b"never")]);
        node.append(vec![entry], Some(leader.hard_state())).await.expect_err("there is no room");
        let Cause::DiskFull { .. } = node.until_fenced().await else { panic!("another cause") };
        Full { root, data, disk, node }
    }

    /// The operator makes room by moving the directory away, and puts something else in its place. Says what the node is
    /// fenced for, and how many files are in that place then; none where there is no directory.
    async fn replaced(self, what: impl FnOnce(&Path, &Path)) -> (String, Option<usize>) {
        let away = self.root.path().join("away");
        std::fs::rename(&self.data, &away).unwrap();
        what(self.root.path(), &self.data);
        self.disk.set_full(false);
        let cause = async || match self.node.storage.status().phase {
            Phase::Fenced { cause: Cause::DiskFull { .. } } | Phase::Recovering => None,
            Phase::Fenced { cause } => Some(cause.to_string()),
            Phase::Serving | Phase::Outdated { .. } => panic!("it serves what it was not told to keep"),
        };
        let cause = until(&self.node.storage, "a graver fence", cause).await;
        self.node.stop().await;
        let files = std::fs::read_dir(&self.data).ok().map(Iterator::count);
        // What was acknowledged is where the operator has put it.
        let node = RunningStorage::start(small(&away)).await;
        assert_eq!(node.all("c").unwrap().entries.len(), 2, "an acknowledged entry is lost");
        node.stop().await;
        (cause, files)
    }
}

/// Somebody makes room by moving the data directory elsewhere. What comes then is no empty ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_not_left_for_a_directory_that_was_moved_away() {
    let full = Full::new().await;
    let (cause, files) = full.replaced(|_, _| {}).await;
    assert!(cause.contains("its files are gone"), "{cause}");
    assert_eq!(files, None, "another ledger was made in its place");
}

/// As above, and the restart comes before anybody looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_not_left_for_an_empty_directory() {
    let full = Full::new().await;
    full.disk.blind();
    let (cause, files) = full.replaced(|_, data| std::fs::create_dir(data).unwrap()).await;
    assert!(cause.contains("its files are gone"), "{cause}");
    assert_eq!(files, Some(0), "another ledger was made in its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_not_left_for_another_ledger() {
    let other = tempfile::tempdir().unwrap();
    let node = RunningStorage::start(small(other.path().join("data"))).await;
    Leader::new().write(&node, &[write("c", "k", b"of another ledger")]).await;
    node.stop().await;
    let full = Full::new().await;
    full.disk.blind();
    let (cause, _) = full.replaced(|_, data| copy_dir(&other.path().join("data"), data)).await;
    assert!(cause.contains("its files are gone"), "{cause}");
}

/// It has the same name, and lacks what was acknowledged since.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_not_left_for_an_older_copy() {
    let full = Full::new().await;
    full.disk.blind();
    let (cause, _) = full.replaced(|root, data| std::fs::rename(root.join("older"), data).unwrap()).await;
    assert!(cause.contains("data loss") && cause.contains("older copy"), "{cause}");
}
