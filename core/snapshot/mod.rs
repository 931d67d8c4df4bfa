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
//!
//! Entries are packed and unpacked one at a time: an entry takes far more memory than its bytes in
//! the content, above all where there are many small ones. What a blob takes unpacked is its
//! content and a fixed number of bytes per entry, whatever stands in it.

mod budget;
mod format;
mod merkle;
mod pack;
mod unpack;

use std::borrow::Borrow;

use crate::entry::{EMPTY_CHAIN, Entry};

pub use format::{MAGIC, SnapshotError, VERSION};
pub use merkle::root;
pub use pack::{Packer, encode};
pub use unpack::{Decoded, decode};

/// The chain hash after every entry, as [`crate::Head::chain`] had it: two contexts are the same
/// up to a sequence if and only if these are equal there.
#[must_use]
pub fn chain<E: Borrow<Entry>>(entries: impl IntoIterator<Item = E>) -> Vec<[u8; 32]> {
    let entries = entries.into_iter();
    // Of that size at once: one that grows takes up to three times as much.
    let mut chain = Vec::with_capacity(entries.size_hint().0);
    let mut last = EMPTY_CHAIN;
    for entry in entries {
        last = entry.borrow().chain(&last);
        chain.push(last);
    }
    chain
}
