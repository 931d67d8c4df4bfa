//! Bytes of a disk, see [`crate::fuzzing`].

use std::sync::Arc;

use bytes::Bytes;
use converge_ledger_core::checksum::Checksum;
use converge_ledger_core::testing::Memory;
use converge_ledger_core::{
    Boot, ContextNo, FenceEpoch, Head, KeyRow, Lamport, LogIndex, Lsn, NodeId, Position, Sequence, StoreId, Term,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::database::tables::{self, StateRow};
use super::database::{buckets, keys, names};
use super::journal::in_memory::InMemory;
use super::journal::record::{self, BLOCK, Builder, FIRST_RECORD, FileHeader, Op, RECORD_HEADER, RecordHead};
use super::journal::ring::JournalFile;
use super::journal::scan;
use super::journal::sectors::{self, unsealed};
use super::types::{EntryKind, Genesis, HardState, LogEntry};
use crate::fuzzing::Input;
use crate::fuzzing::sample::{Seed, batch, genesis};

const SALT: u64 = 0x5a17;
const FILE_BYTES: u64 = 16 * BLOCK;
const HEADER: FileHeader = FileHeader { store_id: StoreId([1; 16]), generation: 1, salt: SALT, bytes: FILE_BYTES };
/// Where a record has its number.
const LSN_AT: usize = 24;
/// Besides the four bytes of its checksum.
const FILE_HEADER_CONTENT: usize = 48;

/// The journal: a file's header (as it is, or with its checksum put right), a record (as it is, and sealed), a record's
/// body, or a whole file of records with some bytes changed.
pub fn journal(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    match input.below(5) {
        0 => file_header(input.rest()),
        1 => {
            let mut content = input.slice(FILE_HEADER_CONTENT).to_vec();
            content.extend(crc32c::crc32c(&content).to_le_bytes());
            file_header(&content)
        }
        2 => {
            let bytes = input.rest();
            let head = RecordHead::parse(bytes, SALT, FIRST_RECORD);
            head.is_some_and(|head| head.vouches_for(&bytes[RECORD_HEADER..])) | sealed_anyhow(bytes)
        }
        3 => body(input.rest()),
        _ => file(&mut input),
    }
}

fn file_header(bytes: &[u8]) -> bool {
    let Some(header) = FileHeader::decode(bytes) else { return false };
    assert_eq!(FileHeader::decode(&header.encode()), Some(header), "a file's header reads back as another");
    true
}

fn sealed(ops: &[Op], offset: u64, lsn: Lsn) -> Vec<u8> {
    let mut builder = Builder::default();
    builder.begin();
    ops.iter().for_each(|op| builder.put(op));
    builder.seal(&HEADER, offset, lsn).to_vec()
}

/// Any bytes in sound sectors, of the record that they say they are.
fn sealed_anyhow(bytes: &[u8]) -> bool {
    let lsn =
        bytes.get(LSN_AT..).and_then(|bytes| bytes.first_chunk()).map_or(Lsn(1), |lsn| Lsn(u64::from_le_bytes(*lsn)));
    let mut content = vec![0; usize::try_from(FILE_BYTES).expect("small")];
    let space = &mut content[usize::try_from(FIRST_RECORD).expect("small")..];
    let length = usize::try_from(sectors::sealed_len(bytes.len() as u64)).unwrap_or(usize::MAX).min(space.len());
    sectors::seal(bytes, HEADER.store_id, FIRST_RECORD, lsn, &mut space[..length]);
    let file = JournalFile { slot: 1, file: Arc::new(InMemory(content)), header: HEADER };
    scan::scan(vec![file], Lsn(lsn.get().saturating_sub(1))).is_ok_and(|journal| journal.last == lsn)
}

fn body(bytes: &[u8]) -> bool {
    let Some(ops) = record::decode_ops(Bytes::copy_from_slice(bytes)) else { return false };
    let record = unsealed(&sealed(&ops, FIRST_RECORD, Lsn(1)));
    let head = RecordHead::parse(&record, SALT, FIRST_RECORD).expect("a record of ours has a head");
    let again = &record[RECORD_HEADER..][..head.length as usize];
    assert!(head.vouches_for(again), "a record of ours fails its checksum");
    assert!(again.len() <= bytes.len(), "our own form of a record is longer than what was read");
    assert_eq!(record::decode_ops(Bytes::copy_from_slice(again)), Some(ops.clone()), "a record reads back as another");
    if !ops.iter().any(|op| matches!(op, Op::Genesis(_))) {
        assert_eq!(again, bytes, "a record is written in one way only");
    }
    true
}

/// Records of a block each. Whatever is damaged: the records that were written there, or an error.
fn file(input: &mut Input<'_>) -> bool {
    let mut content = vec![0; usize::try_from(FILE_BYTES).expect("small")];
    let mut written = Vec::new();
    let mut at = FIRST_RECORD;
    while at + 2 * BLOCK <= FILE_BYTES && !input.is_empty() && input.flag() {
        let length = input.below(64);
        let data = Bytes::copy_from_slice(input.slice(length));
        let index = LogIndex(written.len() as u64 + 1);
        let ops = vec![Op::Entries(vec![LogEntry { index, term: Term(1), kind: EntryKind::Normal, data }])];
        let record = sealed(&ops, at, Lsn(index.get()));
        content[usize::try_from(at).expect("small")..][..record.len()].copy_from_slice(&record);
        at += record.len() as u64;
        written.push(ops);
    }
    let sound = content.clone();
    for _ in 0..input.below(4) {
        let place = usize::from(input.byte()) << 8 | usize::from(input.byte());
        content[place % usize::try_from(at).expect("small")] ^= input.byte();
    }
    let is_damaged = content != sound;
    let file = JournalFile { slot: 1, file: Arc::new(InMemory(content)), header: HEADER };
    let Ok(journal) = scan::scan(vec![file], Lsn(0)) else {
        assert!(is_damaged, "a sound journal is refused");
        return true;
    };
    let found = journal.files.iter().flat_map(|scanned| scanned.records.iter().map(|place| (&scanned.file, *place)));
    let found: Vec<_> =
        found.map(|(file, place)| scan::read(file, place).expect("a record that a scan found")).collect();
    assert_eq!(found, written, "a damaged record vanished, or is another");
    true
}

/// Of the buckets that are made here.
const SCOPE: buckets::Scope = buckets::Scope([3; 16]);

/// A row of a table of the database: as it is, or with the right checksum.
pub fn table_row(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (table, right) = (input.below(13), input.flag());
    let (context, first) = (1u64, 2u64);
    let numbers = [context.to_le_bytes(), first.to_le_bytes()].concat();
    let mut row = |key: &[u8]| {
        let mut bytes = if right { vec![1] } else { Vec::new() };
        bytes.extend_from_slice(input.rest());
        if right {
            let checksum = Checksum::new().with(key).with(&bytes).to_bytes();
            bytes.extend_from_slice(&checksum);
        }
        bytes
    };
    match table {
        0 => meta::<tables::Progress>(tables::META_PROGRESS, row),
        1 => meta::<tables::Identity>(tables::META_IDENTITY, row),
        2 => meta::<Genesis>(tables::META_GENESIS, row),
        3 => meta::<StateRow>(tables::META_STATE, row),
        4 => meta::<tables::RowCounts>(tables::META_COUNTS, row),
        5 => again(&row(b"name"), |row| tables::head_from("name", row), |head| tables::head_value("name", head)),
        6 => {
            let read = |row: &[u8]| key_bucket(first, row);
            again(&row(&SCOPE.key(first)), read, |rows| buckets::bucket_value(&SCOPE, first, rows))
        }
        7 => {
            let read = |row: &[u8]| {
                let block = tables::block_from(context, first, row)?;
                let rows: u64 = block.runs(first).map(|(_, run)| run.entries()).sum();
                assert_eq!(rows, block.entries(), "a block counts others than it has");
                Ok(block)
            };
            again(&row(&numbers), read, |block| tables::block_value(context, first, block))
        }
        8 => {
            let read = |row: &[u8]| tables::spans_from(first, row).inspect(|spans| _ = spans.entries());
            again(&row(&first.to_le_bytes()), read, |spans| tables::spans_value(first, spans))
        }
        9 => {
            let read =
                |row: &[u8]| buckets::bucket_from::<{ names::NAME_BYTES }>(&SCOPE, first, row).map(<[_]>::to_vec);
            again(&row(&SCOPE.key(first)), read, |rows| buckets::bucket_value(&SCOPE, first, rows))
        }
        10 => log_row(&mut input, right),
        11 => log_entry(&mut input),
        _ => {
            let read = |row: &[u8]| tables::place_from(LogIndex(first), row);
            again(&row(&first.to_le_bytes()), read, |place| tables::place_value(LogIndex(first), place))
        }
    }
}

/// The rows of a bucket of keys, each of which is written as it was read.
fn key_bucket(number: u64, row: &[u8]) -> Result<Vec<[u8; keys::KEY_BYTES]>, String> {
    let rows = buckets::bucket_from(&SCOPE, number, row)?.to_vec();
    for row in &rows {
        let print = row.first_chunk().expect("a row begins with its print");
        assert_eq!(keys::row_of(print, &keys::key_of(row)), *row, "a row of a key reads back as another");
    }
    Ok(rows)
}

fn meta<T: DeserializeOwned + Serialize>(name: &str, mut row: impl FnMut(&[u8]) -> Vec<u8>) -> bool {
    let row = row(name.as_bytes());
    again(&row, |row| tables::meta_from::<T>(name, row), |value| tables::meta_value(name, value))
}

/// What is read is written as no more bytes, and those read and written again are the same.
fn again<T>(row: &[u8], read: impl Fn(&[u8]) -> Result<T, String>, write: impl Fn(&T) -> Vec<u8>) -> bool {
    let Ok(value) = read(row) else { return false };
    let ours = write(&value);
    assert!(ours.len() <= row.len(), "our own form of a row is longer than what was read");
    let same = read(&ours).expect("a row of ours can be read");
    assert_eq!(write(&same), ours, "a row reads back as another");
    true
}

/// Row 0 of a log entry with a stranger's prefix.
fn log_row(input: &mut Input<'_>, right: bool) -> bool {
    let index = LogIndex(300);
    let head = input.below(20);
    let mut bytes = input.slice(head).to_vec();
    let data = Bytes::copy_from_slice(input.rest());
    if right {
        bytes.extend(crc32c::crc32c(&data).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&index.get().to_le_bytes()), &bytes);
        bytes.extend(checksum.to_le_bytes());
    }
    bytes.extend_from_slice(&data);
    let Ok((prefix, at)) = tables::parse_row0(index, &bytes) else { return false };
    let row = Bytes::copy_from_slice(&bytes[at..]);
    let Ok(entry) = tables::join(index, &prefix, std::slice::from_ref(&row)) else { return false };
    assert_eq!((entry.index, entry.term, entry.kind, entry.data), (index, prefix.term, prefix.kind, row));
    true
}

