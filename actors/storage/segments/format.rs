//! The bytes of a segment: header, blocks, trailer. Pure.
//!
//! ```text
//! file     header │ block │ block │ … │ trailer                  the trailer only once the file is closed
//! piece    magic 4 │ version 2 │ 0 2 │ length 4 │ crc32c 4 │ body
//! header   number 8 │ first log index 8 │ hash of the block before it 32
//! block    first log index 8 │ last 8 │ hash of the block before it 32 │ entries
//! entry    kind, term, length, each a postcard number │ data
//! trailer  blocks 4 │ (first log index 8 │ offset 8 │ length 4) each │ last log index 8 │ hash of the last block 32
//! ```
//!
//! A piece's checksum covers its head before it and its body. A block's hash is that of all of its bytes, and the hash of
//! the block before it is among them: a chain through all files. Magic, version, length and checksum are where they are in
//! every version: what a newer program wrote is told from damage.
//!
//! Nothing here depends on the node, the time or a library's choice: the same log gives the same bytes.

use bytes::{Buf, BufMut, Bytes};
use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{LogIndex, Term};

use crate::storage::journal::record::{kind_byte, kind_of};
use crate::storage::types::LogEntry;

/// The version of headers, blocks and trailers.
pub(crate) const VERSION: u16 = 1;
/// Bytes of a piece before its body.
pub(crate) const PIECE_HEAD: usize = 16;
/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = PIECE_HEAD + 48;
/// Bytes of a block before its entries.
const BLOCK_HEAD: usize = PIECE_HEAD + 48;
/// No entry takes fewer: kind, term, length.
const ENTRY_BYTES_MIN: u64 = 3;
/// A row of a trailer's table.
const TRAILER_ROW: usize = 8 + 8 + 4;

const HEADER: [u8; 4] = *b"CLsf";
const BLOCK: [u8; 4] = *b"CLsb";
const TRAILER: [u8; 4] = *b"CLst";

/// The hash of a block, over all blocks before it as well.
pub(crate) type ChainHash = [u8; 32];

/// Why a piece cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Not the bytes that were written.
    Damaged,
    /// Sound, and of a newer program.
    Newer(u16),
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    Header,
    Block,
    Trailer,
}

/// What the first bytes of a piece say: what it is, and how many bytes it has. Whether it is sound only all of it tells.
pub(crate) fn piece_head(bytes: &[u8]) -> Option<(PieceKind, u64)> {
    let mut rest = bytes.get(..PIECE_HEAD)?;
    let kind = match rest.split_to_array() {
        HEADER => PieceKind::Header,
        BLOCK => PieceKind::Block,
        TRAILER => PieceKind::Trailer,
        _ => return None,
    };
    rest.advance(4);
    Some((kind, PIECE_HEAD as u64 + u64::from(rest.get_u32_le())))
}

/// Takes the first bytes off, of which there are enough.
trait SplitToArray {
    fn split_to_array<const N: usize>(&mut self) -> [u8; N];
}

impl SplitToArray for &[u8] {
    fn split_to_array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        self.copy_to_slice(&mut array);
        array
    }
}

fn begin(magic: [u8; 4]) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.put_u16_le(VERSION);
    out.resize(PIECE_HEAD, 0);
    out
}

/// Fills in length and checksum.
fn seal(mut piece: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(piece.len() - PIECE_HEAD).expect("a log entry has a bound far below");
    piece[8..12].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&piece);
    piece[12..PIECE_HEAD].copy_from_slice(&crc.to_le_bytes());
    piece
}

fn checksum(piece: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&piece[..12]), &piece[PIECE_HEAD..])
}

/// The body of a piece that has exactly these bytes.
fn unseal(magic: [u8; 4], piece: &[u8]) -> Result<&[u8], Unreadable> {
    let (head, body) = piece.split_at_checked(PIECE_HEAD).ok_or(Unreadable::Damaged)?;
    let version = u16::from_le_bytes([head[4], head[5]]);
    let length = u32::from_le_bytes(*head[8..].first_chunk().expect("of a head"));
    let sound = piece_checksum(piece) == Some(checksum(piece)) || planted::is(Bug::BlockUnchecked);
    if head[..4] != magic || u64::from(length) != body.len() as u64 || !sound {
        return Err(Unreadable::Damaged);
    }
    match version {
        VERSION if head[6..8] == [0; 2] => Ok(body),
        newer if newer > VERSION => Err(Unreadable::Newer(newer)),
        _ => Err(Unreadable::Damaged),
    }
}

/// The checksum that a piece names.
pub(crate) fn piece_checksum(piece: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*piece.get(12..PIECE_HEAD)?.first_chunk()?))
}

/// The version of a sound piece of a newer program, whatever it is.
pub(crate) fn newer_version(piece: &[u8]) -> Option<u16> {
    let magic = *piece.first_chunk()?;
    let newer = |magic| match unseal(magic, piece) {
        Err(Unreadable::Newer(version)) => Some(version),
        _ => None,
    };
    [HEADER, BLOCK, TRAILER].contains(&magic).then(|| newer(magic))?
}

