//! The bytes of the journal: file headers and records. Pure.
//!
//! ```text
//! file    header copy │ header copy │ record │ record │ …        copies and records start on 4 KiB
//! record  magic 4 │ version 2 │ 0 2 │ salt 8 │ offset 8 │ lsn 8 │ length 4 │ crc32c 4 │ body
//! body    operations, see `Op`
//! ```
//!
//! In the file a record lies in sealed sectors, see [`sectors`](super::sectors): 4,000 bytes of it in 4 KiB.
//!
//! The checksum covers the header before it and the body. Salt and offset are in it, so that a
//! record of an earlier life of the file, or of another place, is never taken for one of this. It also tells a record
//! from a mix of two attempts at it, each torn, which the seals cannot.
//!
//! Magic, version, place, length and checksum are where they are in every version: what a newer program wrote is told
//! from what nobody wrote.

use bytes::{Buf, BufMut, Bytes};
use converge_ledger_core::{Boot, LogIndex, Lsn, NodeId, StoreId, Term};

use super::sectors::{seal, sealed_len};
use crate::storage::types::{EntryKind, Genesis, HardState, LogEntry};

/// Records and header copies start at multiples of this.
pub(crate) const BLOCK: u64 = 4096;
/// Where the first record of a file starts, behind two copies of the header.
pub(crate) const FIRST_RECORD: u64 = 2 * BLOCK;
/// Bytes of a record before its body.
pub(crate) const RECORD_HEADER: usize = 40;
/// Bytes of a log entry in a body besides its data, rounded up.
pub(crate) const ENTRY_OVERHEAD: usize = 32;

const RECORD_MAGIC: [u8; 4] = *b"CLjr";
const FILE_MAGIC: [u8; 4] = *b"CLjf";
/// The version of file headers and records.
pub(crate) const VERSION: u16 = 2;
pub(crate) const FILE_HEADER: usize = 4 + 2 + 2 + 16 + 8 + 8 + 8 + 4;

/// One step of the journal, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Term, vote, commit.
    HardState(HardState),
    /// Log entries without a gap; what stood at or behind the first of them is gone.
    Entries(Vec<LogEntry>),
    /// The cluster's birth certificate.
    Genesis(Genesis),
    /// The process that writes from here on is this start.
    Boot(Boot),
}

impl Op {
    /// Bytes in a body, at most.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Op::HardState(_) | Op::Boot(_) => ENTRY_OVERHEAD,
            Op::Genesis(genesis) => 64 + genesis.voters.len() * ENTRY_OVERHEAD,
            Op::Entries(entries) => {
                let data = entries.iter().map(|e| e.data.len() + ENTRY_OVERHEAD);
                ENTRY_OVERHEAD + data.sum::<usize>()
            }
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Op::HardState(state) => {
                out.put_u8(1);
                out.put_u64_le(state.term.get());
                out.put_u64_le(state.vote.get());
                out.put_u64_le(state.commit.get());
            }
            Op::Entries(entries) => {
                out.put_u8(2);
                out.put_u32_le(u32::try_from(entries.len()).expect("bounded by the record"));
                for entry in entries {
                    out.put_u64_le(entry.index.get());
                    out.put_u64_le(entry.term.get());
                    out.put_u8(kind_byte(entry.kind));
                    out.put_u32_le(u32::try_from(entry.data.len()).expect("bounded by the record"));
                    out.extend_from_slice(&entry.data);
                }
            }
            Op::Genesis(genesis) => {
                let bytes = postcard::to_stdvec(genesis).expect("a genesis has a postcard form");
                out.put_u8(3);
                out.put_u32_le(u32::try_from(bytes.len()).expect("a genesis is small"));
                out.extend_from_slice(&bytes);
            }
            Op::Boot(boot) => {
                out.put_u8(4);
                out.put_u64_le(boot.get());
            }
        }
    }
}

pub(crate) fn kind_byte(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    }
}

pub(crate) fn kind_of(byte: u8) -> Option<EntryKind> {
    match byte {
        0 => Some(EntryKind::Normal),
        1 => Some(EntryKind::ConfChange),
        2 => Some(EntryKind::ConfChangeV2),
        _ => None,
    }
}

/// Reads a body whose checksum was right; none when it was not written by this format.
pub(crate) fn decode_ops(mut body: Bytes) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    while body.has_remaining() {
        let op = match body.get_u8() {
            1 => Op::HardState(HardState {
                term: Term(body.try_get_u64_le().ok()?),
                vote: NodeId(body.try_get_u64_le().ok()?),
                commit: LogIndex(body.try_get_u64_le().ok()?),
            }),
            2 => Op::Entries(decode_entries(&mut body)?),
            3 => {
                let length = body.try_get_u32_le().ok()? as usize;
                if body.remaining() < length {
                    return None;
                }
                Op::Genesis(postcard::from_bytes(&body.split_to(length)).ok()?)
            }
            4 => Op::Boot(Boot(body.try_get_u64_le().ok()?)),
            _ => return None,
        };
        ops.push(op);
    }
    Some(ops)
}

