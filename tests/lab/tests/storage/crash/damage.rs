//! Directories that were closed well and then damaged, and what an inspection makes of them.

use converge_actors::storage::{Error, ReadQuery, inspect};
use converge_lab::disk::SimDisk;
use converge_ledger_core::LogIndex;

use super::super::support::{Dice, Leader, RunningStorage, one_thread, small};
use super::{furnish, settings};

/// A directory with a few files' worth of history, closed well.
async fn furnished(dice: &mut Dice) -> (SimDisk, Leader) {
    let disk = SimDisk::default();
    let mut leader = Leader::new();
    let node = RunningStorage::start(settings(&disk, dice)).await;
    furnish(&node, &mut leader, dice, 40).await;
    node.stop().await;
    (disk, leader)
}

/// Reads all there is; every answer is the truth or an error.
async fn read_all(node: &RunningStorage, leader: &Leader, entries: usize) -> Result<(), Error> {
    let recovered = node.storage.recover().await?;
    assert_eq!(recovered.last_index, LogIndex(leader.index), "a silently shorter log");
    let log = node.log()?;
    assert_eq!(log.len(), entries);
    for (context, kept) in &leader.contexts {
        let page = node.storage.read(context, ReadQuery { max_bytes: usize::MAX, ..ReadQuery::default() })?;
        let got: Vec<_> = page.entries.iter().map(|e| (e.key.clone(), e.payload.to_vec())).collect();
        assert_eq!(got, *kept, "wrong bytes in {context}");
    }
    Ok(())
}

#[test]
fn a_flipped_bit_gives_the_truth_or_an_error() {
    one_thread(async {
        let mut dice = Dice(3);
        let (disk, leader) = furnished(&mut dice).await;
        let truth = {
            let node = RunningStorage::start(settings(&disk.killed(), &mut dice)).await;
            let log = node.log().unwrap();
            node.stop().await;
            log
        };
        let files: Vec<_> = disk.files().into_iter().filter(|(_, len)| *len > 0).collect();
        let mut noticed = 0;
        std::panic::set_hook(Box::new(quiet));
        for n in 0..700 {
            let disk = disk.killed();
            let (path, len) = &files[n % files.len()];
            let content = disk.content(path).unwrap();
            // Flips in zeros of which nobody reads are not interesting.
            let bit = loop {
                let bit = dice.below(*len * 8);
                if content[(bit / 8) as usize] != 0 || dice.below(40) == 0 {
                    break bit;
                }
            };
            assert!(disk.flip(path, bit / 8, (bit % 8) as u8));
            match RunningStorage::try_start(settings(&disk, &mut dice)).await {
                Err(_) => noticed += 1,
                Ok(node) => {
                    match read_all(&node, &leader, truth.len()).await {
                        Ok(()) => assert_eq!(node.log().unwrap(), truth),
                        Err(_) => noticed += 1,
                    }
                    node.stop().await;
                }
            }
        }
        let _ = std::panic::take_hook();
        assert!(noticed > 50, "only {noticed} of 700 flips were noticed");
    });
}

/// redb panics on some damage, which storage catches: no need to print each.
fn quiet(info: &std::panic::PanicHookInfo<'_>) {
    let ours = info.location().is_some_and(|at| at.file().contains("actors"));
    if ours {
        eprintln!("{info}");
    }
}

#[test]
fn an_older_copy_of_one_file_is_refused_or_does_no_harm() {
    one_thread(async {
        let mut refused = Vec::new();
        for seed in 0..8 {
            let mut dice = Dice(40 + seed);
            let (old, mut leader) = furnished(&mut dice).await;
            let disk = old.killed();
            let node = RunningStorage::start(settings(&disk, &mut dice)).await;
            let boot = node.recover().await.boot;
            furnish(&node, &mut leader, &mut dice, 10 + 20 * seed).await;
            let log = node.log().unwrap();
            node.stop().await;
            for (path, _) in old.files() {
                let disk = disk.killed();
                disk.put_content(&path, &old.content(&path).unwrap());
                match RunningStorage::try_start(settings(&disk, &mut dice)).await {
                    Err(error) => refused.push(format!("{}: {error}", path.display())),
                    Ok(node) => {
                        match read_all(&node, &leader, log.len()).await {
                            Ok(()) => {
                                assert_eq!(node.log().unwrap(), log);
                                assert!(node.recover().await.boot > boot, "a boot number came back");
                            }
                            Err(error) => refused.push(format!("{}: {error}", path.display())),
                        }
                        node.stop().await;
                    }
                }
            }
        }
        assert!(refused.iter().any(|text| text.contains("journal")), "{refused:?}");
    });
}