/// A sound piece of this kind with this body, whatever that is.
#[cfg(feature = "fuzzing")]
pub(super) fn sealed(kind: PieceKind, body: &[u8]) -> Vec<u8> {
    let mut piece = begin(match kind {
        PieceKind::Header => HEADER,
        PieceKind::Block => BLOCK,
        PieceKind::Trailer => TRAILER,
    });
    piece.extend_from_slice(body);
    seal(piece)
}

/// The same piece, sound, of the next version.
#[cfg(any(test, feature = "testing"))]
pub(super) fn make_newer(mut piece: Vec<u8>) -> Vec<u8> {
    piece[4..6].copy_from_slice(&(VERSION + 1).to_le_bytes());
    seal(piece)
}

/// Which file it is, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The number in its name.
    pub(crate) number: u64,
    pub(crate) first: LogIndex,
    /// The hash of the last block of the file before it; zeros in the first file.
    pub(crate) before: ChainHash,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = begin(HEADER);
        out.put_u64_le(self.number);
        out.put_u64_le(self.first.get());
        out.extend_from_slice(&self.before);
        seal(out)
    }

    pub(crate) fn decode(piece: &[u8]) -> Result<SegmentHeader, Unreadable> {
        let mut body = unseal(HEADER, piece)?;
        if piece.len() != HEADER_BYTES {
            return Err(Unreadable::Damaged);
        }
        let (number, first) = (body.get_u64_le(), LogIndex(body.get_u64_le()));
        Ok(SegmentHeader { number, first, before: body.split_to_array() })
    }
}

/// Appends an entry as a block has it; its index follows from its place.
pub(crate) fn put_entry(out: Vec<u8>, entry: &LogEntry) -> Vec<u8> {
    let length = u32::try_from(entry.data.len()).expect("a log entry has a bound far below");
    let head = (kind_byte(entry.kind), entry.term, length);
    let mut out = postcard::to_extend(&head, out).expect("numbers have a postcard form");
    out.extend_from_slice(&entry.data);
    out
}

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub(crate) first: LogIndex,
    pub(crate) last: LogIndex,
    /// The hash of the block before it, in whatever file; zeros in the first block of all.
    pub(crate) before: ChainHash,
}

impl BlockHead {
    /// A block with these entries, as [`put_entry`] wrote them.
    pub(crate) fn seal(&self, entries: &[u8]) -> Vec<u8> {
        let mut out = begin(BLOCK);
        out.reserve(BLOCK_HEAD - PIECE_HEAD + entries.len());
        out.put_u64_le(self.first.get());
        out.put_u64_le(self.last.get());
        out.extend_from_slice(&self.before);
        out.extend_from_slice(entries);
        seal(out)
    }

    /// Reads a block whole. Data of entries are slices of it, not copies.
    pub(crate) fn decode(piece: &Bytes) -> Result<(BlockHead, Vec<LogEntry>), Unreadable> {
        unseal(BLOCK, piece)?;
        let damaged = Unreadable::Damaged;
        let (mut head, mut rest) = (piece.get(PIECE_HEAD..BLOCK_HEAD).ok_or(damaged)?, piece.slice(BLOCK_HEAD..));
        let (first, last) = (LogIndex(head.get_u64_le()), LogIndex(head.get_u64_le()));
        let head = BlockHead { first, last, before: head.split_to_array() };
        // An entry follows every other one, so none has the last number of all.
        let behind = last.get().checked_add(1).ok_or(damaged)?;
        let count = behind.checked_sub(first.get()).ok_or(damaged)?;
        if first == LogIndex(0) || count == 0 || count > rest.len() as u64 / ENTRY_BYTES_MIN {
            return Err(damaged);
        }
        let mut entries = Vec::new();
        for index in (first.get()..=last.get()).map(LogIndex) {
            entries.push(take_entry(index, &mut rest).ok_or(damaged)?);
        }
        if rest.is_empty() { Ok((head, entries)) } else { Err(damaged) }
    }
}

fn take_entry(index: LogIndex, rest: &mut Bytes) -> Option<LogEntry> {
    let ((kind, term, length), behind) = postcard::take_from_bytes::<(u8, Term, u32)>(rest).ok()?;
    let head = rest.len() - behind.len();
    let kind = kind_of(kind)?;
    rest.advance(head);
    let length = usize::try_from(length).ok().filter(|length| *length <= rest.len())?;
    Some(LogEntry { index, term, kind, data: rest.split_to(length) })
}

/// The hash of a whole block, and through it of all blocks before it.
pub(crate) fn chain_hash(block: &[u8]) -> ChainHash {
    blake3::hash(block).into()
}

