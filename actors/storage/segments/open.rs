//! The segments at a start: held against what the database says of them, then cut to that.

use std::io;
use std::sync::Arc;

use converge_ledger_core::LogIndex;
use converge_ledger_core::planted::{self, Bug};

use super::format::{HEADER_BYTES, PIECE_HEAD, SegmentHeader, TrailerRow, chain_hash, newer_version, piece_head};
use super::reader::read_block;
use super::writer::SegmentWriter;
use super::{BlockPlace, SegmentError, SegmentsEnd, folder, name, number_of, path};
use crate::storage::disk::File;
use crate::storage::settings::Settings;

/// What was found, before anything is written.
pub(crate) struct FoundSegments {
    writer: SegmentWriter,
    /// Files that the database does not know of.
    beyond: Vec<u64>,
    /// Bytes of the open file.
    len: u64,
}

/// Looks at what there is. `blocks` are those of the open file.
///
/// # Errors
/// Something is missing, damaged, or of a newer program. Nothing was written.
pub(crate) fn find(
    settings: &Settings,
    end: SegmentsEnd,
    blocks: &[(LogIndex, BlockPlace)],
) -> Result<FoundSegments, SegmentError> {
    let numbers = numbers(settings)?;
    if let Some(missing) = (1..=end.file).find(|number| numbers.binary_search(number).is_err()) {
        return Err(SegmentError::DataLoss(format!("{} is missing", name(missing))));
    }
    let beyond: Vec<u64> = numbers.into_iter().filter(|number| *number > end.file).collect();
    for &number in &beyond {
        let opened = settings.disk.open(&path(&settings.dir, number)).map_err(SegmentError::Io)?;
        let len = opened.len().map_err(SegmentError::Io)?;
        is_not_newer(opened.as_ref(), number, 0, len)?;
    }
    let (mut file, mut len) = (None, 0);
    if end.file > 0 {
        let opened = settings.disk.open(&path(&settings.dir, end.file)).map_err(SegmentError::Io)?;
        len = opened.len().map_err(SegmentError::Io)?;
        check_file(opened.as_ref(), &end, blocks, len)?;
        is_not_newer(opened.as_ref(), end.file, end.bytes, len)?;
        file = Some(opened);
    }
    let row = |(first, place): &(LogIndex, BlockPlace)| TrailerRow {
        first: *first,
        offset: place.offset,
        length: place.length,
    };
    let writer = SegmentWriter {
        disk: Arc::clone(&settings.disk),
        dir: settings.dir.clone(),
        file_bytes_max: settings.segment_file_bytes,
        file,
        blocks: blocks.iter().map(row).collect(),
        end,
        durable: end,
        places: Vec::new(),
        written: false,
        named: false,
    };
    Ok(FoundSegments { writer, beyond, len })
}

/// The numbers of the files, in order.
fn numbers(settings: &Settings) -> Result<Vec<u64>, SegmentError> {
    let names = match settings.disk.list(&folder(&settings.dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(SegmentError::Io)?,
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The open file is the one that the database means, and has all of it; its last block is the last of the chain.
fn check_file(
    file: &dyn File,
    end: &SegmentsEnd,
    blocks: &[(LogIndex, BlockPlace)],
    len: u64,
) -> Result<(), SegmentError> {
    let name = name(end.file);
    if len < end.bytes {
        return Err(SegmentError::DataLoss(format!("{name} has {len} bytes, the database counts on {}", end.bytes)));
    }
    let mut header = [0; HEADER_BYTES];
    file.read_at(0, &mut header).map_err(|error| SegmentError::of(&name, error))?;
    let header = SegmentHeader::decode(&header);
    let header = header.map_err(|error| SegmentError::unreadable(format!("the header of {name}"), error))?;
    let (Some((first, _)), Some((last, place))) = (blocks.first(), blocks.last()) else {
        return Err(SegmentError::DataLoss(format!("the database has no block of {name}")));
    };
    if (header.number, header.first) != (end.file, *first) {
        return Err(SegmentError::DataLoss(format!("{name} is another file")));
    }
    let (block, _) = read_block(file, *last, place)?;
    if chain_hash(&block) != end.chain && !planted::is(Bug::BlockUnchecked) {
        return Err(SegmentError::DataLoss(format!("the last block of {name} does not end the chain")));
    }
    Ok(())
}

/// What lies beyond the end would be cut: not so what a newer program wrote.
fn is_not_newer(file: &dyn File, number: u64, offset: u64, len: u64) -> Result<(), SegmentError> {
    let left = len.saturating_sub(offset);
    if left < PIECE_HEAD as u64 {
        return Ok(());
    }
    let read = |bytes: u64| {
        let mut piece = vec![0; usize::try_from(bytes).expect("of a file's length")];
        file.read_at(offset, &mut piece).map_err(SegmentError::Io).map(|()| piece)
    };
    let Some((_, bytes)) = piece_head(&read(PIECE_HEAD as u64)?).filter(|(_, bytes)| *bytes <= left) else {
        return Ok(());
    };
    match newer_version(&read(bytes)?) {
        Some(version) => Err(SegmentError::Newer { what: format!("what ends {}", name(number)), version }),
        None => Ok(()),
    }
}

impl FoundSegments {
    /// Takes away what a crash left between the writing of a segment and the commit that should have named it. The entries
    /// in it are in the journal, or in the database, and come again.
    pub(crate) fn cut(self, settings: &Settings) -> io::Result<SegmentWriter> {
        let FoundSegments { mut writer, beyond, len } = self;
        let SegmentsEnd { file, bytes, .. } = writer.end;
        if file == 0 && beyond.is_empty() {
            // Where its name was lost with nothing in it; otherwise it is there.
            settings.disk.create_dir_all(&folder(&settings.dir))?;
        }
        for number in beyond {
            settings.disk.remove(&path(&settings.dir, number))?;
        }
        if let Some(open) = writer.file.as_ref().filter(|_| len > bytes) {
            if planted::is(Bug::SegmentLongTaken) {
                writer.end.bytes = len;
            } else {
                open.set_len(bytes)?;
            }
        }
        Ok(writer)
    }
}
