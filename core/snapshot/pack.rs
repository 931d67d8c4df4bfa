//! Writing a blob.

use std::io::Write;
use std::mem;

use super::budget::{Budget, ENTRY_BYTES, text_bytes};
use super::format::{MAGIC, SnapshotError, VERSION};
use super::merkle::Tree;
use crate::checksum::crc32c;
use crate::codec::put;
use crate::entry::Entry;
use crate::ids::Sequence;

/// A usual level: the snapshot of a context is taken while it is in use.
const COMPRESSION_LEVEL: i32 = 3;
/// Content waits for the compressor until there is so much of it.
const PIECE_BYTES: usize = 1 << 20;
const TO_MEMORY: &str = "compressing memory into memory has no way to fail";

/// Takes the entries of a context, from the first on, and makes a blob of them. Holds what is
/// compressed already, a piece of what is not, and no entry.
pub struct Packer {
    context_id: String,
    tree: Tree,
    budget: Budget,
    /// The most that the texts of an entry take while they are read.
    texts_max: u64,
    content_bytes: u64,
    piece: Vec<u8>,
    frame: zstd::stream::write::Encoder<'static, Vec<u8>>,
}

impl Packer {
    /// For a context, up to what [`super::decode`] unpacks with this limit.
    ///
    /// # Panics
    /// Where there is no memory for a compressor.
    #[must_use]
    pub fn new(context_id: impl Into<String>, limit_bytes: usize) -> Self {
        Self {
            context_id: context_id.into(),
            tree: Tree::default(),
            budget: Budget::new(limit_bytes),
            texts_max: 0,
            content_bytes: 0,
            piece: Vec::new(),
            frame: zstd::stream::write::Encoder::new(Vec::new(), COMPRESSION_LEVEL).expect("a level that exists"),
        }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`SnapshotError::TooLarge`].
    ///
    /// # Panics
    /// When it is not the next one of this context.
    pub fn push(&mut self, entry: &Entry) -> Result<(), SnapshotError> {
        assert_eq!(entry.sequence, Sequence(self.count() + 1), "a snapshot holds a context from its start");
        assert_eq!(entry.context_id, self.context_id, "a snapshot holds one context");
        let before = self.piece.len();
        self.piece = put_entry(mem::take(&mut self.piece), entry);
        let bytes = (self.piece.len() - before) as u64;
        self.budget.charge(bytes + ENTRY_BYTES)?;
        self.texts_max = self.texts_max.max(text_bytes(&entry.key, &entry.metadata));
        self.budget.fits(self.texts_max)?;
        self.tree.push(entry);
        self.content_bytes += bytes;
        if self.piece.len() >= PIECE_BYTES {
            self.frame.write_all(&self.piece).expect(TO_MEMORY);
            self.piece.clear();
        }
        Ok(())
    }

    /// Entries taken.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.tree.count()
    }

    /// What the blob has at least by now, in bytes.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        self.frame.get_ref().len()
    }

    /// The blob.
    ///
    /// # Panics
    /// Where there is no memory for it.
    #[must_use]
    pub fn finish(mut self, created_at_ns: u64) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&VERSION.to_le_bytes());
        let (count, root) = (self.count(), self.tree.root());
        let mut head = put(head, &(&self.context_id, created_at_ns, count, self.content_bytes, root));
        let checksum = crc32c(&head);
        head.extend_from_slice(&checksum.to_le_bytes());
        if self.content_bytes == self.piece.len() as u64 {
            // The compressor has seen nothing yet; knowing how much there is, it packs a little better.
            self.frame.set_pledged_src_size(Some(self.content_bytes)).expect("nothing was written");
        }
        self.frame.write_all(&self.piece).expect(TO_MEMORY);
        let mut blob = self.frame.finish().expect(TO_MEMORY);
        drop(blob.splice(0..0, head));
        blob
    }
}

/// The blob of a whole context that is small.
///
/// # Panics
/// When the entries are not sequences 1..=n of this context.
#[must_use]
pub fn encode(context_id: &str, entries: &[Entry], created_at_ns: u64) -> Vec<u8> {
    let mut packer = Packer::new(context_id, usize::MAX);
    for entry in entries {
        packer.push(entry).expect("there is no limit");
    }
    packer.finish(created_at_ns)
}

fn put_entry(out: Vec<u8>, entry: &Entry) -> Vec<u8> {
    let time = entry.appended_at_ns.to_le_bytes();
    let out = put(out, &(entry.sequence, entry.id, time, entry.lamport, &entry.key));
    let mut out = put(out, &(&entry.metadata, entry.payload.len()));
    out.extend_from_slice(&entry.payload);
    out
}
