//! Reading the journal at start-up, and telling the end of it from damage (S5).
//!
//! At most the very last record can be torn, for none is written before the one in front of it is durable. What a torn
//! write leaves is whole sectors, each as it was or as it was to be ([`sectors`](super::sectors)). So a sector of a record
//! that is neither was durable once, and rots; and anything that only a later record leaves says that this one is missing.

use std::io;

use bytes::Bytes;
use converge_ledger_core::Lsn;
use converge_ledger_core::planted::{self, Bug};

use super::record::{BLOCK, FIRST_RECORD, Op, RECORD_HEADER, RecordHead, VERSION, decode_ops};
use super::ring::{JournalFile, file_name};
use super::sectors::{PAYLOAD, SECTOR, Sector, claimed_lsn, judge};
use crate::storage::error::Cause;
use crate::storage::failure::{Failure, newer};

/// Read ahead when looking for what a later record left.
const PROBE_BYTES: usize = 1 << 20;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) lsn: Lsn,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    /// What it takes in the file.
    pub(crate) bytes: u64,
}

/// A file and the records in it.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) file: JournalFile,
    pub(crate) records: Vec<RecordPlace>,
    /// Where the next record goes.
    pub(crate) end: u64,
    /// The sector because of which what is there is damage, and no end.
    pub(crate) unsound: Option<u64>,
}

