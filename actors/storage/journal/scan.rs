//! Reading the journal at start-up, and telling the end of it from damage (S5).
//!
//! At most the very last record can be torn, for none is written before the one in front of it is
//! durable. So anything sound behind something unsound is damage, not the end: it says that
//! records are missing. What one node alone cannot tell is a flipped bit in the very last record
//! from a torn write; there, the rest of the majority is what protects.

use std::io;

use bytes::Bytes;
use converge_ledger_core::Lsn;
use converge_ledger_core::planted::{self, Bug};

use super::record::{BLOCK, FIRST_RECORD, Op, RECORD_HEADER, RecordHead, VERSION, decode_ops, padded};
use super::ring::{JournalFile, file_name};
use crate::storage::error::Cause;
use crate::storage::failure::{Failure, newer};

/// Read ahead when looking for records behind a gap.
const PROBE_BYTES: usize = 1 << 20;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) lsn: Lsn,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// A file and the records in it.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) file: JournalFile,
    pub(crate) records: Vec<RecordPlace>,
    /// Where the next record goes.
    pub(crate) end: u64,
}

/// Why a scan did not come to its end.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    DataLoss(String),
    /// A sound record of a newer program.
    Newer {
        what: String,
        version: u16,
    },
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        ScanError::Io(error)
    }
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Io(error) => Failure::Fence(Cause::of("reading the journal", &error)),
            ScanError::DataLoss(what) => Failure::Fence(Cause::DataLoss { what }),
            ScanError::Newer { what, version } => newer(what, version, VERSION),
        }
    }
}

/// The whole journal, in the order in which it was written.
#[derive(Debug)]
pub(crate) struct Journal {
    /// By generation.
    pub(crate) files: Vec<Scanned>,
    /// The last record; 0 without any.
    pub(crate) last: Lsn,
}

/// Scans all files and checks that together they hold an unbroken run of records that joins what
/// the database covers.
pub(crate) fn scan(files: Vec<JournalFile>, covered: Lsn) -> Result<Journal, ScanError> {
    let mut scanned = files.into_iter().map(scan_file).collect::<Result<Vec<_>, _>>()?;
    scanned.sort_by_key(|s| s.file.header.generation);
    let mut last: Option<Lsn> = None;
    for (place, name) in scanned.iter().flat_map(|s| s.records.iter().map(|r| (r, file_name(s.file.slot)))) {
        let expected = last.map(Lsn::next);
        if expected.is_some_and(|expected| expected != place.lsn) {
            return Err(ScanError::DataLoss(format!(
                "{name} goes on with record {} where {} is due",
                place.lsn,
                expected.unwrap_or_default()
            )));
        }
        if expected.is_none() && place.lsn > covered.next() {
            return Err(ScanError::DataLoss(format!(
                "the journal starts at record {} in {name}, the database ends at {covered}",
                place.lsn
            )));
        }
        last = Some(place.lsn);
    }
    let last = last.unwrap_or_default();
    if last < covered {
        return Err(ScanError::DataLoss(format!(
            "the journal ends at record {last}, the database is at {covered}: \
             a journal file is missing or an older copy"
        )));
    }
    Ok(Journal { files: scanned, last })
}

pub(crate) fn scan_file(file: JournalFile) -> Result<Scanned, ScanError> {
    let mut records = Vec::new();
    let mut at = FIRST_RECORD;
    while let Some(place) = record_at(&file, at)? {
        at += padded(RECORD_HEADER as u64 + u64::from(place.length));
        records.push(place);
    }
    if let Some(beyond) = record_beyond(&file, at)?.filter(|_| !planted::is(Bug::GapTaken)) {
        return Err(ScanError::DataLoss(format!(
            "{} is broken at offset {at}, record {} follows at offset {}",
            file_name(file.slot),
            beyond.lsn,
            beyond.offset
        )));
    }
    Ok(Scanned { file, records, end: at })
}

fn record_at(file: &JournalFile, offset: u64) -> Result<Option<RecordPlace>, ScanError> {
    if offset + BLOCK > file.header.bytes {
        return Ok(None);
    }
    let mut head = [0; RECORD_HEADER];
    match file.file.read_at(offset, &mut head) {
        Err(_) if planted::is(Bug::ReadEndsJournal) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(()) => checked(file, offset, &head),
    }
}

/// The record at an offset if its head is one and its body is sound.
fn checked(file: &JournalFile, offset: u64, head: &[u8]) -> Result<Option<RecordPlace>, ScanError> {
    let Some(head) = RecordHead::parse(head, file.header.salt, offset) else {
        return Ok(None);
    };
    if offset + RECORD_HEADER as u64 + u64::from(head.length) > file.header.bytes {
        return Ok(None);
    }
    let mut body = vec![0; head.length as usize];
    file.file.read_at(offset + RECORD_HEADER as u64, &mut body)?;
    let RecordHead { version, lsn, length, .. } = head;
    match head.vouches_for(&body) {
        false => Ok(None),
        true if version == VERSION => Ok(Some(RecordPlace { lsn, offset, length })),
        true if planted::is(Bug::NewerIsEnd) => Ok(None),
        true => Err(ScanError::Newer { what: format!("record {lsn} of {}", file_name(file.slot)), version }),
    }
}

fn record_beyond(file: &JournalFile, gap: u64) -> Result<Option<RecordPlace>, ScanError> {
    let mut at = gap;
    let block = usize::try_from(BLOCK).expect("small");
    let mut chunk = vec![0; PROBE_BYTES];
    while at + BLOCK <= file.header.bytes {
        let step = usize::try_from(file.header.bytes - at).map_or(PROBE_BYTES, |n| n.min(PROBE_BYTES));
        file.file.read_at(at, &mut chunk[..step])?;
        for (n, head) in chunk[..step].chunks_exact(block).enumerate() {
            let offset = at + n as u64 * BLOCK;
            if let Some(place) = checked(file, offset, head)? {
                return Ok(Some(place));
            }
        }
        at += step as u64;
    }
    Ok(None)
}

/// Makes the last record durable, before anything follows from it. A process in front of this one
/// may have been killed before its sync, or have failed to sync: then the page cache shows a record
/// of which the disk has any part, and only what is written again is sure to reach the disk.
pub(crate) fn make_durable(journal: &Journal) -> io::Result<()> {
    let last = journal.files.iter().rev().find_map(|s| s.records.last().map(|place| (&s.file.file, place)));
    let Some((file, place)) = last else {
        return Ok(());
    };
    let mut record = vec![0; RECORD_HEADER + place.length as usize];
    file.read_at(place.offset, &mut record)?;
    file.write_at(place.offset, &record)?;
    file.sync_data()
}

/// The operations of a record that [`scan`] found.
pub(crate) fn read(file: &JournalFile, place: RecordPlace) -> Result<Vec<Op>, ScanError> {
    let mut head = [0; RECORD_HEADER];
    file.file.read_at(place.offset, &mut head)?;
    let mut body = vec![0; place.length as usize];
    file.file.read_at(place.offset + RECORD_HEADER as u64, &mut body)?;
    let damaged = || ScanError::DataLoss(format!("record {} of {} cannot be read", place.lsn, file_name(file.slot)));
    let head = RecordHead::parse(&head, file.header.salt, place.offset).ok_or_else(damaged)?;
    if !head.vouches_for(&body) {
        return Err(damaged());
    }
    decode_ops(Bytes::from(body)).ok_or_else(damaged)
}