/// A log entry of any bytes goes into rows and comes back.
fn log_entry(input: &mut Input<'_>) -> bool {
    let kind = record::kind_of(input.byte()).unwrap_or(EntryKind::Normal);
    let (index, term) = (LogIndex(input.number()), Term(input.number()));
    let entry = LogEntry { index, term, kind, data: Bytes::copy_from_slice(input.rest()) };
    let tables::LogRows { prefix, rows } = tables::log_rows(&entry);
    let row0 = [&prefix[..], &rows[0]].concat();
    let (head, at) = tables::parse_row0(index, &row0).expect("a row of ours has a prefix");
    assert_eq!((at, head.rows as usize), (prefix.len(), rows.len()));
    assert_eq!(tables::join(index, &head, &rows), Ok(entry), "a log entry comes back as another");
    true
}

/// Sound rows, records and files.
pub(crate) fn seeds() -> Vec<Seed> {
    let entry = |index, data: Bytes| LogEntry { index, term: Term(3), kind: EntryKind::Normal, data };
    let ops = [
        Op::HardState(HardState { term: Term(3), vote: NodeId(2), commit: LogIndex(7) }),
        Op::Entries(vec![entry(LogIndex(8), batch().encode()), entry(LogIndex(9), Bytes::new())]),
        Op::Genesis(genesis()),
        Op::Boot(Boot(4)),
    ];
    let record = unsealed(&sealed(&ops, FIRST_RECORD, Lsn(5)));
    let head = RecordHead::parse(&record, SALT, FIRST_RECORD).expect("a record of ours has a head");
    let record = &record[..RECORD_HEADER + head.length as usize];
    let journal = |name: &str, mode: u8, bytes: &[u8]| Seed::new("journal", name, &[&[mode], bytes]);
    let mut seeds = vec![
        journal("file_header", 0, &HEADER.encode()[..FILE_HEADER_CONTENT + 4]),
        journal("file_header_sealed", 1, &HEADER.encode()[..FILE_HEADER_CONTENT]),
        journal("record", 2, record),
        journal("body", 3, &record[RECORD_HEADER..]),
        journal("file_sound", 4, b"\x01\x03one\x01\x03two\x01\x05three\x00\x00"),
        journal("file_last_damaged", 4, b"\x01\x03one\x01\x03two\x00\x01\x30\x01\x01"),
        journal("file_first_damaged", 4, b"\x01\x03one\x01\x03two\x00\x01\x20\x01\x01"),
    ];
    seeds.extend(rows(&entry(LogIndex(300), batch().encode())));
    seeds
}

