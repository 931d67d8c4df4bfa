//! A whole context as one blob: self-contained, versioned, compressed, verified as a whole before
//! a single entry of it is handed out.
//!
//! ```text
//! blob    = magic [8], version u32 LE, header, crc32c LE (of all before it), one zstd frame
//! header  = postcard(context, created_at_ns, entries, content bytes, Merkle root [32])
//! content = for each entry: postcard(sequence, id [16], time u64 LE [8], Lamport time, key),
//!           postcard(metadata), postcard(payload length), payload
//! ```
//!
//! Positions are not in it: they belong to the ledger that it was taken from. Neither are
//! idempotency keys. The Merkle root (see [`root`]) covers everything else of every entry; the
//! checksum covers the header, so damage is named where it is.

mod merkle;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::mem;

use bytes::Bytes;
use serde::Deserialize;

use crate::checksum::{self, crc32c};
use crate::codec::put;
use crate::entry::{EMPTY_CHAIN, Entry};
use crate::ids::{EntryId, Lamport, Position, Sequence};
use crate::planted::{self, Bug};

pub use merkle::root;

/// The newest snapshot format, and the one that is written.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"CVLEDSNP";
/// Where the header starts.
const PREAMBLE_BYTES: usize = MAGIC.len() + mem::size_of::<u32>();
/// A usual level: the snapshot of a context is taken while it is in use.
const COMPRESSION_LEVEL: i32 = 3;
/// No frame of ours wants a window above 2 MiB; this bounds what a stranger's may take.
const WINDOW_LOG_MAX: u32 = 23;
/// Memory of a pair of metadata besides its text, as it is charged to the limit.
const PAIR_BYTES: u64 = 96;

/// What a sound snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The context that it was taken of.
    pub context_id: String,
    /// When it was taken, nanoseconds since 1970.
    pub created_at_ns: u64,
    /// Sequences 1..=n of that context, all with position 0.
    pub entries: Vec<Entry>,
}

/// A blob is refused; nothing of it is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Something else altogether.
    #[error("not a Converge Ledger snapshot: it does not start as one")]
    Foreign,
    /// Written by a newer program, or damaged there.
    #[error("snapshot format {found} is unknown to this program, which reads up to {known}: upgrade it")]
    Version {
        /// The version found.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The blob ends before the snapshot does.
    #[error("snapshot is truncated: copy it again")]
    Truncated,
    /// There are bytes behind the snapshot.
    #[error("snapshot has {bytes} bytes behind its end: copy it again")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The header is not the one that was written.
    #[error("snapshot header fails its checksum: copy it again")]
    Checksum,
    /// The compressed content is damaged.
    #[error("snapshot cannot be decompressed: {0}")]
    Compression(String),
    /// It would take more memory than it may.
    #[error("snapshot takes more than {limit} bytes when unpacked: raise the limit")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The content is not what its header announces, or not entries.
    #[error("snapshot content is malformed: {0}")]
    Malformed(&'static str),
    /// The entries are not 1, 2, 3 …
    #[error("snapshot entries are out of order: sequence {found} stands where {expected} belongs")]
    Order {
        /// The sequence that belongs there.
        expected: Sequence,
        /// The sequence that stands there.
        found: Sequence,
    },
    /// The entries are not those that the Merkle root was made of.
    #[error("snapshot entries do not match their Merkle root: the snapshot was altered")]
    Root,
}

/// The blob of a whole context.
///
/// # Panics
/// When the entries are not sequences 1..=n of this context.
#[must_use]
pub fn encode(context_id: &str, entries: &[Entry], created_at_ns: u64) -> Vec<u8> {
    let mut content = Vec::new();
    for (sequence, entry) in (1..).map(Sequence).zip(entries) {
        assert_eq!(entry.sequence, sequence, "a snapshot holds a context from its start");
        assert_eq!(entry.context_id, context_id, "a snapshot holds one context");
        content = put_entry(content, entry);
    }
    let count = entries.len() as u64;
    let content_bytes = content.len() as u64;
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    let mut out = put(out, &(context_id, created_at_ns, count, content_bytes, root(entries)));
    let checksum = crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    let frame = zstd::bulk::compress(&content, COMPRESSION_LEVEL);
    out.extend_from_slice(&frame.expect("compressing memory into memory has no way to fail"));
    out
}

fn put_entry(out: Vec<u8>, entry: &Entry) -> Vec<u8> {
    let time = entry.appended_at_ns.to_le_bytes();
    let out = put(out, &(entry.sequence, entry.id, time, entry.lamport, &entry.key));
    let mut out = put(out, &(&entry.metadata, entry.payload.len()));
    out.extend_from_slice(&entry.payload);
    out
}

/// Reads a blob and verifies all of it. `limit_bytes` bounds the memory that its content may
/// take, in whatever shape: the blob itself is not counted.
///
/// # Errors
/// Anything but what [`encode`] wrote.
pub fn decode(blob: &[u8], limit_bytes: usize) -> Result<Decoded, SnapshotError> {
    let (header, frame) = take_header(blob)?;
    let mut budget = Budget::new(limit_bytes);
    budget.charge(header.content_bytes)?;
    let entry_bytes = mem::size_of::<Entry>() as u64 + header.context_id.len() as u64;
    budget.charge(header.count.saturating_mul(entry_bytes))?;
    let content = decompress(frame, header.content_bytes)?;
    let entries = take_entries(&header, &content, &mut budget)?;
    if root(&entries) != header.root && !planted::is(Bug::SnapshotUnchecked) {
        return Err(SnapshotError::Root);
    }
    let Header { context_id, created_at_ns, .. } = header;
    Ok(Decoded { context_id: context_id.to_owned(), created_at_ns, entries })
}

/// The chain hash after every entry, as [`crate::Head::chain`] had it: two contexts are the same
/// up to a sequence if and only if these are equal there.
#[must_use]
pub fn chain(entries: &[Entry]) -> Vec<[u8; 32]> {
    let step = |last: &mut [u8; 32], entry: &Entry| {
        *last = entry.chain(last);
        Some(*last)
    };
    entries.iter().scan(EMPTY_CHAIN, step).collect()
}

struct Header<'a> {
    context_id: &'a str,
    created_at_ns: u64,
    count: u64,
    content_bytes: u64,
    root: [u8; 32],
}

