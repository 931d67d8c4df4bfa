//! Idempotency keys by the position of their entry, so that their rows go when they leave the window.
//!
//! Which keys still count is for the core to say ([`converge_ledger_core::State::key_window`]): it asks nobody whether a row is
//! there. So rows may go at any time after they left the window, on each node at another. They go with commits, and the
//! table is its own cursor: what is in front of it is due next.

use converge_ledger_core::codec::{decode_keyed, encode_keyed};
use converge_ledger_core::{ContextNo, Position, State};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::names::{self, Print};
use super::tables::key_from;

pub(crate) const EXPIRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("expiries");

/// Keys in one row.
const KEYS_MAX: usize = 64;
/// A commit takes away so many rows of keys, and twice as many as it brings.
const KEYS_PER_COMMIT: usize = 256;

/// A key, and the position of the entry that it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Expiry {
    pub(crate) position: u64,
    pub(crate) context: u64,
    pub(crate) key: String,
}

/// Keys in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expiries(pub(crate) Vec<Expiry>);

pub(crate) fn expiries_value(first: u64, row: &Expiries) -> Vec<u8> {
    encode_keyed(&first.to_le_bytes(), row)
}

pub(crate) fn expiries_from(first: u64, data: &[u8]) -> Result<Expiries, String> {
    decode_keyed(&first.to_le_bytes(), data).map_err(|error| format!("expiries at position {first}: {error}"))
}

/// Puts down when these keys are due.
pub(crate) fn add(txn: &WriteTransaction, mut keys: Vec<Expiry>) -> Result<(), redb::Error> {
    keys.sort_unstable();
    let mut table = txn.open_table(EXPIRIES)?;
    for row in keys.chunks(KEYS_MAX) {
        let first = row[0].position;
        table.insert(first, &expiries_value(first, &Expiries(row.to_vec()))[..])?;
    }
    Ok(())
}

/// Takes the keys away that have left the window, as many as a commit may that brings `new` ones; their prints.
pub(crate) fn expire(
    txn: &WriteTransaction,
    keys: &mut Table<'_, (u64, &'static str), &'static [u8]>,
    state: &State,
    new: usize,
) -> Result<Vec<Print>, redb::Error> {
    let mut table = txn.open_table(EXPIRIES)?;
    let (mut gone, mut left) = (Vec::new(), KEYS_PER_COMMIT + 2 * new);
    while left > 0 {
        let row = table.first()?.map(|(first, row)| (first.value(), expiries_from(first.value(), row.value())));
        let Some((first, row)) = row else { break };
        let Expiries(due) = row.map_err(redb::Error::Corrupted)?;
        if due.last().is_some_and(|last| state.knows_key_of(Position(last.position))) {
            break;
        }
        for Expiry { position, context, key } in &due {
            let number = ContextNo(*context);
            let row = keys.get((*context, &key[..]))?.map(|row| key_from(number, key, row.value()));
            let row = row.transpose().map_err(redb::Error::Corrupted)?;
            // A later entry may have the key by now.
            let is_due = row.is_some_and(|row| row.position.get() == *position);
            if is_due {
                keys.remove((*context, &key[..]))?;
                gone.push(names::of_key(number, key));
            }
        }
        table.remove(first)?;
        left = left.saturating_sub(due.len());
    }
    Ok(gone)
}
