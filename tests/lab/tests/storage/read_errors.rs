//! Readers whose read of the disk fails: a typed answer, a node that is fenced until its process starts anew, and
//! nothing that was acknowledged is gone then. Starts and writers are in `crash_images`.
use std::collections::BTreeSet;

use super::support::{Dice, Leader, RunningStorage, check_page, one_thread, simulated, write};
use converge_actors::storage::{Cause, Error, LogEntry, Phase, Settings};
use converge_lab::disk::{Faults, SimDisk};
use converge_ledger_core::{LogIndex, Sequence};

/// Nothing but the database's own bookkeeping is in memory: every read of a row reads the disk.
fn settings(disk: &SimDisk) -> Settings {
    Settings { redb_cache_bytes: 0, segment_cache_bytes: 0, ..simulated(disk, 77, 1) }
}

async fn furnished() -> (SimDisk, Leader, Vec<LogEntry>) {
    let (disk, mut leader, mut dice) = (SimDisk::default(), Leader::new(), Dice(13));
    let node = RunningStorage::start(settings(&disk)).await;
    for n in 0..60 {
        let writes = [write(&format!("c{}", n % 5), "k", &dice.bytes(300)), write("c", "k", &dice.bytes(50))];
        leader.write(&node, &writes).await;
    }
    let log = node.log().unwrap();
    node.stop().await;
    (disk, leader, log)
}

/// All that a reader can ask for: the truth, up to the first answer that is none.
fn read(node: &RunningStorage, leader: &Leader, log: &[LogEntry]) -> Result<(), Error> {
    for (context, kept) in &leader.contexts {
        check_page(&node.all(context)?, context, kept);
        assert_eq!(node.storage.head(context)?.unwrap().latest, Sequence(kept.len() as u64));
        let first = node.storage.entry(context, Sequence(1))?.unwrap();
        assert_eq!(&first.payload[..], &kept[0].1[..]);
    }
    assert_eq!(node.storage.head("nobody wrote here")?, None);
    assert_eq!(node.storage.log_term(LogIndex(3))?, Some(log[2].term));
    assert_eq!(node.log()?, log, "another log");
    Ok(())
}

fn is_io(error: &Error) -> bool {
    matches!(error, Error::Fenced(Cause::Io { .. }))
}

#[test]
fn a_reader_whose_read_fails_is_told_so_and_the_node_is_fenced() {
    let (disk, leader, log) = one_thread(furnished());
    let reads = one_thread(async {
        let disk = disk.killed();
        let node = RunningStorage::start(settings(&disk)).await;
        let before = disk.counters().reads;
        read(&node, &leader, &log).unwrap();
        disk.counters().reads - before
    });
    let mut causes = BTreeSet::new();
    for nth in (1..=reads).step_by(3) {
        one_thread(async {
            let disk = disk.killed();
            let node = RunningStorage::start(settings(&disk)).await;
            let at = disk.counters().reads + nth;
            // Once, or from then on.
            let until = if nth % 2 == 0 { at + 1 } else { u64::MAX };
            disk.set_faults(Faults { fail_read: Some(at..until), ..Faults::default() });
            let error = read(&node, &leader, &log).expect_err("a read failed");
            assert!(is_io(&error), "read {nth}: {error}");
            let Phase::Fenced { cause } = node.storage.status().phase else { panic!("read {nth}: it is not fenced") };
            causes.insert(cause.to_string());
            // Writers are refused, by the next incarnation too: the process has to end (S2).
            node.tree.find("root/storage").unwrap().kill();
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            let refused = node.append(Vec::new(), Some(leader.hard_state())).await.expect_err("it is fenced");
            assert!(is_io(&refused), "read {nth}: {refused}");
            let left = disk.killed();
            disk.cut();
            let node = RunningStorage::start(settings(&left)).await;
            assert_eq!(node.recover().await.last_index, LogIndex(leader.index));
            read(&node, &leader, &log).unwrap();
        });
    }
    assert!(reads > 200, "only {reads} reads");
    assert!(causes.iter().any(|cause| cause.contains("reading the database failed: a simulated read")), "{causes:?}");
}
