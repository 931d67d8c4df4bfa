//! Data directories of each format, kept under `tests/golden`: every later build opens them, and finds what they held.
//!
//! `format-5` is a directory as a kill leaves it: segments that are closed, one that is open, a tail in the database, records
//! in the journal that the database does not have. It is made anew, when its format changes, with
//! `cargo test -p converge-lab --test storage golden -- --ignored`.
use std::path::{Path, PathBuf};

use super::support::{Leader, RunningStorage, copy_dir, copy_out, one_thread, simulated, small, write};
use converge_actors::storage::{Genesis, Phase, Settings, inspect};
use converge_lab::disk::SimDisk;
use converge_ledger_core::{ClusterId, KEY_WINDOW_DEFAULT, LogIndex, NodeId, Term};

const BATCHES: u64 = 40;
/// Of these, the last so many are in the journal alone.
const LATE: u64 = 6;

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/format-5")
}

/// Where the digest of the applied state is.
fn digest_file() -> PathBuf {
    kept().with_extension("digest")
}

fn settings(disk: &SimDisk, commit_bytes: usize) -> Settings {
    Settings {
        journal_record_bytes_max: 8 << 10,
        journal_file_bytes: 40 << 10,
        segment_file_bytes: 8 << 10,
        ..simulated(disk, 4, commit_bytes)
    }
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `n`th batch: two entries, the payload of the first longer each time.
async fn batch(leader: &mut Leader, node: &RunningStorage, n: u64) {
    leader.term = 1 + n / 10;
    let long = vec![n as u8; 20 * n as usize];
    leader.write(node, &[write("long", "n", &long), write(&format!("c{}", n % 3), "k", &n.to_le_bytes())]).await;
}

async fn make(disk: &SimDisk) -> SimDisk {
    let mut leader = Leader::new();
    let node = RunningStorage::start(settings(disk, 1)).await;
    let store_id = node.recover().await.store_id;
    let genesis = Genesis {
        cluster_id: ClusterId([4; 16]),
        group: 0,
        voters: [(NodeId(1), store_id)].into(),
        key_window: KEY_WINDOW_DEFAULT,
    };
    node.storage.write_genesis(genesis).await.unwrap();
    for n in 0..BATCHES - LATE {
        batch(&mut leader, &node, n).await;
    }
    node.stop().await;
    let node = RunningStorage::start(settings(disk, 1 << 30)).await;
    for n in BATCHES - LATE..BATCHES {
        batch(&mut leader, &node, n).await;
    }
    let left = disk.killed();
    std::fs::write(digest_file(), hex(node.storage.status().digest)).unwrap();
    node.stop().await;
    left
}

#[test]
#[ignore = "writes the directory under tests/golden"]
fn write_the_directory() {
    let left = one_thread(make(&SimDisk::default()));
    let _ = std::fs::remove_dir_all(kept());
    std::fs::create_dir_all(kept()).unwrap();
    copy_out(&left, &kept());
}

#[test]
fn a_directory_of_this_format_is_opened_and_holds_what_it_held() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    copy_dir(&kept(), &dir);
    let names = std::fs::read_dir(dir.join("log")).unwrap().count();
    assert!(names > 2, "{names} segments");
    one_thread(async {
        let node = RunningStorage::start(small(&dir)).await;
        assert_eq!(node.storage.status().phase, Phase::Serving);
        let recovered = node.recover().await;
        assert_eq!((recovered.last_index, recovered.applied), (LogIndex(BATCHES), LogIndex(BATCHES)));
        assert_eq!((recovered.hard_state.term, recovered.hard_state.vote), (Term(4), NodeId(1)));
        let genesis = recovered.genesis.expect("it is a member");
        assert_eq!((genesis.cluster_id, genesis.voters.len()), (ClusterId([4; 16]), 1));
        assert_eq!(hex(node.storage.status().digest), std::fs::read_to_string(digest_file()).unwrap());
        let long = node.all("long").unwrap().entries;
        assert_eq!(long.len() as u64, BATCHES);
        for (n, entry) in (0_u64..).zip(&long) {
            assert_eq!(entry.payload[..], vec![n as u8; 20 * n as usize][..], "entry {n}");
            assert_eq!((&entry.key[..], entry.position.get()), ("n", 2 * n + 1));
        }
        let short = node.all("c1").unwrap().entries;
        let numbers: Vec<u64> =
            short.iter().map(|entry| u64::from_le_bytes(entry.payload[..].try_into().unwrap())).collect();
        assert_eq!(numbers, (0..BATCHES).filter(|n| n % 3 == 1).collect::<Vec<_>>());
        let terms: Vec<u64> = node.log().unwrap().iter().map(|entry| entry.term.get()).collect();
        assert_eq!(terms, (0..BATCHES).map(|n| 1 + n / 10).collect::<Vec<_>>());
        node.stop().await;
    });
    let verified = inspect::verify(&dir).unwrap();
    assert_eq!(verified.problems, Vec::<String>::new());
    assert!(verified.blocks > 5, "{} blocks", verified.blocks);
}
