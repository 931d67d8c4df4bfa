//! Appends blocks, and makes the files for them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use converge_ledger_core::LogIndex;

use super::block::ClosedBlock;
use super::format::{SegmentHeader, SegmentTrailer, TrailerRow, chain_hash, piece_checksum};
use super::{BlockPlace, SegmentsEnd, folder, path};
use crate::storage::disk::{Disk, File};

/// Where the segments go on. The database's worker has it.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    pub(super) disk: Arc<dyn Disk>,
    /// The data directory.
    pub(super) dir: PathBuf,
    /// A block that would take a file past it opens the next.
    pub(super) file_bytes_max: u64,
    /// The open one; none before the first.
    pub(super) file: Option<Arc<dyn File>>,
    /// The blocks in it.
    pub(super) blocks: Vec<TrailerRow>,
    /// With all that was put in.
    pub(super) end: SegmentsEnd,
    /// With all that is durable.
    pub(super) durable: SegmentsEnd,
    /// The blocks between the two.
    pub(super) places: Vec<(LogIndex, BlockPlace)>,
    /// It has bytes that are not synced.
    pub(super) written: bool,
    /// A file was made whose name is not.
    pub(super) named: bool,
}

impl SegmentWriter {
    /// How far they go durably.
    pub(crate) fn durable(&self) -> SegmentsEnd {
        self.durable
    }

    /// The log entry that is to be put in next.
    pub(crate) fn next(&self) -> LogIndex {
        self.end.last.next()
    }

    /// Appends a block, to a new file if it does not fit. A failure to make one, for lack of a descriptor, is noticed before
    /// anything is written; after any other nothing more may be put in.
    pub(crate) fn put(&mut self, block: &ClosedBlock) -> io::Result<()> {
        let bytes = block.seal(self.end.chain);
        let length = u32::try_from(bytes.len()).expect("a log entry has a bound far below");
        let is_full = !self.blocks.is_empty() && self.end.bytes + u64::from(length) > self.file_bytes_max;
        let file = match &self.file {
            Some(file) if !is_full => Arc::clone(file),
            _ => self.next_file(block.first)?,
        };
        file.write_at(self.end.bytes, &bytes)?;
        self.written = true;
        let crc = piece_checksum(&bytes).expect("a block has a head");
        let place = BlockPlace { last: block.last, file: self.end.file, offset: self.end.bytes, length, crc };
        self.blocks.push(TrailerRow { first: block.first, offset: place.offset, length });
        self.end.bytes += u64::from(length);
        self.end.blocks += 1;
        self.end.last = block.last;
        self.end.chain = chain_hash(&bytes);
        self.places.push((block.first, place));
        Ok(())
    }

    /// Makes a file, and closes the one before it.
    fn next_file(&mut self, first: LogIndex) -> io::Result<Arc<dyn File>> {
        let SegmentsEnd { file, bytes, last, chain, .. } = self.end;
        let number = file + 1;
        let next = self.disk.create(&path(&self.dir, number))?;
        let header = SegmentHeader { number, first, before: chain }.encode();
        next.write_at(0, &header)?;
        let blocks = std::mem::take(&mut self.blocks);
        if let Some(full) = self.file.replace(Arc::clone(&next)) {
            let trailer = SegmentTrailer { blocks, last, chain }.encode();
            full.write_at(bytes, &trailer)?;
            full.sync_data()?;
            self.end.closed_bytes += bytes + trailer.len() as u64;
        }
        (self.end.file, self.end.bytes) = (number, header.len() as u64);
        self.named = true;
        Ok(next)
    }

    /// Makes all that was put in durable, names included (S2), and says which blocks are new. Where a descriptor for the
    /// folder is lacking it may be tried again.
    pub(crate) fn sync(&mut self) -> io::Result<Vec<(LogIndex, BlockPlace)>> {
        if let Some(file) = self.file.as_ref().filter(|_| self.written) {
            file.sync_data()?;
            self.written = false;
        }
        if self.named {
            self.disk.sync_dir(&folder(&self.dir))?;
            self.named = false;
        }
        self.durable = self.end;
        Ok(std::mem::take(&mut self.places))
    }
}
