//! What passes by itself: descriptors and room that are lacking for a while.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use converge_actors::storage::{Cause, Genesis, Phase, Room, Settings};
use converge_lab::disk::{Faults, SimDisk};
use converge_ledger_core::{ClusterId, KEY_WINDOW_DEFAULT, NodeId};
use converge_supervisors::StartError;

use super::{Leader, RunningStorage, WAIT, one_thread, simulated, write};

const RECORDS: usize = 60;
/// Several looks of a fenced node at whether it may go on.
const LOOKS: Duration = Duration::from_secs(2);

/// Enough to fill several journal files. Looks at nothing but that all is acknowledged.
async fn fill(node: &RunningStorage, leader: &mut Leader, records: usize) {
    for n in 0..records {
        leader.write(node, &[write(&format!("c{}", n % 3), "k", &[n as u8; 3000])]).await;
    }
}

async fn until(what: &str, node: &RunningStorage, there: impl Fn(&RunningStorage) -> bool) {
    super::until(&node.storage, what, async || there(node).then_some(())).await;
}

/// Two starts and what comes between, while these openings fail. Says how many there were.
async fn live(disk: &SimDisk, fail_open: Option<std::ops::Range<u64>>) -> u64 {
    disk.set_faults(Faults { fail_open, ..Faults::default() });
    let mut leader = Leader::new();
    for start in 0..2 {
        // The files of another size are replaced, which takes more openings.
        let journal_file_bytes = (80 + 8 * start) << 10;
        let node = RunningStorage::start(Settings { journal_file_bytes, ..simulated(disk, 5, 20_000) }).await;
        assert_eq!(node.storage.status().phase, Phase::Serving);
        fill(&node, &mut leader, RECORDS).await;
        assert_eq!(node.storage.status().phase, Phase::Serving);
        leader.check(&node);
        until("the end of the alarm", &node, |node| node.storage.status().alarms.is_empty()).await;
        node.stop().await;
    }
    disk.counters().opens
}

/// Whatever cannot be opened for lack of a descriptor is opened later: nothing is fenced, nothing fails.
pub fn a_file_that_cannot_be_opened_is_opened_later() {
    let opens = one_thread(live(&SimDisk::default(), None));
    assert!(opens > 15, "only {opens} openings");
    for nth in 1..=opens {
        one_thread(live(&SimDisk::default(), Some(nth..nth + 2)));
    }
}

/// As long as no segment can be made, what is applied stays in the log table, however much that is. A node that is stopped
/// meanwhile does not wait for a file.
pub fn what_no_segment_takes_for_want_of_a_file_stays_in_the_database() {
    one_thread(async {
        let disk = SimDisk::default();
        // The journal has the files that it needs.
        let settings = Settings { journal_file_bytes: 8 << 20, ..simulated(&disk, 5, 20_000) };
        let node = RunningStorage::start(settings.clone()).await;
        disk.set_faults(Faults { fail_open: Some(0..u64::MAX), ..Faults::default() });
        let mut leader = Leader::new();
        // More than is read of the table at a time.
        fill(&node, &mut leader, 500).await;
        let is_told =
            |node: &RunningStorage| node.storage.status().alarms.iter().any(|alarm| alarm.contains("segment"));
        until("the alarm", &node, is_told).await;
        assert_eq!(node.storage.status().phase, Phase::Serving);
        leader.check(&node);
        let start = Instant::now();
        node.stop().await;
        assert!(start.elapsed() < WAIT / 2, "it waited for a file: {:?}", start.elapsed());
        disk.set_faults(Faults::default());
        let node = RunningStorage::start(settings).await;
        until("the end of the alarm", &node, |node| node.storage.status().alarms.is_empty()).await;
        leader.check(&node);
        node.stop().await;
    });
}