/// The last record, damaged: nothing that follows it is anywhere.
#[derive(Debug)]
pub(crate) struct Damage {
    pub(crate) file: JournalFile,
    pub(crate) lsn: Lsn,
    pub(crate) offset: u64,
    /// The first sector of it that is unsound.
    pub(crate) sector: u64,
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

/// Scans all files and checks that together they hold an unbroken run of sound records that joins what the database
/// covers.
pub(crate) fn scan(files: Vec<JournalFile>, covered: Lsn) -> Result<Journal, ScanError> {
    let (journal, damage) = survey(files, covered)?;
    match damage {
        None => Ok(journal),
        Some(Damage { file, lsn, sector, .. }) => Err(ScanError::DataLoss(format!(
            "record {lsn} of {}, the last one, is damaged at offset {sector}: replace this node; where it is a node \
             alone, `converge-ledger inspect cut-tail` says what may be lost without the record, and can go on",
            file_name(file.slot)
        ))),
    }
}

/// Likewise, but a last record that is damaged is told apart.
pub(crate) fn survey(files: Vec<JournalFile>, covered: Lsn) -> Result<(Journal, Option<Damage>), ScanError> {
    let mut scanned = files.into_iter().map(scan_file).collect::<Result<Vec<_>, _>>()?;
    scanned.sort_by_key(|s| s.file.header.generation);
    let mut last: Option<Lsn> = None;
    let mut damage = None;
    for Scanned { file, records, end, unsound } in &scanned {
        if let Some(first) = records.first() {
            joins(file, first.lsn, last, covered)?;
            // What is due is here: nothing was lost where the file before ends.
            damage = None;
        }
        for (before, place) in records.iter().zip(records.iter().skip(1)) {
            joins(file, place.lsn, Some(before.lsn), covered)?;
        }
        last = records.last().map(|place| place.lsn).or(last);
        let due = last.unwrap_or(covered).next();
        if let Some((lsn, offset)) = beyond(file, *end, due)?.filter(|_| !planted::is(Bug::GapTaken)) {
            return Err(ScanError::DataLoss(format!(
                "{} is broken at offset {end}, where record {due} is due: record {lsn} is at offset {offset}",
                file_name(file.slot)
            )));
        }
        if let (Some(sector), None) = (*unsound, &damage) {
            damage = Some(Damage { file: file.clone(), lsn: due, offset: *end, sector });
        }
    }
    // A record that is damaged may be the one that the database ends with.
    let damaged = damage.as_ref().map(|damage| damage.lsn);
    let reached = damaged.or(last).unwrap_or_default();
    if reached < covered {
        return Err(ScanError::DataLoss(format!(
            "the journal ends at record {reached}, the database is at {covered}: \
             a journal file is missing or an older copy"
        )));
    }
    Ok((Journal { files: scanned, last: last.unwrap_or_default() }, damage))
}

/// Whether a record is the one that is due.
fn joins(file: &JournalFile, lsn: Lsn, last: Option<Lsn>, covered: Lsn) -> Result<(), ScanError> {
    let name = file_name(file.slot);
    match last.map(Lsn::next) {
        Some(due) if due != lsn => {
            Err(ScanError::DataLoss(format!("{name} goes on with record {lsn} where {due} is due")))
        }
        None if lsn > covered.next() => Err(ScanError::DataLoss(format!(
            "the journal starts at record {lsn} in {name}, the database ends at {covered}"
        ))),
        _ => Ok(()),
    }
}

/// All records of a file, up to the first place where none is.
pub(crate) fn scan_file(file: JournalFile) -> Result<Scanned, ScanError> {
    let (mut records, mut at) = (Vec::new(), FIRST_RECORD);
    let unsound = loop {
        match look(&file, at)? {
            AtPlace::Record(place, _) => {
                at += place.bytes;
                records.push(place);
            }
            AtPlace::Nothing => break None,
            AtPlace::Damage { .. } if planted::is(Bug::GapTaken) || planted::is(Bug::RotTakenForTorn) => break None,
            AtPlace::Damage { sector } => break Some(sector),
        }
    };
    Ok(Scanned { file, records, end: at, unsound })
}

/// What is at the place of a record.
enum AtPlace {
    /// A sound one of this life of the file, and its body.
    Record(RecordPlace, Bytes),
    /// None that was ever durable.
    Nothing,
    /// One that was: a sector of it is not what was written.
    Damage { sector: u64 },
}

fn look(file: &JournalFile, offset: u64) -> Result<AtPlace, ScanError> {
    if offset + BLOCK > file.header.bytes {
        return Ok(AtPlace::Nothing);
    }
    let mut bytes = vec![0; usize::try_from(BLOCK).expect("small")];
    match file.file.read_at(offset, &mut bytes) {
        Err(_) if planted::is(Bug::ReadEndsJournal) => return Ok(AtPlace::Nothing),
        read => read?,
    }
    let head = match judge(&bytes[..SECTOR], file.header.store_id, offset) {
        Sector::Unsound => return Ok(AtPlace::Damage { sector: offset }),
        // A record without its beginning was never durable.
        Sector::Zero => None,
        Sector::Sealed { lsn, payload } => {
            RecordHead::parse(payload, file.header.salt, offset).filter(|head| head.lsn == lsn)
        }
    };
    match head {
        None => Ok(AtPlace::Nothing),
        Some(head) if offset + head.sealed_len() > file.header.bytes => Ok(AtPlace::Damage { sector: offset }),
        Some(head) => {
            let first = bytes.len();
            bytes.resize(usize::try_from(head.sealed_len()).expect("part of a file"), 0);
            file.file.read_at(offset + BLOCK, &mut bytes[first..])?;
            judged(file, offset, &head, &bytes)
        }
    }
}

/// What all sectors of a record come to. Where one of them is damaged, the record was durable: a torn write leaves none.
fn judged(file: &JournalFile, offset: u64, head: &RecordHead, bytes: &[u8]) -> Result<AtPlace, ScanError> {
    let mut record = Vec::with_capacity(bytes.len());
    let mut is_whole = true;
    for (sector, at) in bytes.chunks_exact(SECTOR).zip((offset..).step_by(SECTOR)) {
        match judge(sector, file.header.store_id, at) {
            Sector::Unsound => return Ok(AtPlace::Damage { sector: at }),
            Sector::Zero => {
                is_whole = false;
                record.resize(record.len() + PAYLOAD, 0);
            }
            Sector::Sealed { lsn, payload } => {
                is_whole &= lsn == head.lsn;
                record.extend_from_slice(payload);
            }
        }
    }
    let body = Bytes::from(record).slice(RECORD_HEADER..RECORD_HEADER + head.length as usize);
    let &RecordHead { version, lsn, length, .. } = head;
    match (is_whole && head.vouches_for(&body)) || planted::is(Bug::TornTaken) {
        false => Ok(AtPlace::Nothing),
        true if version == VERSION => {
            Ok(AtPlace::Record(RecordPlace { lsn, offset, length, bytes: bytes.len() as u64 }, body))
        }
        true if planted::is(Bug::NewerIsEnd) => Ok(AtPlace::Nothing),
        true => Err(ScanError::Newer { what: format!("record {lsn} of {}", file_name(file.slot)), version }),
    }
}

/// What is behind the last record of a file, and could not be if the one that is due there had never been durable: a
/// sector of a later record, in whichever life it was written, or the beginning of any record of this life. Says of which
/// record, and where.
fn beyond(file: &JournalFile, end: u64, due: Lsn) -> Result<Option<(Lsn, u64)>, ScanError> {
    let mut at = end;
    let mut chunk = vec![0; PROBE_BYTES];
    while at + BLOCK <= file.header.bytes {
        let step = usize::try_from(file.header.bytes - at).map_or(PROBE_BYTES, |n| n.min(PROBE_BYTES));
        file.file.read_at(at, &mut chunk[..step])?;
        for (sector, offset) in chunk[..step].chunks_exact(SECTOR).zip((at..).step_by(SECTOR)) {
            let begins = offset > end && offset % BLOCK == 0;
            // Few are looked at as a whole: what is there is zero, or older.
            if claimed_lsn(sector) <= due && !begins {
                continue;
            }
            let Sector::Sealed { lsn, payload } = judge(sector, file.header.store_id, offset) else { continue };
            if lsn > due || (begins && RecordHead::parse(payload, file.header.salt, offset).is_some()) {
                return Ok(Some((lsn, offset)));
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
    // With its seals, as it is.
    let mut sealed = vec![0; usize::try_from(place.bytes).expect("records are bounded")];
    file.read_at(place.offset, &mut sealed)?;
    file.write_at(place.offset, &sealed)?;
    file.sync_data()
}

/// The operations of a record that [`scan`] found.
pub(crate) fn read(file: &JournalFile, place: RecordPlace) -> Result<Vec<Op>, ScanError> {
    let ops = match look(file, place.offset)? {
        AtPlace::Record(found, body) if found == place => decode_ops(body),
        _ => None,
    };
    let damaged = || ScanError::DataLoss(format!("record {} of {} cannot be read", place.lsn, file_name(file.slot)));
    ops.ok_or_else(damaged)
}

#[cfg(test)]
mod tests;
