//! The Merkle tree over the entries of a snapshot.
//!
//! Leaves, nodes and the root are hashed with different first bytes, so that none can stand for
//! another. Two neighbours make a node; the last of an odd level goes up as it is. The root binds
//! the number of leaves, so that no two lists of entries share one by their shape.
//!
//! It is grown leaf by leaf, and keeps only the tops of what is whole: as many as the number of
//! leaves has bits that are set.

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

fn node(left: &Hash, right: &Hash) -> Hash {
    hash(&[NODE, left, right])
}

/// A tree as far as it has grown.
#[derive(Default)]
pub(super) struct Tree {
    count: u64,
    /// Tops of whole trees and how many levels each has; every one lower than that before it.
    tops: Vec<(u32, Hash)>,
}

impl Tree {
    pub(super) fn push(&mut self, entry: &Entry) {
        let (mut level, mut right) = (0, leaf(entry));
        while let Some((_, left)) = self.tops.pop_if(|(of, _)| *of == level) {
            (level, right) = (level + 1, node(&left, &right));
        }
        self.tops.push((level, right));
        self.count += 1;
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// See [`root`].
    pub(super) fn root(&self) -> Hash {
        let count = self.count.to_le_bytes();
        let tops = self.tops.iter().rev().map(|(_, top)| *top);
        match tops.reduce(|right, left| node(&left, &right)) {
            Some(top) => hash(&[ROOT, &count, &top]),
            None => hash(&[ROOT, &count]),
        }
    }
}

/// BLAKE3 root of the Merkle tree over these entries: `hash(2, count, top)`, where the tree grows
/// out of the leaves `hash(0, sequence, id, time, Lamport time, content hash)` by nodes
/// `hash(1, left, right)`, the last of an odd level going up unchanged; no top for no entries.
/// Numbers are eight bytes, little-endian.
#[must_use]
pub fn root(entries: &[Entry]) -> [u8; 32] {
    let mut tree = Tree::default();
    entries.iter().for_each(|entry| tree.push(entry));
    tree.root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{EntryId, Lamport, Position, Sequence};

    fn entry(n: u64) -> Entry {
        Entry {
            context_id: "orders".to_owned(),
            key: String::new(),
            payload: Default::default(),
            metadata: Default::default(),
            id: EntryId([0; 16]),
            sequence: Sequence(n),
            position: Position(0),
            appended_at_ns: 0,
            lamport: Lamport(n),
        }
    }

    /// As the documentation has it, a level at a time.
    fn by_levels(entries: &[Entry]) -> Hash {
        let pair = |pair: &[Hash]| match pair {
            [left, right] => node(left, right),
            odd => odd[0],
        };
        let mut level: Vec<Hash> = entries.iter().map(leaf).collect();
        while level.len() > 1 {
            level = level.chunks(2).map(pair).collect();
        }
        let count = (entries.len() as u64).to_le_bytes();
        match level.first() {
            Some(top) => hash(&[ROOT, &count, top]),
            None => hash(&[ROOT, &count]),
        }
    }

    #[test]
    fn a_tree_grown_leaf_by_leaf_is_that_of_its_levels() {
        let entries: Vec<Entry> = (1..=70).map(entry).collect();
        for count in 0..=entries.len() {
            assert_eq!(root(&entries[..count]), by_levels(&entries[..count]), "{count} entries");
        }
    }
}