fn decode_entries(body: &mut Bytes) -> Option<Vec<LogEntry>> {
    let count = body.try_get_u32_le().ok()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let index = LogIndex(body.try_get_u64_le().ok()?);
        let term = Term(body.try_get_u64_le().ok()?);
        let kind = kind_of(body.try_get_u8().ok()?)?;
        let length = body.try_get_u32_le().ok()? as usize;
        if body.remaining() < length {
            return None;
        }
        let data = body.split_to(length);
        entries.push(LogEntry { index, term, kind, data });
    }
    Some(entries)
}

/// Builds records in buffers that are kept.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    record: Vec<u8>,
    /// In sectors, behind as many bytes as it takes to begin on a page.
    sealed: Vec<u8>,
}

impl Builder {
    /// Starts over, with room for the header.
    pub(crate) fn begin(&mut self) {
        self.record.clear();
        self.record.resize(RECORD_HEADER, 0);
    }

    pub(crate) fn put(&mut self, op: &Op) {
        op.put(&mut self.record);
    }

    /// What the record takes in the file.
    pub(crate) fn sealed_len(&self) -> u64 {
        sealed_len(self.record.len() as u64)
    }

    /// Writes the header, and seals the record for its place in a file.
    ///
    /// What it returns begins on a page, as it will in the page cache: a copy that a kill cuts short ends where a page
    /// does, and so between two sectors.
    pub(crate) fn seal(&mut self, file: &FileHeader, offset: u64, lsn: Lsn) -> &[u8] {
        let length = self.record.len() - RECORD_HEADER;
        let mut head = Vec::with_capacity(RECORD_HEADER);
        head.extend_from_slice(&RECORD_MAGIC);
        head.put_u16_le(VERSION);
        head.put_u16_le(0);
        head.put_u64_le(file.salt);
        head.put_u64_le(offset);
        head.put_u64_le(lsn.get());
        head.put_u32_le(u32::try_from(length).expect("records are bounded"));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &self.record[RECORD_HEADER..]);
        head.put_u32_le(crc);
        self.record[..RECORD_HEADER].copy_from_slice(&head);
        let (bytes, page) = (usize::try_from(self.sealed_len()).expect("records are bounded"), BLOCK as usize);
        self.sealed.resize(self.sealed.len().max(bytes + page), 0);
        let start = self.sealed.as_ptr().align_offset(page).min(page);
        let sealed = &mut self.sealed[start..start + bytes];
        seal(&self.record, file.store_id, offset, lsn, sealed);
        sealed
    }
}

/// Rounded up to whole blocks.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// What the first bytes of a sealed sector say, if they start a record of this life of the file at this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    /// Where it is newer than [`VERSION`], nothing is known of the body but its checksum.
    pub(crate) version: u16,
    pub(crate) lsn: Lsn,
    pub(crate) length: u32,
    crc: u32,
    head_crc: u32,
}

impl RecordHead {
    /// None when this is no record of this life of the file at this offset.
    pub(crate) fn parse(bytes: &[u8], salt: u64, offset: u64) -> Option<RecordHead> {
        let head_crc = crc32c::crc32c(bytes.get(..RECORD_HEADER - 4)?);
        let mut rest = bytes;
        let mut magic = [0; 4];
        rest.try_copy_to_slice(&mut magic).ok()?;
        let version = rest.try_get_u16_le().ok()?;
        let known = magic == RECORD_MAGIC && version >= VERSION;
        let _reserved = rest.try_get_u16_le().ok()?;
        let here = rest.try_get_u64_le().ok()? == salt && rest.try_get_u64_le().ok()? == offset;
        let lsn = Lsn(rest.try_get_u64_le().ok()?);
        let length = rest.try_get_u32_le().ok()?;
        let crc = rest.try_get_u32_le().ok()?;
        (known && here).then_some(RecordHead { version, lsn, length, crc, head_crc })
    }

    /// What the record takes in the file.
    pub(crate) fn sealed_len(&self) -> u64 {
        sealed_len(RECORD_HEADER as u64 + u64::from(self.length))
    }

    /// Whether this is the body that was written.
    pub(crate) fn vouches_for(&self, body: &[u8]) -> bool {
        crc32c::crc32c_append(self.head_crc, body) == self.crc
    }
}

/// Which life of which directory's file this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) store_id: StoreId,
    /// Grows with every use of any file.
    pub(crate) generation: u64,
    pub(crate) salt: u64,
    /// The length of the file; a shorter one was cut.
    pub(crate) bytes: u64,
}

