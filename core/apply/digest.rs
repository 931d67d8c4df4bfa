//! The rolling hash of the state: equal logs give equal digests, and what differs between two
//! nodes after an entry, they see by their digests.
//!
//! Hashed is what an entry changed, not the whole state. Contents enter through the chain hashes
//! of the contexts.

use serde::Serialize;

use super::changes::Changes;
use crate::codec::put;
use crate::command::Batch;
use crate::ids::{FenceEpoch, LogIndex};
use crate::state::State;

fn hash(before: &State, index: LogIndex, changes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"converge-ledger state 3");
    hasher.update(&before.digest);
    hasher.update(&before.level.to_le_bytes());
    hasher.update(&before.key_window.to_le_bytes());
    hasher.update(&index.get().to_le_bytes());
    hasher.update(changes);
    *hasher.finalize().as_bytes()
}

/// After an entry that has no commands.
pub(super) fn without_commands(before: &State, index: LogIndex) -> [u8; 32] {
    hash(before, index, &[])
}

/// After a batch. Every list goes in with its length (postcard's), so no two changes look alike.
pub(super) fn with_commands(before: &State, index: LogIndex, batch: &Batch, changes: &Changes) -> [u8; 32] {
    fn field(out: &mut Vec<u8>, value: &impl Serialize) {
        *out = put(std::mem::take(out), value);
    }
    let Changes { newer_boot, marks, last_position, contexts, outcomes: _, staged, effects } = changes;
    let mut out = Vec::with_capacity(64 * (1 + effects.outcomes.len()));
    field(&mut out, &(batch.origin, batch.boot, newer_boot, marks));
    field(&mut out, &(last_position, contexts, staged));
    field(&mut out, &(&effects.outcomes, &effects.heads, &effects.keys));
    // Not in the heads, which are hashed as they were before there were fences; none at all where none was fenced.
    let fenced = effects.heads.iter().filter(|(_, head)| head.fence_epoch > FenceEpoch(0));
    let fenced: Vec<_> = fenced.map(|(context_id, head)| (context_id, head.fence_epoch)).collect();
    if !fenced.is_empty() {
        field(&mut out, &fenced);
    }
    hash(before, index, &out)
}
