//! Walking segments from their first byte to their last, for a verification.

use std::sync::Arc;

use converge_ledger_core::LogIndex;

use super::format::{
    BlockHead, ChainHash, HEADER_BYTES, PieceKind, SegmentHeader, SegmentTrailer, TrailerRow, chain_hash, piece_head,
};
use super::reader::read_block;
use super::{BlockPlace, SegmentError, SegmentsEnd, name, path};
use crate::storage::disk::File;
use crate::storage::settings::Settings;
use crate::storage::types::LogEntry;

/// A walk along the rows of blocks, in their order.
pub(crate) struct SegmentWalk<'a> {
    settings: &'a Settings,
    /// As the database has it.
    end: SegmentsEnd,
    /// The file that the walk is in.
    file: Option<(u64, Arc<dyn File>)>,
    offset: u64,
    blocks: Vec<TrailerRow>,
    closed_bytes: u64,
    count: u64,
    last: LogIndex,
    chain: ChainHash,
}

impl<'a> SegmentWalk<'a> {
    pub(crate) fn new(settings: &'a Settings, end: SegmentsEnd) -> SegmentWalk<'a> {
        let (last, chain) = (LogIndex(0), [0; 32]);
        SegmentWalk { settings, end, file: None, offset: 0, blocks: Vec::new(), closed_bytes: 0, count: 0, last, chain }
    }

    /// The next block: it has to join the one before it, in the file and in the chain.
    pub(crate) fn block(&mut self, first: LogIndex, place: &BlockPlace) -> Result<Vec<LogEntry>, SegmentError> {
        let loss = |what: String| Err(SegmentError::DataLoss(what));
        if first != self.last.next() {
            return loss(format!("blocks go on with log entry {first}, not with {}", self.last.next()));
        }
        let in_file = self.file.as_ref().map_or(0, |(number, _)| *number);
        if place.file == in_file + 1 {
            self.close()?;
            self.open(place.file, first)?;
        } else if place.file != in_file {
            return loss(format!("block {first} is in {}, after {}", name(place.file), name(in_file)));
        }
        let (_, file) = self.file.as_ref().expect("a block is in a file");
        if place.offset != self.offset {
            return loss(format!("block {first} is at {}, not at {}", place.offset, self.offset));
        }
        let (bytes, entries) = read_block(file.as_ref(), first, place)?;
        let before = BlockHead::decode(&bytes).map(|(head, _)| head.before);
        if before != Ok(self.chain) {
            return loss(format!("block {first} does not join the one before it"));
        }
        self.blocks.push(TrailerRow { first, offset: place.offset, length: place.length });
        self.offset += u64::from(place.length);
        (self.count, self.last, self.chain) = (self.count + 1, place.last, chain_hash(&bytes));
        Ok(entries)
    }

    fn open(&mut self, number: u64, first: LogIndex) -> Result<(), SegmentError> {
        let name = name(number);
        let failed = |error| SegmentError::of(&name, error);
        let file = self.settings.disk.open(&path(&self.settings.dir, number)).map_err(failed)?;
        let mut header = [0; HEADER_BYTES];
        file.read_at(0, &mut header).map_err(failed)?;
        let header = SegmentHeader::decode(&header);
        let header = header.map_err(|error| SegmentError::unreadable(format!("the header of {name}"), error))?;
        if header != (SegmentHeader { number, first, before: self.chain }) {
            return Err(SegmentError::DataLoss(format!("{name} is another file")));
        }
        (self.file, self.offset) = (Some((number, file)), HEADER_BYTES as u64);
        Ok(())
    }

    /// The file that the walk is in ends in a trailer that names all of its blocks.
    fn close(&mut self) -> Result<(), SegmentError> {
        let Some((number, file)) = self.file.take() else { return Ok(()) };
        let name = name(number);
        let failed = |error| SegmentError::of(&name, error);
        let bytes = file.len().map_err(failed)?.saturating_sub(self.offset);
        let mut trailer = vec![0; usize::try_from(bytes).expect("of a file's length")];
        file.read_at(self.offset, &mut trailer).map_err(failed)?;
        let what = || format!("the trailer of {name}");
        if piece_head(&trailer) != Some((PieceKind::Trailer, bytes)) {
            return Err(SegmentError::DataLoss(format!("{} is damaged", what())));
        }
        let trailer = SegmentTrailer::decode(&trailer).map_err(|error| SegmentError::unreadable(what(), error))?;
        let blocks = std::mem::take(&mut self.blocks);
        if trailer != (SegmentTrailer { blocks, last: self.last, chain: self.chain }) {
            return Err(SegmentError::DataLoss(format!("{} names other blocks", what())));
        }
        self.closed_bytes += self.offset + bytes;
        Ok(())
    }

    /// There are no more blocks: what was seen is what the database counts.
    pub(crate) fn end(self) -> Result<(), SegmentError> {
        let file = self.file.as_ref().map_or(0, |(number, _)| *number);
        let seen = SegmentsEnd {
            file,
            bytes: self.offset,
            closed_bytes: self.closed_bytes,
            blocks: self.count,
            last: self.last,
            chain: self.chain,
        };
        if seen != self.end {
            return Err(SegmentError::DataLoss(format!("segments end at {seen:?}, not at {:?}", self.end)));
        }
        Ok(())
    }
}
