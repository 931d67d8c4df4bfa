//! The bytes of a [`Batch`]: one log entry on the wire, in the journal and, row by row, in the
//! database.
//!
//! ```text
//! entry   = row 0, row 1 … row count-1          (count 0: row 0 is the header alone)
//! row 0   = header, body?, crc32c(0, header, body)
//! row n   = body, crc32c(n, body)
//! header  = version u8, postcard(origin, boot, low_water, low_staging, count u32)
//! body    = tag u8, postcard varint of the length of what follows, head, payload
//! tag     = version in the high four bits, kind in the low four
//! crc32c  = four bytes, little-endian; n goes in as four little-endian bytes
//! ```
//!
//! A command has one row; a transaction has one more for each of its entries, right after its own.
//!
//! Every row checks on its own, and in its place: a row under another number fails. Rows lie one
//! behind the other, so that splitting an entry copies nothing, and joining its rows gives back
//! its bytes. Only the program that wrote a version decodes it: a node that skipped what it does
//! not know would compute another state. An addition is a new kind, a new flag or a new version, and [`CodecError::is_newer`]
//! tells it from what nobody ever wrote.
//!
//! The place of the entry in the log is not in here; whoever stores a row knows it.

mod head;

use std::ops::Range;

use bytes::Bytes;

use crate::checksum::{self, Checksum};
use crate::codec::{CodecError, put};
use crate::command::{Batch, Command, Stage, Transact, TransactEntry};
use crate::entry::{Entry, NewEntry};
use crate::ids::{Boot, Lamport, NodeId, Position, Sequence};
use crate::planted::{self, Bug};
use head::{ROW, Reader};

/// The version of a batch and of each of its rows.
pub const VERSION: u8 = 2;
/// Tag, length, nothing, checksum: no row is shorter.
const ROW_BYTES_MIN: usize = 2 + checksum::BYTES;
/// What a batch needs apart from its commands, at most.
const HEADER_BYTES_MAX: usize = 1 + 4 * 10 + 5 + checksum::BYTES;

const BATCH: &str = "a batch";

struct Header {
    origin: NodeId,
    boot: Boot,
    low_water: u64,
    low_staging: u64,
    count: u32,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        put(vec![VERSION], &(self.origin, self.boot, self.low_water, self.low_staging, self.count))
    }

    /// The header in front of these bytes, and how long it is. Its checksum is that of row 0.
    fn decode(data: &[u8]) -> Result<(Self, usize), CodecError> {
        let mut reader = Reader::new(BATCH, data);
        let version = reader.take::<u8>()?;
        if version != VERSION {
            return Err(CodecError::Version { what: BATCH, found: version, known: VERSION });
        }
        let (origin, boot, low_water, low_staging, count) = reader.take()?;
        let length = data.len() - reader.rest().len();
        Ok((Self { origin, boot, low_water, low_staging, count }, length))
    }
}

fn row_scope(n: u32) -> Checksum {
    Checksum::new().with(&n.to_le_bytes())
}

fn seal(out: &mut Vec<u8>, n: u32, start: usize) {
    let checksum = row_scope(n).with(&out[start..]).to_bytes();
    out.extend_from_slice(&checksum);
}

/// What is in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchRow {
    /// A whole command.
    Command(Command),
    /// A transaction without its entries: those are in so many rows after it.
    Transact(Transact, u32),
    /// An entry of the transaction before it.
    Part(TransactEntry),
}

