//! The last record of the journal: torn in any way it is the end, damaged in any way it is data loss; and a node alone can
//! go on without it, when it is told to.
use std::path::{Path, PathBuf};

use super::support::{Leader, RunningStorage, copy_out, one_thread, simulated, small, write};
use converge_actors::storage::{Cause, Error, Genesis, Phase, inspect, pieces};
use converge_lab::disk::{Change, SimDisk};
use converge_ledger_core::chance::Dice;
use converge_ledger_core::{ClusterId, KEY_WINDOW_DEFAULT, LogIndex, Lsn, NodeId, StoreId};

/// A directory with records that the database does not have; with a genesis of so many voters, if any.
async fn furnished(voters: u64) -> (SimDisk, Leader, RunningStorage) {
    let (disk, mut leader) = (SimDisk::default(), Leader::new());
    let node = RunningStorage::start(simulated(&disk, 77, 1 << 30)).await;
    if voters > 0 {
        let store_id = node.recover().await.store_id;
        let others = (2..=voters).map(|id| (NodeId(id), StoreId([id as u8; 16])));
        let voters = others.chain([(NodeId(1), store_id)]).collect();
        node.storage
            .write_genesis(Genesis { cluster_id: ClusterId([7; 16]), group: 0, voters, key_window: KEY_WINDOW_DEFAULT })
            .await
            .unwrap();
    }
    for n in 0..12_u8 {
        leader.write(&node, &[write("c", "k", &[n; 700])]).await;
    }
    (disk, leader, node)
}

#[test]
fn whatever_is_left_of_a_torn_record_is_no_damage() {
    let mut whole = 0;
    for bytes in [10, 3_000, 9_000, 15_000] {
        let (moments, leader, torn) = one_thread(async {
            let (disk, mut leader, node) = furnished(1).await;
            disk.record();
            let before = leader.clone();
            leader.write(&node, &[write("c", "k", &Dice(bytes).bytes(bytes as usize))]).await;
            let moments = disk.recorded();
            node.stop().await;
            (moments, before, leader)
        });
        let sync = moments.iter().find(|moment| moment.change == Change::Sync).unwrap();
        for seed in 0..150 {
            let disk = sync.disk.crash(&mut Dice(seed));
            one_thread(async {
                let node = RunningStorage::start(simulated(&disk, seed, 1)).await;
                assert_eq!(node.storage.status().phase, Phase::Serving, "{bytes} bytes, seed {seed}");
                let last = node.recover().await.last_index;
                assert!([leader.index, torn.index].contains(&last.get()), "{last}");
                whole += u32::from(last.get() == torn.index);
                disk.cut();
            });
        }
    }
    assert!((20..580).contains(&whole), "{whole} of 600 were whole");
}

/// A directory of the machine, whose last record has a bit turned over; which record that is, and its file.
fn damaged(disk: &SimDisk, dir: &Path) -> (Lsn, PathBuf) {
    let disk = disk.killed();
    let last = pieces(&disk, Path::new("/data")).pop().unwrap();
    assert!(disk.flip(&last.path, last.offset + 700, 3));
    copy_out(&disk, dir);
    (last.record.unwrap(), dir.join(last.path.file_name().unwrap()))
}

async fn data_loss(dir: &Path) -> String {
    let node = RunningStorage::start(small(dir)).await;
    let Phase::Fenced { cause: Cause::DataLoss { what } } = node.storage.status().phase else { panic!("it serves") };
    node.stop().await;
    what
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    let error = answer.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_node_alone_goes_on_without_a_damaged_last_record_when_it_is_told_to() {
    one_thread(async {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let (disk, mut leader, node) = furnished(1).await;
        let before = leader.clone();
        leader.write(&node, &[write("c", "k", &[9; 6000])]).await;
        let left = disk.killed();
        node.stop().await;
        let (lsn, file) = damaged(&left, dir);
        let what = data_loss(dir).await;
        assert!(what.contains(&format!("record {lsn} of")) && what.contains("inspect cut-tail"), "{what}");

        let found = inspect::damaged_tail(dir).unwrap().unwrap();
        assert_eq!((found.lsn, &found.file, found.is_covered, found.voters), (lsn, &file, false, 1));
        assert_eq!(found.sector - found.offset, 512);
        let content = std::fs::read(&file).unwrap();
        let other = refusal(inspect::cut_tail(dir, Lsn(lsn.get() - 1)));
        assert!(other.contains(&format!("is {lsn}, not {}", lsn.get() - 1)), "{other}");
        assert!(std::fs::read(&file).unwrap() == content, "it was changed before it was told to");
        let kept = inspect::cut_tail(dir, lsn).unwrap();
        assert!(std::fs::read(kept).unwrap() == content[found.offset as usize..], "what was cut is kept");
        assert!(inspect::damaged_tail(dir).unwrap().is_none());
        assert!(refusal(inspect::cut_tail(dir, lsn)).contains("is sound"));

        let node = RunningStorage::start(small(dir)).await;
        assert_eq!(node.recover().await.last_index, LogIndex(before.index));
        before.check(&node);
        let mut leader = before;
        leader.write(&node, &[write("c", "k", b"goes on")]).await;
        node.stop().await;
        let node = RunningStorage::start(small(dir)).await;
        leader.check(&node);
        node.stop().await;
    });
}

/// As a stop leaves it.
#[test]
fn what_the_database_has_is_not_lost_with_the_last_record() {
    one_thread(async {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let (disk, leader, node) = furnished(0).await;
        node.stop().await;
        let (lsn, _) = damaged(&disk, dir);
        data_loss(dir).await;
        let found = inspect::damaged_tail(dir).unwrap().unwrap();
        assert_eq!((found.lsn, found.is_covered, found.voters), (lsn, true, 0));
        inspect::cut_tail(dir, lsn).unwrap();
        let node = RunningStorage::start(small(dir)).await;
        leader.check(&node);
        let busy = refusal(inspect::cut_tail(dir, lsn));
        assert!(busy.contains("another node has it open"), "{busy}");
        node.stop().await;
    });
}

#[test]
fn a_member_of_a_cluster_is_not_cut_nor_is_anything_but_the_last_record() {
    one_thread(async {
        let temporary = tempfile::tempdir().unwrap();
        let (disk, _, node) = furnished(3).await;
        let left = disk.killed();
        node.stop().await;
        let dir = temporary.path().join("member");
        let (lsn, file) = damaged(&left, &dir);
        let content = std::fs::read(&file).unwrap();
        assert_eq!(inspect::damaged_tail(&dir).unwrap().unwrap().voters, 3);
        let member = refusal(inspect::cut_tail(&dir, lsn));
        assert!(member.contains("replace this node"), "{member}");
        assert!(std::fs::read(&file).unwrap() == content);

        let dir = temporary.path().join("middle");
        let records = pieces(&left, Path::new("/data"));
        let middle = &records[records.len() - 2];
        assert!(left.flip(&middle.path, middle.offset, 3));
        copy_out(&left, &dir);
        for found in [inspect::damaged_tail(&dir).map(drop), inspect::cut_tail(&dir, middle.record.unwrap()).map(drop)]
        {
            let error = found.unwrap_err();
            assert!(matches!(error, Error::DataLoss(_)), "{error}");
        }
    });
}
