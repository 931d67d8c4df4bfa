//! Bytes of a segment, see [`crate::fuzzing`].

use bytes::Bytes;
use converge_ledger_core::{LogIndex, Term};

use super::block::BlockBuilder;
use super::format::{
    BlockHead, PieceKind, SegmentHeader, SegmentTrailer, TrailerRow, newer_version, piece_head, put_entry, sealed,
};
use crate::fuzzing::Input;
use crate::fuzzing::sample::{Seed, batch};
use crate::storage::types::{EntryKind, LogEntry};

const KINDS: [PieceKind; 3] = [PieceKind::Header, PieceKind::Block, PieceKind::Trailer];

/// A header, a block or a trailer: as it is, or with a head and a checksum that are right.
pub fn segment(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (kind, right) = (KINDS[input.below(KINDS.len())], input.flag());
    let piece = if right { sealed(kind, input.rest()) } else { input.rest().to_vec() };
    if right {
        assert_eq!(piece_head(&piece), Some((kind, piece.len() as u64)), "a piece of ours is another");
    }
    assert!(newer_version(&piece).is_none() || !right, "a piece of ours is of another version");
    match kind {
        PieceKind::Header => SegmentHeader::decode(&piece).is_ok_and(|header| {
            assert_eq!(header.encode(), piece, "a header is written in one way only");
            true
        }),
        PieceKind::Trailer => SegmentTrailer::decode(&piece).is_ok_and(|trailer| {
            assert_eq!(trailer.encode(), piece, "a trailer is written in one way only");
            true
        }),
        PieceKind::Block => block(&Bytes::from(piece)),
    }
}

fn block(piece: &Bytes) -> bool {
    let Ok((head, entries)) = BlockHead::decode(piece) else { return false };
    assert_eq!(head.last.get() - head.first.get() + 1, entries.len() as u64, "a block counts others than it has");
    assert!((head.first.get()..).zip(&entries).all(|(due, entry)| entry.index.get() == due), "a block has a gap");
    let ours = Bytes::from(head.seal(&entries.iter().fold(Vec::new(), put_entry)));
    assert!(ours.len() <= piece.len(), "our own form of a block is longer than what was read");
    assert_eq!(BlockHead::decode(&ours), Ok((head, entries)), "a block reads back as another");
    true
}

/// Sound pieces.
pub(crate) fn seeds() -> Vec<Seed> {
    let entry = |index, data: Bytes| LogEntry { index: LogIndex(index), term: Term(3), kind: EntryKind::Normal, data };
    let mut builder = BlockBuilder::new(1 << 16, LogIndex(8));
    let entries = [entry(8, batch().encode()), entry(9, Bytes::new()), entry(10, Bytes::from_static(b"x"))];
    assert!(entries.iter().all(|entry| builder.push(entry).count() == 0), "they fit into a block");
    let block = builder.close().expect("it has entries").seal([7; 32]);
    let header = SegmentHeader { number: 2, first: LogIndex(8), before: [7; 32] }.encode();
    let row = |first, offset, length| TrailerRow { first: LogIndex(first), offset, length };
    let blocks = vec![row(8, 64, 300), row(11, 364, 90)];
    let trailer = SegmentTrailer { blocks, last: LogIndex(12), chain: [9; 32] }.encode();
    let mut seeds = Vec::new();
    for (kind, (name, piece)) in (0u8..).zip([("header", header), ("block", block), ("trailer", trailer)]) {
        seeds.push(Seed::new("segment", name, &[&[kind, 0], &piece]));
        seeds.push(Seed::new("segment", format!("{name}_sealed"), &[&[kind, 1], &piece[16..]]));
        seeds.push(Seed::new("segment", format!("{name}_cut"), &[&[kind, 0], &piece[..piece.len() - 1]]));
    }
    seeds
}