impl Batch {
    /// The bytes of a log entry.
    ///
    /// # Panics
    /// With more than `u32::MAX` rows, which no batch bound allows.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let rows = self.commands.iter().map(Command::rows).sum::<usize>();
        let count = u32::try_from(rows).expect("a batch has a bound far below");
        let Self { origin, boot, low_water, low_staging, .. } = *self;
        let mut out = Header { origin, boot, low_water, low_staging, count }.encode();
        let commands: usize = self.commands.iter().map(head::size_hint).sum();
        out.reserve(HEADER_BYTES_MAX + commands);
        if count == 0 {
            seal(&mut out, 0, 0);
        }
        let mut writer = RowWriter { out, n: 0, start: 0, scratch: Vec::new() };
        for command in &self.commands {
            writer.row(|scratch| head::encode(scratch, command));
            if let Command::Transact(transact) = command {
                transact.entries.iter().for_each(|part| writer.row(|scratch| head::encode_part(scratch, part)));
            }
        }
        writer.out.into()
    }

    /// Reads a log entry. Payloads are slices of it, not copies.
    ///
    /// # Errors
    /// Anything but what [`Batch::encode`] wrote.
    pub fn decode(data: &Bytes) -> Result<Self, CodecError> {
        let (header, ranges) = split(data)?;
        let Header { origin, boot, low_water, low_staging, count } = header;
        if count == 0 {
            verify(0, data)?;
        }
        let mut rows = (0..count).zip(ranges).map(|(n, range)| decode_row(n, &data.slice(range)));
        let mut commands = Vec::new();
        while let Some(row) = rows.next() {
            commands.push(match row? {
                BatchRow::Command(command) => command,
                BatchRow::Transact(transact, parts) => {
                    let entries = rows.by_ref().take(parts as usize).map(part).collect::<Result<Vec<_>, _>>()?;
                    if entries.len() != parts as usize {
                        return Err(CodecError::Truncated { what: BATCH });
                    }
                    Command::Transact(Transact { entries, ..transact })
                }
                BatchRow::Part(_) => return Err(CodecError::Malformed { what: BATCH }),
            });
        }
        Ok(Self { origin, boot, low_water, low_staging, commands })
    }
}

/// The row has to be an entry of the transaction before it.
fn part(row: Result<BatchRow, CodecError>) -> Result<TransactEntry, CodecError> {
    match row? {
        BatchRow::Part(entry) => Ok(entry),
        BatchRow::Command(_) | BatchRow::Transact(..) => Err(CodecError::Malformed { what: BATCH }),
    }
}

/// Writes row after row.
struct RowWriter {
    out: Vec<u8>,
    /// The number of the next row.
    n: u32,
    /// Where it starts.
    start: usize,
    /// For heads: each uses it again.
    scratch: Vec<u8>,
}

impl RowWriter {
    /// Appends tag, length, head and payload, and seals them.
    fn row<'a>(&mut self, encode: impl FnOnce(Vec<u8>) -> (u8, Vec<u8>, &'a [u8])) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (kind, head, payload) = encode(scratch);
        self.out.push(VERSION << 4 | kind);
        self.out = put(std::mem::take(&mut self.out), &(head.len() + payload.len()));
        self.out.extend_from_slice(&head);
        self.out.extend_from_slice(payload);
        self.scratch = head;
        seal(&mut self.out, self.n, self.start);
        (self.n, self.start) = (self.n + 1, self.out.len());
    }
}

/// The tag of a body, and where its content lies, relative to the body.
fn locate_body(data: &[u8]) -> Result<(u8, Range<usize>), CodecError> {
    let mut reader = Reader::new(ROW, data);
    let tag = reader.take::<u8>()?;
    let version = tag >> 4;
    if version != VERSION {
        return Err(CodecError::Version { what: ROW, found: version, known: VERSION });
    }
    let length = reader.take::<usize>()?;
    if length > reader.rest().len() {
        return Err(CodecError::Truncated { what: ROW });
    }
    let start = data.len() - reader.rest().len();
    Ok((tag & 0x0f, start..start + length))
}

