//! The Merkle tree over the entries of a snapshot.
//!
//! Leaves, nodes and the root are hashed with different first bytes, so that none can stand for
//! another. Two neighbours make a node; the last of an odd level goes up as it is. The root binds
//! the number of leaves, so that no two lists of entries share one by their shape.

use crate::entry::Entry;

const LEAF: &[u8] = &[0];
const NODE: &[u8] = &[1];
const ROOT: &[u8] = &[2];

type Hash = [u8; 32];

fn hash(pieces: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    *hasher.finalize().as_bytes()
}

/// All of an entry but its position.
fn leaf(entry: &Entry) -> Hash {
    hash(&[
        LEAF,
        &entry.sequence.get().to_le_bytes(),
        &entry.id.0,
        &entry.appended_at_ns.to_le_bytes(),
        &entry.lamport.get().to_le_bytes(),
        &entry.content_hash(),
    ])
}

fn level_above(level: &[Hash]) -> Vec<Hash> {
    let pair = |pair: &[Hash]| match pair {
        [left, right] => hash(&[NODE, left, right]),
        odd => odd[0],
    };
    level.chunks(2).map(pair).collect()
}

/// BLAKE3 root of the Merkle tree over these entries: `hash(2, count, top)`, where the tree grows
/// out of the leaves `hash(0, sequence, id, time, Lamport time, content hash)` by nodes
/// `hash(1, left, right)`, the last of an odd level going up unchanged; no top for no entries.
/// Numbers are eight bytes, little-endian.
#[must_use]
pub fn root(entries: &[Entry]) -> [u8; 32] {
    let count = (entries.len() as u64).to_le_bytes();
    let mut level: Vec<Hash> = entries.iter().map(leaf).collect();
    while level.len() > 1 {
        level = level_above(&level);
    }
    match level.first() {
        Some(top) => hash(&[ROOT, &count, top]),
        None => hash(&[ROOT, &count]),
    }
}