/// Where a block is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrailerRow {
    pub(crate) first: LogIndex,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// The end of a closed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentTrailer {
    pub(crate) blocks: Vec<TrailerRow>,
    pub(crate) last: LogIndex,
    /// The hash of the last block, and so of all.
    pub(crate) chain: ChainHash,
}

impl SegmentTrailer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = begin(TRAILER);
        out.put_u32_le(u32::try_from(self.blocks.len()).expect("blocks of one file"));
        for row in &self.blocks {
            out.put_u64_le(row.first.get());
            out.put_u64_le(row.offset);
            out.put_u32_le(row.length);
        }
        out.put_u64_le(self.last.get());
        out.extend_from_slice(&self.chain);
        seal(out)
    }

    pub(crate) fn decode(piece: &[u8]) -> Result<SegmentTrailer, Unreadable> {
        let mut body = unseal(TRAILER, piece)?;
        let count = body.try_get_u32_le().map_err(|_| Unreadable::Damaged)? as usize;
        if Some(body.len()) != count.checked_mul(TRAILER_ROW).and_then(|rows| rows.checked_add(8 + 32)) {
            return Err(Unreadable::Damaged);
        }
        let row = |body: &mut &[u8]| {
            let (first, offset, length) = (LogIndex(body.get_u64_le()), body.get_u64_le(), body.get_u32_le());
            TrailerRow { first, offset, length }
        };
        let blocks = (0..count).map(|_| row(&mut body)).collect();
        Ok(SegmentTrailer { blocks, last: LogIndex(body.get_u64_le()), chain: body.split_to_array() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::types::EntryKind;

    fn entries() -> Vec<LogEntry> {
        let entry = |index, kind, data: &'static [u8]| LogEntry {
            index: LogIndex(index),
            term: Term(300 + index),
            kind,
            data: Bytes::from_static(data),
        };
        vec![
            entry(7, EntryKind::Normal, b"seven"),
            entry(8, EntryKind::ConfChange, b"8"),
            entry(9, EntryKind::Normal, b""),
        ]
    }

    fn block() -> (BlockHead, Bytes) {
        let raw = entries().iter().fold(Vec::new(), put_entry);
        let head = BlockHead { first: LogIndex(7), last: LogIndex(9), before: [3; 32] };
        (head, head.seal(&raw).into())
    }

    fn trailer() -> SegmentTrailer {
        let row = |first, offset, length| TrailerRow { first: LogIndex(first), offset, length };
        SegmentTrailer { blocks: vec![row(1, 64, 90), row(7, 154, 80)], last: LogIndex(9), chain: [5; 32] }
    }

    fn header() -> SegmentHeader {
        SegmentHeader { number: 3, first: LogIndex(7), before: [3; 32] }
    }

    #[test]
    fn pieces_come_back_and_say_what_they_are() {
        let (head, block) = block();
        assert_eq!(BlockHead::decode(&block), Ok((head, entries())));
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
        assert_eq!(SegmentTrailer::decode(&trailer().encode()), Ok(trailer()));
        assert_eq!(header().encode().len(), HEADER_BYTES);
        let kinds = [PieceKind::Header, PieceKind::Block, PieceKind::Trailer];
        for (kind, piece) in kinds.into_iter().zip([header().encode(), block.to_vec(), trailer().encode()]) {
            assert_eq!(piece_head(&piece), Some((kind, piece.len() as u64)));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        let (_, block) = block();
        let check = |piece: &[u8], reads: &dyn Fn(&[u8]) -> Option<Unreadable>| {
            for bit in 0..piece.len() * 8 {
                let mut flipped = piece.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(reads(&flipped), Some(Unreadable::Damaged), "bit {bit}");
            }
            for end in 0..piece.len() {
                assert_eq!(reads(&piece[..end]), Some(Unreadable::Damaged), "cut at {end}");
            }
        };
        check(&block, &|piece| BlockHead::decode(&Bytes::copy_from_slice(piece)).err());
        check(&header().encode(), &|piece| SegmentHeader::decode(piece).err());
        check(&trailer().encode(), &|piece| SegmentTrailer::decode(piece).err());
    }

    #[test]
    fn a_sound_piece_of_a_newer_program_is_no_damage() {
        for piece in [header().encode(), block().1.to_vec(), trailer().encode()] {
            assert_eq!(newer_version(&make_newer(piece.clone())), Some(VERSION + 1));
            assert_eq!(newer_version(&piece), None);
        }
    }

    #[test]
    fn a_block_that_counts_more_entries_than_it_can_have_is_damage() {
        let head = BlockHead { first: LogIndex(1), last: LogIndex(u64::MAX), before: [0; 32] };
        assert_eq!(BlockHead::decode(&head.seal(b"abc").into()), Err(Unreadable::Damaged));
        let backwards = BlockHead { first: LogIndex(5), last: LogIndex(3), ..head };
        assert_eq!(BlockHead::decode(&backwards.seal(b"abc").into()), Err(Unreadable::Damaged));
    }
}
