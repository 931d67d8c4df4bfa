//! Deaths under load, readers and writers at once, and directories that are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use converge_actors::storage::{Error, LogEntry, Phase, ReadQuery, Settings};
use converge_ledger_core::LogIndex;

use super::super::support::{Leader, RunningStorage, check_context, small, until, write};
use super::plain;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_or_panicking_actor_comes_back_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let node = RunningStorage::start(small(dir.path())).await;
    let mut leader = Leader::new();
    let boot = node.recover().await.boot;
    for round in 0..12_u8 {
        for n in 0..10 {
            leader.write(&node, &[write("c", "k", &[round, n])]).await;
        }
        // Under load: an append that nobody waits for.
        let entry = leader.batch(&[write("c", "k", &[round, 255])]);
        node.storage.append(vec![entry], Some(leader.hard_state()), Box::new(|_| {})).unwrap();
        if round % 3 == 2 {
            // An apply behind the next one breaks an invariant: a panic.
            let far = LogEntry { index: LogIndex(leader.index + 50), ..plain(1, 1) };
            node.storage.apply(vec![far]).unwrap();
        } else {
            node.tree.find("root/storage").expect("runs").kill();
        }
        let recovered = until(&node.storage, "the next actor", async || match node.storage.recover().await {
            Ok(recovered) => Some(recovered),
            Err(Error::Unavailable) => None,
            Err(error) => panic!("round {round}: {error}"),
        });
        let recovered = recovered.await;
        assert_eq!(recovered.boot, boot);
        assert_eq!(recovered.last_index, LogIndex(leader.index));
        assert_eq!(recovered.applied, LogIndex(leader.index));
        leader.check(&node);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_dies_takes_the_actor_with_it_and_both_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = RunningStorage::start(small(dir.path())).await;
    let mut leader = Leader::new();
    for n in 0..5_u8 {
        leader.write(&node, &[write("c", "k", &[n])]).await;
        let entry = leader.batch(&[write("c", "k", &[n, n])]);
        let panics = Box::new(|_| panic!("on the journal's thread"));
        node.storage.append(vec![entry], Some(leader.hard_state()), panics).unwrap();
        let is_back = async || {
            let is_up = node.storage.recover().await.is_ok();
            (is_up && node.log().unwrap().len() as u64 == leader.index).then_some(())
        };
        until(&node.storage, "storage with all it had", is_back).await;
        leader.write(&node, &[write("c", "k", b"after")]).await;
        leader.check(&node);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_every_applied_entry_while_rows_move_to_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { commit_interval: Duration::ZERO, ..small(dir.path()) };
    let node = RunningStorage::start(settings).await;
    let storage = node.storage.clone();
    let applied = node.applied.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reader = tokio::task::spawn_blocking(move || {
        let mut reads = 0;
        while !stopped.load(Ordering::Relaxed) {
            let least = *applied.borrow();
            let query = ReadQuery { max_bytes: usize::MAX, ..ReadQuery::default() };
            let page = storage.read("c", query).unwrap();
            assert!(page.latest.get() >= least, "{} is applied, {} is read", least, page.latest);
            assert_eq!(page.entries.len() as u64, page.latest.get());
            let last = storage.log_last();
            let log = storage.log_entries(LogIndex(1), last.next(), usize::MAX).unwrap();
            assert_eq!(log.len() as u64, last.get());
            reads += 1;
        }
        reads
    });
    let mut leader = Leader::new();
    for n in 0..300_u32 {
        leader.write(&node, &[write("c", "k", &n.to_le_bytes())]).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 10);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded_while_writers_wait_for_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 64 << 10;
    let settings = Settings {
        overlay_bytes_max: bound,
        commit_interval: Duration::from_secs(3600),
        commit_bytes: 1 << 30,
        ..small(dir.path())
    };
    let node = RunningStorage::start(settings.clone()).await;
    let mut leader = Leader::new();
    for n in 0..100_u8 {
        leader.write(&node, &[write("c", "k", &vec![n; 8000])]).await;
        let bytes = node.storage.status().overlay_bytes;
        assert!(bytes < 2 * bound as u64, "{bytes} bytes in memory");
    }
    leader.check(&node);
    check_context(&node, "c", &leader.contexts["c"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_opener_is_refused_and_the_first_unharmed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let node = RunningStorage::start(settings.clone()).await;
    let error = RunningStorage::try_start(settings.clone()).await.err().expect("is refused").to_string();
    assert!(error.contains("another node has it open"), "{error}");
    assert!(error.contains(&dir.path().display().to_string()), "{error}");
    Leader::new().write(&node, &[write("c", "k", b"still here")]).await;
    assert_eq!(node.storage.status().phase, Phase::Serving);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strange_or_a_gutted_directory_is_refused_and_left_alone() {
    let strange = tempfile::tempdir().unwrap();
    std::fs::write(strange.path().join("thesis.tex"), "mine").unwrap();
    let error = RunningStorage::try_start(small(strange.path())).await.err().unwrap().to_string();
    assert!(error.contains("thesis.tex"), "{error}");
    assert_eq!(std::fs::read_dir(strange.path()).unwrap().count(), 1);

    let gutted = tempfile::tempdir().unwrap();
    RunningStorage::start(small(gutted.path())).await.stop().await;
    std::fs::remove_file(gutted.path().join("ledger.redb")).unwrap();
    let error = RunningStorage::try_start(small(gutted.path())).await.err().unwrap().to_string();
    assert!(error.contains("ledger.redb is missing"), "{error}");
    assert!(!gutted.path().join("ledger.redb").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_or_empty_files_fence_the_node() {
    for name in ["journal-0001", "journal-0002", "ledger.redb"] {
        let dir = tempfile::tempdir().unwrap();
        let settings = small(dir.path());
        let node = RunningStorage::start(settings.clone()).await;
        let mut leader = Leader::new();
        for n in 0..80_u8 {
            leader.write(&node, &[write("c", "k", &vec![n; 2000])]).await;
        }
        node.stop().await;
        let path = dir.path().join(name);
        if name.starts_with("journal") {
            std::fs::remove_file(&path).unwrap();
        } else {
            std::fs::write(&path, b"").unwrap();
        }
        let node = RunningStorage::start(settings.clone()).await;
        match node.storage.status().phase {
            Phase::Fenced { cause } => {
                assert!(!cause.can_read(), "{name}: {cause}");
                let recovered = node.storage.recover().await;
                assert!(matches!(recovered, Err(Error::DataLoss(_))), "{name}: {recovered:?}");
                assert!(matches!(node.all("c"), Err(Error::DataLoss(_) | Error::Unavailable)));
            }
            // The file that was not in use holds nothing that is missed.
            Phase::Serving => leader.check(&node),
            Phase::Recovering | Phase::Outdated { .. } => panic!("{name}: storage hangs"),
        }
        node.stop().await;
    }
}
