//! Reading a blob, and verifying all of it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;

use super::budget::{Budget, ENTRY_BYTES, pairs_bytes, text_bytes};
use super::format::{MAGIC, PREAMBLE_BYTES, SnapshotError, VERSION};
use super::merkle::Tree;
use crate::checksum::{self, crc32c};
use crate::entry::Entry;
use crate::ids::{EntryId, Lamport, Position, Sequence};
use crate::limits::Limits;
use crate::planted::{self, Bug};

/// No frame of ours wants a window above 2 MiB; this bounds what a stranger's may take.
const WINDOW_LOG_MAX: u32 = 23;

/// What a sound snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The context that it was taken of.
    pub context_id: String,
    /// When it was taken, nanoseconds since 1970.
    pub created_at_ns: u64,
    content: Bytes,
    /// Where each entry starts in the content.
    starts: Vec<usize>,
}

impl Decoded {
    /// How many entries there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.starts.len()
    }

    /// Entries under the name of a context, all with position 0: sequences 1..=n are at 0..n.
    /// Their payloads are slices of the content, all else is made anew.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn entries<'a>(
        &'a self,
        context_id: &'a str,
        range: Range<usize>,
    ) -> impl ExactSizeIterator<Item = Entry> + 'a {
        self.starts[range].iter().map(move |start| {
            let entry = take_entry(context_id, &self.content, &mut &self.content[*start..], &Budget::new(usize::MAX));
            entry.expect("it was read before")
        })
    }
}

/// Reads a blob and verifies all of it. `limit_bytes` bounds the memory that its content may
/// take, in whatever shape, the [`super::chain`] of it included: the blob itself is not counted,
/// nor are some MiB for a decompressor.
///
/// # Errors
/// Anything but what [`super::encode`] wrote.
pub fn decode(blob: &[u8], limit_bytes: usize) -> Result<Decoded, SnapshotError> {
    let (header, frame) = take_header(blob)?;
    let mut budget = Budget::new(limit_bytes);
    budget.charge(header.content_bytes)?;
    budget.charge(header.count.saturating_mul(ENTRY_BYTES))?;
    let content = decompress(frame, header.content_bytes)?;
    let (starts, root) = take_entries(&header, &content, &budget)?;
    if root != header.root && !planted::is(Bug::SnapshotUnchecked) {
        return Err(SnapshotError::Root);
    }
    let SnapshotHeader { context_id, created_at_ns, .. } = header;
    Ok(Decoded { context_id: context_id.to_owned(), created_at_ns, content, starts })
}

struct SnapshotHeader<'a> {
    context_id: &'a str,
    created_at_ns: u64,
    count: u64,
    content_bytes: u64,
    root: [u8; 32],
}

/// The header, and the bytes behind its checksum.
fn take_header(blob: &[u8]) -> Result<(SnapshotHeader<'_>, &[u8]), SnapshotError> {
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
    let (context_id, created_at_ns, count, content_bytes, root) =
        take::<(&str, u64, u64, u64, [u8; 32])>(&mut rest, SnapshotError::Checksum)?;
    let (body, stored) = rest
        .split_at_checked(checksum::BYTES)
        .map(|(stored, frame)| (frame, stored))
        .ok_or(SnapshotError::Truncated)?;
    if crc32c(&blob[..blob.len() - rest.len()]).to_le_bytes() != *stored {
        return Err(SnapshotError::Checksum);
    }
    if context_id.len() > Limits::CONTRACT.context_id_bytes {
        return Err(SnapshotError::Malformed("its context has a longer name than any"));
    }
    Ok((SnapshotHeader { context_id, created_at_ns, count, content_bytes, root }, body))
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
    let length = usize::try_from(content_bytes).expect("it was charged");
    // Of that size at once: one that grows takes up to three times as much.
    let mut content = Vec::with_capacity(length.saturating_add(1));
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

/// Where every entry starts, and the root of the tree over them.
fn take_entries(
    header: &SnapshotHeader<'_>,
    content: &Bytes,
    budget: &Budget,
) -> Result<(Vec<usize>, [u8; 32]), SnapshotError> {
    let mut rest = &content[..];
    let mut tree = Tree::default();
    let mut starts = Vec::with_capacity(usize::try_from(header.count).expect("it was charged"));
    for expected in (1..=header.count).map(Sequence) {
        starts.push(content.len() - rest.len());
        let entry = take_entry(header.context_id, content, &mut rest, budget)?;
        let found = entry.sequence;
        if found != expected {
            return Err(SnapshotError::Order { expected, found });
        }
        tree.push(&entry);
    }
    if rest.is_empty() {
        Ok((starts, tree.root()))
    } else {
        Err(SnapshotError::Malformed("it has more entries than its header says"))
    }
}

fn take_entry<'a>(
    context_id: &str,
    content: &Bytes,
    rest: &mut &'a [u8],
    budget: &Budget,
) -> Result<Entry, SnapshotError> {
    const ENTRY: SnapshotError = SnapshotError::Malformed("an entry cannot be decoded");
    let short = |error| match error {
        SnapshotError::Truncated => ENTRY,
        other => other,
    };
    let (sequence, id, time, lamport, key) =
        take::<(Sequence, EntryId, [u8; 8], Lamport, &'a str)>(rest, ENTRY).map_err(short)?;
    // A map starts with its length, so its memory can be charged before it is taken.
    let pairs = take::<u64>(&mut { *rest }, ENTRY).map_err(short)?;
    budget.fits(pairs_bytes(pairs))?;
    let (metadata, length) = take::<(BTreeMap<&'a str, &'a str>, usize)>(rest, ENTRY).map_err(short)?;
    budget.fits(text_bytes(key, &metadata))?;
    let (payload, behind): (&'a [u8], _) = rest.split_at_checked(length).ok_or(ENTRY)?;
    *rest = behind;
    Ok(Entry {
        context_id: context_id.to_owned(),
        key: key.to_owned(),
        payload: content.slice_ref(payload),
        metadata: metadata.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        id,
        sequence,
        position: Position(0),
        appended_at_ns: u64::from_le_bytes(time),
        lamport,
    })
}