impl FileHeader {
    /// A whole block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(usize::try_from(BLOCK).expect("small"));
        out.extend_from_slice(&FILE_MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.extend_from_slice(&self.store_id.0);
        out.put_u64_le(self.generation);
        out.put_u64_le(self.salt);
        out.put_u64_le(self.bytes);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.resize(usize::try_from(BLOCK).expect("small"), 0);
        out
    }

    /// Version and rest of a copy that is sound.
    fn sound(bytes: &[u8]) -> Option<(u16, &[u8])> {
        let bytes = bytes.get(..FILE_HEADER)?;
        let (content, crc) = bytes.split_at(FILE_HEADER - 4);
        let mut rest = content.strip_prefix(&FILE_MAGIC)?;
        let version = rest.get_u16_le();
        rest.advance(2);
        (crc32c::crc32c(content).to_le_bytes() == crc).then_some((version, rest))
    }

    /// The version of a sound copy that a newer program wrote.
    pub(crate) fn newer_version(bytes: &[u8]) -> Option<u16> {
        let (version, _) = FileHeader::sound(bytes)?;
        (version > VERSION).then_some(version)
    }

    /// None when the copy is damaged, or of a format this program does not know.
    pub(crate) fn decode(bytes: &[u8]) -> Option<FileHeader> {
        let (_, mut rest) = FileHeader::sound(bytes).filter(|(version, _)| *version == VERSION)?;
        let mut store_id = [0; 16];
        rest.copy_to_slice(&mut store_id);
        Some(FileHeader {
            store_id: StoreId(store_id),
            generation: rest.get_u64_le(),
            salt: rest.get_u64_le(),
            bytes: rest.get_u64_le(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::sectors::unsealed;
    use super::*;

    fn ops() -> Vec<Op> {
        let entry = |index, data: &'static [u8]| LogEntry {
            index: LogIndex(index),
            term: Term(3),
            kind: EntryKind::Normal,
            data: Bytes::from_static(data),
        };
        vec![
            Op::HardState(HardState { term: Term(3), vote: NodeId(2), commit: LogIndex(7) }),
            Op::Entries(vec![entry(8, b"eight"), entry(9, b"")]),
            Op::Genesis(Genesis {
                cluster_id: converge_ledger_core::ClusterId([7; 16]),
                group: 0,
                voters: [(NodeId(1), StoreId([1; 16]))].into(),
                key_window: 1000,
            }),
            Op::Boot(Boot(4)),
        ]
    }

    const FILE: FileHeader = FileHeader { store_id: StoreId([1; 16]), generation: 1, salt: 11, bytes: 65536 };

    /// A record as it is without its seals.
    fn record() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.begin();
        for op in ops() {
            builder.put(&op);
        }
        let sealed = builder.seal(&FILE, 8192, Lsn(5));
        assert_eq!((sealed.len() as u64, sealed.as_ptr().addr() % 4096), (BLOCK, 0));
        unsealed(sealed)
    }

    #[test]
    fn a_record_comes_back_and_only_from_its_place() {
        let record = record();
        let head = RecordHead::parse(&record, 11, 8192).unwrap();
        let body = &record[RECORD_HEADER..RECORD_HEADER + head.length as usize];
        assert!(head.vouches_for(body));
        assert_eq!((head.lsn, head.sealed_len()), (Lsn(5), BLOCK));
        assert_eq!(decode_ops(Bytes::copy_from_slice(body)), Some(ops()));
        assert_eq!(RecordHead::parse(&record, 12, 8192), None);
        assert_eq!(RecordHead::parse(&record, 11, 4096), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let record = record();
        let used = RECORD_HEADER + RecordHead::parse(&record, 11, 8192).unwrap().length as usize;
        for bit in 0..used * 8 {
            let mut bytes = record.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let sound = RecordHead::parse(&bytes, 11, 8192).is_some_and(|head| {
                bytes
                    .get(RECORD_HEADER..RECORD_HEADER + head.length as usize)
                    .is_some_and(|body| head.vouches_for(body))
            });
            assert!(!sound, "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_cut_body_is_no_panic() {
        let mut body = Vec::new();
        for op in ops() {
            op.put(&mut body);
        }
        for end in 0..body.len() {
            let _ = decode_ops(Bytes::copy_from_slice(&body[..end]));
        }
    }

    #[test]
    fn a_file_header_comes_back_and_notices_every_flip() {
        let header = FileHeader { store_id: StoreId([9; 16]), generation: 3, salt: 77, bytes: 65536 };
        let bytes = header.encode();
        assert_eq!(FileHeader::decode(&bytes), Some(header));
        for bit in 0..FILE_HEADER * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::decode(&flipped), None, "bit {bit}");
        }
    }
}
