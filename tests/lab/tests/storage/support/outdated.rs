//! Committed log entries of a newer program, in the log of this one.

use converge_actors::storage::{LogEntry, Phase, Settings};
use converge_lab::disk::SimDisk;
use converge_ledger_core::checksum::Checksum;

use super::{Leader, RunningStorage, check_context, one_thread, simulated, until, write};

/// Where the tag of the first row of [`Leader`]'s small batches is, and behind it a length, and the flags.
const TAG: usize = 6;
const FLAGS: usize = TAG + 2;

/// The entry as a newer program might write it: with a byte that this one does not know, and its checksum.
fn newer(entry: LogEntry, (at, byte): (usize, u8)) -> LogEntry {
    let mut data = entry.data.to_vec();
    data[at] = byte;
    let crc = data.len() - 4;
    let sum = Checksum::new().with(&0_u32.to_le_bytes()).with(&data[..crc]).to_bytes();
    data[crc..].copy_from_slice(&sum);
    LogEntry { data: data.into(), ..entry }
}

async fn is_outdated(node: &RunningStorage, index: u64, needs: &str) {
    let found = async || {
        let outdated = node.storage.outdated();
        (outdated.is_some() || node.storage.status().applied.get() >= index).then_some(outdated)
    };
    let outdated = until(&node.storage, "the end of apply", found).await.expect("nothing is passed over");
    assert_eq!(outdated.index.get(), index);
    let status = node.storage.status();
    assert_eq!((status.phase, status.applied.get()), (Phase::Outdated { outdated }, index - 1));
    let alarm = status.alarms.first().expect("an operator is told");
    for word in ["OUTDATED", &format!("log entry {index} "), needs, "Install the newer program"] {
        assert!(alarm.contains(word), "{word} is not in {alarm}");
    }
}

/// Apply stops at it, through every restart; the log goes on.
pub fn apply_stops_at_a_newer_entry() {
    for (change, needs) in [
        ((0, 3), "format version 3"),
        ((TAG, 3 << 4 | 1), "format version 3"),
        ((TAG, 2 << 4 | 9), "kind 9"),
        ((FLAGS, 0x40), "flags 64"),
    ] {
        [1, 1 << 30].into_iter().for_each(|commit_bytes| one_thread(stops(change, needs, commit_bytes)));
    }
}

async fn stops(change: (usize, u8), needs: &str, commit_bytes: usize) {
    let (mut disk, mut leader) = (SimDisk::default(), Leader::new());
    let mut node = RunningStorage::start(simulated(&disk, 77, commit_bytes)).await;
    leader.write(&node, &[write("c", "k", b"before")]).await;
    leader.write(&node, &[write("c", "k", b"just before")]).await;
    let kept = leader.contexts["c"].clone();
    let newer = newer(leader.batch(&[write("c", "k", b"newer")]), change);
    let at = newer.index.get();
    let after = leader.batch(&[write("c", "k", b"after")]);
    node.append(vec![newer.clone(), after.clone()], Some(leader.hard_state())).await.unwrap();
    node.storage.apply(vec![newer.clone(), after.clone()]).unwrap();
    let mut log = node.log().unwrap();
    for life in 0..3 {
        is_outdated(&node, at, needs).await;
        check_context(&node, "c", &kept);
        let recovered = node.recover().await;
        assert_eq!((recovered.applied.get(), recovered.hard_state.commit.get() >= at), (at - 1, true));
        let more = leader.batch(&[write("c", "k", &[life; 100])]);
        node.append(vec![more.clone()], Some(leader.hard_state())).await.expect("it is acknowledged as ever");
        node.storage.apply(vec![more.clone()]).expect("and dropped");
        log.push(more);
        assert_eq!(node.log().unwrap(), log, "life {life}");
        let killed = disk.killed();
        node.stop().await;
        disk = if life == 0 { killed } else { disk };
        node = RunningStorage::start(simulated(&disk, 78 + u64::from(life), commit_bytes)).await;
    }
    assert!(node.outcomes.lock().unwrap().iter().all(|batch| batch.index.get() < at));
    node.stop().await;
}

/// What an older program stored and could not read, a newer one applies as if it had always been there.
pub fn a_newer_program_goes_on() {
    for commit_bytes in [1, 1 << 30] {
        one_thread(async {
            let (disk, mut leader) = (SimDisk::default(), Leader::new());
            let older = Settings { batch_version_max: 1, ..simulated(&disk, 77, commit_bytes) };
            let node = RunningStorage::start(older).await;
            for n in 0..20_u8 {
                let entry = leader.batch(&[write("c", "k", &[n; 300]), write("d", "k", &[n])]);
                node.append(vec![entry.clone()], Some(leader.hard_state())).await.unwrap();
                node.storage.apply(vec![entry]).unwrap();
            }
            is_outdated(&node, 1, "format version 2").await;
            node.stop().await;
            let node = RunningStorage::start(simulated(&disk, 78, commit_bytes)).await;
            assert_eq!(node.storage.status().phase, Phase::Serving);
            leader.check(&node);
            node.stop().await;
        });
    }
}