/// Below the mark nothing is begun, below half of it nothing is stored and no file is made; what the journal has is
/// acknowledged, and with room all goes on. No write ever fails.
pub fn nothing_is_written_where_there_is_no_room() {
    const MARK: u64 = 2 << 20;
    one_thread(async {
        let disk = SimDisk::default();
        let settings = Settings { free_bytes_min: MARK, overlay_bytes_max: 64 << 10, ..simulated(&disk, 5, 10_000) };
        let node = RunningStorage::start(settings).await;
        let mut leader = Leader::new();
        fill(&node, &mut leader, 2).await;
        assert_eq!(node.storage.room(), Room::Ample);
        disk.set_capacity(Some(disk.used() + MARK / 2 - 1));
        until("the alarm", &node, |node| matches!(node.storage.room(), Room::Out { .. })).await;
        assert!(node.storage.status().alarms.iter().any(|alarm| alarm.contains("room")));
        let writes = tokio::time::timeout(Duration::from_secs(2), fill(&node, &mut leader, 1000));
        assert!(writes.await.is_err(), "memory has no bound");
        assert_eq!(node.storage.status().phase, Phase::Serving);
        assert!(!disk.has_failed(), "a write found no room");
        disk.set_capacity(None);
        // What waited is taken up by itself: the entry in flight, too, which nobody waits for any more.
        until("room", &node, |node| node.storage.room() == Room::Ample).await;
        node.append(Vec::new(), None).await.expect("what was queued is durable");
        let log = node.log().expect("is readable");
        assert_eq!(log.len() as u64, leader.index, "an entry is lost");
        let applied = node.storage.status().applied.get();
        node.apply(log.into_iter().skip(usize::try_from(applied).unwrap()).collect()).await;
        leader.check(&node);
        node.stop().await;
    });
}

/// A node that waits for room is stopped at once, and leaves what it acknowledged. Its directory is free then.
pub fn a_node_that_waits_for_room_stops() {
    const MARK: u64 = 2 << 20;
    // The journal waits for a file while memory has room, and for the database when it has none.
    for overlay_bytes_max in [64 << 20, 64 << 10] {
        one_thread(async {
            let disk = SimDisk::default();
            let settings = Settings { free_bytes_min: MARK, overlay_bytes_max, ..simulated(&disk, 5, 10_000) };
            let node = RunningStorage::start(settings.clone()).await;
            let mut leader = Leader::new();
            fill(&node, &mut leader, 2).await;
            disk.set_capacity(Some(disk.used() + MARK / 2 - 1));
            until("the alarm", &node, |node| matches!(node.storage.room(), Room::Out { .. })).await;
            let before = Arc::new(Mutex::new(leader.clone()));
            let writes = async {
                for _ in 0..1000 {
                    let entry = leader.batch(&[write("c", "k", &[7; 3000])]);
                    node.append(vec![entry], Some(leader.hard_state())).await.expect("nothing fails");
                    *before.lock().unwrap() = leader.clone();
                }
            };
            assert!(tokio::time::timeout(Duration::from_secs(2), writes).await.is_err(), "memory has no bound");
            assert_eq!(node.storage.status().phase, Phase::Serving);
            let start = Instant::now();
            node.stop().await;
            // The supervisor kills after 30 s; nothing here takes longer than a few steps.
            assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
            disk.set_capacity(None);
            let node = RunningStorage::start(settings).await;
            let log = node.log().expect("is readable");
            let acknowledged = before.lock().unwrap().index;
            assert!(log.len() as u64 >= acknowledged, "an acknowledged entry is lost");
            node.stop().await;
        });
    }
}