/// What is left of the memory that a snapshot may take.
struct Budget {
    left: u64,
    limit: usize,
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self { left: limit as u64, limit }
    }

    fn charge(&mut self, bytes: u64) -> Result<(), SnapshotError> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or(SnapshotError::TooLarge { limit: self.limit })?;
        Ok(())
    }
}

/// The header, and the bytes behind its checksum.
fn take_header(blob: &[u8]) -> Result<(Header<'_>, &[u8]), SnapshotError> {
    let magic = blob.len().min(MAGIC.len());
    if blob[..magic] != MAGIC[..magic] {
        return Err(SnapshotError::Foreign);
    }
    let version = blob.get(MAGIC.len()..PREAMBLE_BYTES).ok_or(SnapshotError::Truncated)?;
    let found = u32::from_le_bytes(version.try_into().expect("a slice of four bytes"));
    if found != VERSION {
        return Err(SnapshotError::Version { found, known: VERSION });
    }
    let mut rest = &blob[PREAMBLE_BYTES..];
    // Before its checksum is known to be right, a failure to read it is damage.
    let (context_id, created_at_ns, count, content_bytes, root) = take(&mut rest, SnapshotError::Checksum)?;
    let (body, stored) = rest
        .split_at_checked(checksum::BYTES)
        .map(|(stored, frame)| (frame, stored))
        .ok_or(SnapshotError::Truncated)?;
    if crc32c(&blob[..blob.len() - rest.len()]).to_le_bytes() != *stored {
        return Err(SnapshotError::Checksum);
    }
    Ok((Header { context_id, created_at_ns, count, content_bytes, root }, body))
}

/// One postcard piece.
fn take<'a, T: Deserialize<'a>>(data: &mut &'a [u8], otherwise: SnapshotError) -> Result<T, SnapshotError> {
    let (value, rest) = postcard::take_from_bytes(data).map_err(|error| match error {
        postcard::Error::DeserializeUnexpectedEnd => SnapshotError::Truncated,
        _ => otherwise,
    })?;
    *data = rest;
    Ok(value)
}

/// The content of the frame, if it is exactly that long and the frame is all there is.
fn decompress(frame: &[u8], content_bytes: u64) -> Result<Bytes, SnapshotError> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => SnapshotError::Truncated,
        _ => SnapshotError::Compression(error.to_string()),
    };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(failed)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(failed)?;
    let mut content = Vec::new();
    // One byte more than announced: reading it is how a bomb, or the end of the frame, shows.
    let mut bounded = decoder.by_ref().take(content_bytes.saturating_add(1));
    bounded.read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 != content_bytes {
        return Err(SnapshotError::Malformed("it is not as long as its header says"));
    }
    match decoder.finish().len() {
        0 => Ok(content.into()),
        bytes => Err(SnapshotError::Trailing { bytes }),
    }
}

fn take_entries(header: &Header<'_>, content: &Bytes, budget: &mut Budget) -> Result<Vec<Entry>, SnapshotError> {
    let mut rest = &content[..];
    let mut entries = Vec::new();
    for expected in (1..=header.count).map(Sequence) {
        let entry = take_entry(header.context_id, content, &mut rest, budget)?;
        let found = entry.sequence;
        if found != expected {
            return Err(SnapshotError::Order { expected, found });
        }
        entries.push(entry);
    }
    if rest.is_empty() {
        Ok(entries)
    } else {
        Err(SnapshotError::Malformed("it has more entries than its header says"))
    }
}

fn take_entry<'a>(
    context_id: &str,
    content: &Bytes,
    rest: &mut &'a [u8],
    budget: &mut Budget,
) -> Result<Entry, SnapshotError> {
    const ENTRY: SnapshotError = SnapshotError::Malformed("an entry cannot be decoded");
    let short = |error| match error {
        SnapshotError::Truncated => ENTRY,
        other => other,
    };
    let (sequence, id, time, lamport, key) =
        take::<(Sequence, EntryId, [u8; 8], Lamport, String)>(rest, ENTRY).map_err(short)?;
    // A map starts with its length, so its memory can be charged before it is taken.
    let pairs = take::<u64>(&mut { *rest }, ENTRY).map_err(short)?;
    budget.charge(pairs.saturating_mul(PAIR_BYTES))?;
    let (metadata, length) = take::<(BTreeMap<String, String>, usize)>(rest, ENTRY).map_err(short)?;
    let (payload, behind): (&'a [u8], _) = rest.split_at_checked(length).ok_or(ENTRY)?;
    *rest = behind;
    Ok(Entry {
        context_id: context_id.to_owned(),
        key,
        payload: content.slice_ref(payload),
        metadata,
        id,
        sequence,
        position: Position(0),
        appended_at_ns: u64::from_le_bytes(time),
        lamport,
    })
}