fn rows(entry: &LogEntry) -> Vec<Seed> {
    let (no, first) = (ContextNo(1), 2);
    let run = |rows| tables::EntryRun { position: Position(9), index: LogIndex(4), row: 0, rows };
    let each = run(tables::RunLayout::Each { lead: -1, checks: vec![[1, 2, 3, 4]; 3] });
    let chunk = run(tables::RunLayout::Chunk { count: 5, tag: [6; 8] });
    let span = |chunk| tables::Span { index: LogIndex(4), row: 0, count: 3, chunk };
    let head =
        Head { number: no, latest: Sequence(3), lamport: Lamport(4), chain: [5; 32], fence_epoch: FenceEpoch(0) };
    let fenced = Head { fence_epoch: FenceEpoch(300), ..head };
    let content = [6; 32];
    let key = KeyRow { sequence: Sequence(3), position: Position(9), lamport: Lamport(4), content };
    let mut memory = Memory::new();
    memory.apply(Some(batch()));
    let state = StateRow { format: tables::INDEX_FORMAT, state: memory.state };
    let values = [
        ("progress", tables::meta_value(tables::META_PROGRESS, &tables::Progress::default())),
        ("identity", tables::meta_value(tables::META_IDENTITY, &tables::Identity { store_id: StoreId([1; 16]) })),
        ("genesis", tables::meta_value(tables::META_GENESIS, &genesis())),
        ("state", tables::meta_value(tables::META_STATE, &state)),
        ("counts", tables::meta_value(tables::META_COUNTS, &tables::RowCounts::default())),
        ("head", tables::head_value("name", &head)),
        ("keys", buckets::bucket_value(&SCOPE, first, &[keys::row_of(&[7; 16], &key), keys::row_of(&[8; 16], &key)])),
        ("block", tables::block_value(no.get(), first, &tables::IndexBlock(vec![each, chunk]))),
        ("spans", tables::spans_value(first, &tables::Spans(vec![span(false), span(true)]))),
        ("names", buckets::bucket_value(&SCOPE, first, &[[7; names::NAME_BYTES], [8; names::NAME_BYTES]])),
    ];
    let mut seeds = vec![Seed::new("table_row", "fenced_head", &[&[5, 0], &tables::head_value("name", &fenced)])];
    for (table, (name, value)) in (0u8..).zip(&values) {
        seeds.push(Seed::new("table_row", *name, &[&[table, 0], value]));
        let content = &value[1..value.len() - 4];
        seeds.push(Seed::new("table_row", format!("{name}_sealed"), &[&[table, 1], content]));
    }
    let tables::LogRows { prefix, .. } =
        tables::log_rows(&LogEntry { data: Bytes::from_static(b"x"), ..entry.clone() });
    let numbers = u8::try_from(prefix.len() - 8).expect("a prefix is short");
    seeds.push(Seed::new("table_row", "log_row", &[&[10, 0, 0], &prefix, b"x"]));
    seeds.push(Seed::new("table_row", "log_row_sealed", &[&[10, 1, numbers], &prefix[..prefix.len() - 8], b"x"]));
    seeds.push(Seed::new("table_row", "log_entry", &[&[11, 0, 0, 9, 3], &entry.data]));
    seeds
}