/// A write that found no room fences, and with room again storage recovers in the same process.
pub fn a_full_disk_is_left_by_itself() {
    one_thread(async {
        let disk = SimDisk::default();
        let node = RunningStorage::start(simulated(&disk, 5, 10_000)).await;
        let mut leader = Leader::new();
        fill(&node, &mut leader, 10).await;
        let before = leader.clone();
        disk.set_capacity(Some(disk.used()));
        let filled = tokio::time::timeout(Duration::from_secs(2), async {
            while node.storage.status().phase == Phase::Serving {
                let entry = leader.batch(&[write("c0", "k", &[7; 3000])]);
                if node.append(vec![entry], Some(leader.hard_state())).await.is_err() {
                    return;
                }
            }
        });
        let _ = filled.await;
        node.until_fenced().await;
        assert!(disk.has_failed());
        disk.set_capacity(None);
        node.until_serving().await;
        let recovered = node.recover().await;
        assert!(recovered.applied.get() >= before.index);
        for (context, kept) in &before.contexts {
            let page = node.all(context).expect("is readable");
            assert!(page.entries.len() >= kept.len(), "acknowledged entries of {context} are lost");
        }
        let mut leader = Leader { index: recovered.last_index.get(), term: 2, counter: 1 << 20, ..Leader::new() };
        leader.write(&node, &[write("after", "k", b"there is room")]).await;
        leader.check(&node);
        node.stop().await;
    });
}

/// A member that is started on a full disk, where recovery needs room, waits for it as one does whose disk fills up
/// while it runs. Whoever is no member yet has nothing to wait for.
pub fn a_member_that_is_started_on_a_full_disk_goes_on_when_there_is_room() {
    one_thread(async {
        let (disk, mut leader) = left(true).await;
        let node = started_full(&disk).await.expect("it comes up");
        disk.set_capacity(None);
        node.until_serving().await;
        assert_eq!(node.recover().await.last_index.get(), leader.index);
        leader.check(&node);
        leader.write(&node, &[write("c", "k", b"there is room")]).await;
        leader.check(&node);
        node.stop().await;
    });
    one_thread(async {
        let (disk, _) = left(false).await;
        let Err(error) = started_full(&disk).await else { panic!("it looks as if it could serve") };
        assert!(error.to_string().contains("make room"), "{error}");
    });
}

/// A sync that fails is tried again by no start of the actor, also where it is the first thing that such a member does.
pub fn a_member_that_was_started_on_a_full_disk_keeps_the_fence_of_a_failed_sync() {
    one_thread(async {
        let (disk, _) = left(true).await;
        let node = started_full(&disk).await.expect("it comes up");
        disk.set_faults(Faults { fail_sync: Some(disk.counters().syncs + 1), ..Faults::default() });
        until("the fence", &node, |node| {
            matches!(node.storage.status().phase, Phase::Fenced { cause: Cause::Io { .. } })
        })
        .await;
        let syncs = disk.counters().syncs;
        tokio::time::sleep(LOOKS).await;
        assert!(matches!(node.storage.status().phase, Phase::Fenced { cause: Cause::Io { .. } }));
        assert_eq!(disk.counters().syncs, syncs, "it was tried again");
        node.stop().await;
    });
}

/// A disk whose node was killed: what it wrote is in the journal alone.
async fn left(is_member: bool) -> (SimDisk, Leader) {
    let (disk, mut leader) = (SimDisk::default(), Leader::new());
    let node = RunningStorage::start(simulated(&disk, 5, 1 << 30)).await;
    if is_member {
        let store_id = node.storage.status().store_id.expect("it serves");
        let genesis = Genesis {
            cluster_id: ClusterId([1; 16]),
            group: 0,
            voters: [(NodeId(1), store_id)].into(),
            key_window: KEY_WINDOW_DEFAULT,
        };
        node.storage.write_genesis(genesis).await.unwrap();
    }
    for _ in 0..50 {
        leader.write(&node, &[write("c", "k", &[7; 3000])]).await;
    }
    let left = disk.killed();
    disk.cut();
    (left, leader)
}

/// A start on that disk, full to the last byte; where it comes up, it is fenced and says what is to be done.
async fn started_full(disk: &SimDisk) -> Result<RunningStorage, StartError> {
    disk.set_capacity(Some(disk.used()));
    let node = RunningStorage::try_start(simulated(disk, 5, 1 << 30)).await?;
    let Cause::DiskFull { .. } = node.until_fenced().await else { panic!("another cause") };
    assert!(node.storage.status().alarms.iter().any(|alarm| alarm.contains("Make room, and the node goes on, with")));
    Ok(node)
}
