//! Directories of other programs' formats: refused with both numbers and the next step, and left as they are.

use std::collections::BTreeMap;
use std::path::Path;

use converge_ledger_core::checksum::Checksum;
use redb::{ReadableDatabase as _, TableDefinition};

use super::support::{Leader, RunningStorage, newer, outdated, small, write};

#[test]
fn a_journal_of_a_newer_program_is_refused_and_left_alone() {
    newer::records_and_headers_of_a_newer_program_are_not_the_end();
}

#[test]
fn apply_stops_at_a_newer_entry_and_a_newer_program_goes_on() {
    outdated::apply_stops_at_a_newer_entry();
    outdated::a_newer_program_goes_on();
}

async fn filled(dir: &Path) {
    let node = RunningStorage::start(small(dir)).await;
    Leader::new().write(&node, &[write("c", "k", b"kept")]).await;
    node.stop().await;
}

/// All that is in the directory, but for the file that says that it is in use.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = [dir.to_owned(), dir.join("log")].map(|dir| std::fs::read_dir(dir).unwrap());
    let paths = files.into_iter().flatten().map(|file| file.unwrap().path()).filter(|path| path.is_file());
    let named =
        paths.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap()));
    named.filter(|(name, _)| name != "LOCK").collect()
}

async fn refusal(dir: &Path) -> String {
    let before = content(dir);
    let refused = RunningStorage::try_start(small(dir)).await.err().expect("is refused").to_string();
    assert!(content(dir) == before, "something was changed: {refused}");
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_format_is_told_by_its_marker() {
    const MAGIC: usize = 8;
    const COVERED: usize = MAGIC + 4;
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let marker = dir.path().join("STORE");
    let own = std::fs::read(&marker).unwrap();
    for (format, is_sound, words) in [
        (1, true, ["OLDER_FORMAT", "format 1,", "snapshot"]),
        (9, true, ["NEWER_FORMAT", "format 9,", "reads up to 5"]),
        (9, false, ["STORE", "is damaged", "replace this node"]),
        (4, true, ["OLDER_FORMAT", "format 4,", "snapshot"]),
        (5, false, ["STORE", "is damaged", "replace this node"]),
    ] {
        let mut bytes = own.clone();
        bytes[MAGIC] = format;
        let crc = bytes.len() - 4;
        let sum = Checksum::new().with(&bytes[..COVERED]).with(&bytes[COVERED..crc]).to_bytes();
        bytes[crc..].copy_from_slice(&sum);
        bytes[crc] ^= u8::from(!is_sound);
        std::fs::write(&marker, bytes).unwrap();
        let refused = refusal(dir.path()).await;
        assert!(words.iter().all(|word| refused.contains(word)), "{words:?}: {refused}");
    }
    std::fs::write(&marker, own).unwrap();
    RunningStorage::start(small(dir.path())).await.stop().await;
}

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// Gives a row of the database another content and the checksum that belongs to it.
fn rewrite(dir: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let db = redb::Database::open(dir.join("ledger.redb")).unwrap();
    let row = db.begin_read().unwrap().open_table(META).unwrap().get(name).unwrap();
    let mut value = row.map_or_else(|| vec![1, 0, 0, 0, 0], |row| row.value().to_vec());
    value.truncate(value.len() - 4);
    change(&mut value);
    let sum = Checksum::new().with(name.as_bytes()).with(&value).to_bytes();
    value.extend_from_slice(&sum);
    let txn = db.begin_write().unwrap();
    txn.open_table(META).unwrap().insert(name, &value[..]).unwrap();
    txn.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_program_is_refused_and_nothing_of_it_is_lost() {
    let newer_row: fn(&mut Vec<u8>) = |value| value[0] = 2;
    // The format of the index is the first number of the state's row.
    let newer_index: fn(&mut Vec<u8>) = |value| {
        value[1] = 99;
        value.extend_from_slice(b"more than this program knows of");
    };
    // The second is the state's level.
    let newer_level: fn(&mut Vec<u8>) = |value| value[2] = 2;
    for (name, change, words) in [
        ("progress", newer_row, ["NEWER_FORMAT", "progress", "reads up to 1"]),
        ("state", newer_row, ["NEWER_FORMAT", "state", "format 2,"]),
        ("a name of tomorrow", newer_row, ["NEWER_FORMAT", "a name of tomorrow", "format 2,"]),
        ("state", newer_level, ["NEWER_FORMAT", "by its level", "format 2,"]),
        ("state", newer_index, ["NEWER_FORMAT", "index", "format 99,"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        rewrite(dir.path(), name, change);
        let error = RunningStorage::try_start(small(dir.path())).await.err();
        let refused = error.unwrap_or_else(|| panic!("{name} was taken")).to_string();
        assert!(words.iter().all(|word| refused.contains(word)), "{words:?}: {refused}");
    }
}