/// Where the rows of an entry lie. Looks at lengths only; checksums are the caller's.
fn split(data: &[u8]) -> Result<(Header, Vec<Range<usize>>), CodecError> {
    let (header, body) = Header::decode(data)?;
    let rest = data.len() - body;
    // Before anything is set aside for them: so many rows do not fit in here.
    if header.count as usize > rest / ROW_BYTES_MIN {
        return Err(CodecError::Truncated { what: BATCH });
    }
    let mut ranges = Vec::with_capacity(header.count.max(1) as usize);
    let (mut start, mut at) = (0, body);
    for _ in 0..header.count {
        let (_, content) = locate_body(&data[at..])?;
        let end = at + content.end + checksum::BYTES;
        if end > data.len() {
            return Err(CodecError::Truncated { what: BATCH });
        }
        ranges.push(start..end);
        (start, at) = (end, end);
    }
    if header.count == 0 {
        start = body + checksum::BYTES;
        ranges.push(0..start);
    }
    match start.cmp(&data.len()) {
        std::cmp::Ordering::Equal => Ok((header, ranges)),
        std::cmp::Ordering::Less => Err(CodecError::Trailing { what: BATCH }),
        std::cmp::Ordering::Greater => Err(CodecError::Truncated { what: BATCH }),
    }
}

/// Compares the checksum at the end of a row and returns what is before it.
fn verify(n: u32, row: &[u8]) -> Result<&[u8], CodecError> {
    let at = row.len().checked_sub(checksum::BYTES).ok_or(CodecError::Truncated { what: ROW })?;
    let (content, stored) = row.split_at(at);
    let sound = row_scope(n).with(content).to_bytes() == *stored || planted::is(Bug::RowUnchecked);
    if sound { Ok(content) } else { Err(CodecError::Checksum { what: ROW }) }
}

/// Splits a log entry into its rows without copying, and checks each: row 0 is the batch's header
/// with the first row of the first command, if there is one. Joined, they are the entry.
///
/// # Errors
/// The bytes are not a whole, sound batch.
pub fn rows(data: &Bytes) -> Result<Vec<Bytes>, CodecError> {
    let (_, ranges) = split(data)?;
    (0..)
        .zip(ranges)
        .map(|(n, range)| {
            let row = data.slice(range);
            verify(n, &row)?;
            Ok(row)
        })
        .collect()
}

/// What is in row `n`. Its payload is a slice of the row, not a copy.
///
/// # Errors
/// Damage, a row of another number, or a row 0 without a command.
pub fn decode_row(n: u32, row: &Bytes) -> Result<BatchRow, CodecError> {
    let content = verify(n, row)?;
    let start = if n == 0 { Header::decode(content)?.1 } else { 0 };
    let (kind, range) = locate_body(&content[start..])?;
    let range = start + range.start..start + range.end;
    if range.end != content.len() {
        return Err(CodecError::Trailing { what: ROW });
    }
    head::decode(kind, &row.slice(range))
}

/// The entry in row `n`, given what its index says of it.
///
/// # Errors
/// As [`decode_row`], and [`CodecError::Mismatch`] when the row holds no entry or one of another
/// context.
pub fn row_entry(
    n: u32,
    row: &Bytes,
    context_id: &str,
    sequence: Sequence,
    position: Position,
    lamport: Lamport,
) -> Result<Entry, CodecError> {
    let (entry, id, appended_at_ns) = match decode_row(n, row)? {
        BatchRow::Command(Command::Append(append)) => (append.entry, append.id, append.appended_at_ns),
        BatchRow::Part(part) => (part.entry, part.id, part.appended_at_ns),
        _ => return Err(CodecError::Mismatch { what: ROW }),
    };
    if entry.context_id != context_id {
        return Err(CodecError::Mismatch { what: ROW });
    }
    let NewEntry { context_id, key, payload, metadata } = entry;
    Ok(Entry { context_id, key, payload, metadata, id, sequence, position, appended_at_ns, lamport })
}

/// The chunk in row `n`, given what its index says of it.
///
/// # Errors
/// As [`decode_row`], and [`CodecError::Mismatch`] when the row holds no chunk, or another one.
pub fn row_chunk(n: u32, row: &Bytes, context_id: &str, first: Sequence, count: u32) -> Result<Stage, CodecError> {
    match decode_row(n, row)? {
        BatchRow::Command(Command::Stage(stage))
            if stage.context_id == context_id && stage.first == first && stage.entries.len() == count as usize =>
        {
            Ok(stage)
        }
        _ => Err(CodecError::Mismatch { what: ROW }),
    }
}