#[test]
fn an_inspection_finds_all_well_and_a_rebuilt_index_is_the_same() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut leader = Leader::new();
        let node = RunningStorage::start(small(dir.path())).await;
        furnish(&node, &mut leader, &mut Dice(5), 60).await;
        let status = node.storage.status();
        let busy = inspect::summary(dir.path()).unwrap_err();
        assert!(busy.to_string().contains("another node has it open"), "{busy}");
        node.stop().await;

        let before = inspect::summary(dir.path()).unwrap();
        assert_eq!((before.applied, before.last), (status.applied, status.last));
        assert!(before.boot.get() > 0);
        let verified = inspect::verify(dir.path()).unwrap();
        assert_eq!(verified.problems, Vec::<String>::new());
        assert_eq!((verified.log_entries, verified.entries), (60, before.entries.get()));
        assert_eq!(verified.contexts, 3);
        let mut lines = Vec::new();
        let mut each = |line: inspect::LogLine| {
            lines.push(line.index.get());
            true
        };
        inspect::log(dir.path(), LogIndex(58), LogIndex(99), &mut each).unwrap();
        assert_eq!(lines, [58, 59, 60]);

        let after = inspect::rebuild_index(dir.path()).unwrap();
        assert_eq!((after.digest, after.entries, after.applied), (before.digest, before.entries, before.applied));
        assert_eq!(inspect::verify(dir.path()).unwrap().problems, Vec::<String>::new());
        let node = RunningStorage::start(small(dir.path())).await;
        leader.check(&node);
        node.stop().await;
        let nowhere = inspect::summary(&dir.path().join("nowhere")).unwrap_err();
        assert!(matches!(nowhere, Error::Refused { .. }), "{nowhere}");
    });
}

#[test]
fn a_start_that_finds_the_index_behind_makes_it_anew_from_the_log() {
    one_thread(async {
        let dir = tempfile::tempdir().unwrap();
        let mut leader = Leader::new();
        let node = RunningStorage::start(small(dir.path())).await;
        furnish(&node, &mut leader, &mut Dice(5), 60).await;
        let before = node.storage.status();
        node.stop().await;

        // The state says how far the index is: without it, it is nowhere.
        let db = redb::Database::open(dir.path().join("ledger.redb")).unwrap();
        let txn = db.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        assert!(txn.open_table(meta).unwrap().remove("state").unwrap().is_some());
        txn.commit().unwrap();
        drop(db);

        let node = RunningStorage::start(small(dir.path())).await;
        leader.check(&node);
        let after = node.storage.status();
        assert_eq!((after.digest, after.applied), (before.digest, before.applied));
        assert_eq!(after.last_position, before.last_position);
        node.stop().await;
        assert_eq!(inspect::verify(dir.path()).unwrap().problems, Vec::<String>::new());
    });
}

#[test]
fn a_verification_names_what_is_wrong() {
    one_thread(async {
        let dir = tempfile::tempdir().unwrap();
        let mut leader = Leader::new();
        let node = RunningStorage::start(small(dir.path())).await;
        furnish(&node, &mut leader, &mut Dice(5), 30).await;
        node.stop().await;
        let needle = &leader.contexts["c0"].iter().find(|(_, payload)| payload.len() > 100).unwrap().1;
        let segments = std::fs::read_dir(dir.path().join("log")).unwrap().map(|file| file.unwrap().path());
        for path in segments.chain([dir.path().join("ledger.redb")]) {
            let mut bytes = std::fs::read(&path).unwrap();
            let places: Vec<_> =
                (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
            for at in places {
                bytes[at + 50] ^= 1;
            }
            std::fs::write(&path, bytes).unwrap();
        }
        std::panic::set_hook(Box::new(quiet));
        let found = inspect::verify(dir.path());
        let _ = std::panic::take_hook();
        match found {
            Ok(verified) => assert!(!verified.problems.is_empty()),
            Err(error) => assert!(matches!(error, Error::DataLoss(_)), "{error}"),
        }
    });
}

#[test]
fn a_read_only_directory_is_refused_with_the_reason() {
    use std::os::unix::fs::PermissionsExt;
    one_thread(async {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        if std::fs::write(dir.path().join("probe"), "").is_ok() {
            // Root writes everywhere: the file system's own root that nobody writes to, then.
            std::fs::remove_file(dir.path().join("probe")).unwrap();
            let error = RunningStorage::try_start(small("/proc/ledger")).await.err().unwrap().to_string();
            assert!(error.contains("/proc/ledger"), "{error}");
            return;
        }
        let error = RunningStorage::try_start(small(dir.path())).await.err().unwrap().to_string();
        assert!(error.contains("make it writable"), "{error}");
    });
}
