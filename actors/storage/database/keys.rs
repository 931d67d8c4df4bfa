//! Idempotency keys: a row for each, in [`super::buckets`].
//!
//! Which keys still count is for the core to say ([`State::knows_key_of`]): it asks nobody whether a row is there. So a row
//! may go at any time after its key left the window, on each node at another. It goes when its bucket is written the next time,
//! for another key. Where every position has a key, a bucket is written once while as many keys come as there are buckets. In
//! that time about one of its rows leaves the window: of the rows that are stored, one for each bucket is stale, on average.

use converge_ledger_core::{ContextNo, KeyRow, Lamport, Position, Sequence, State};
use redb::{ReadOnlyTable, ReadTransaction, WriteTransaction};

use super::buckets::{self, BucketTable, Fill, Print, Scope, Secret};
use super::tables::{META, META_COUNTS, META_SECRET, RowCounts, meta_row};

pub(crate) const KEYS: BucketTable = BucketTable::new("keys");

/// Bytes of a row: print, position, sequence, Lamport time, hash of the content.
pub(crate) const KEY_BYTES: usize = 16 + 3 * 8 + 32;

type Row = [u8; KEY_BYTES];

fn print(secret: &Secret, context: ContextNo, key: &str) -> Print {
    secret.print(&[b"k", &context.get().to_le_bytes(), key.as_bytes()])
}

pub(crate) fn row_of(print: &Print, row: &KeyRow) -> Row {
    let KeyRow { position, sequence, lamport, content } = row;
    let numbers = [position.get(), sequence.get(), lamport.get()].map(u64::to_le_bytes);
    let mut bytes = [0; KEY_BYTES];
    bytes[..16].copy_from_slice(print);
    bytes[16..40].copy_from_slice(numbers.as_flattened());
    bytes[40..].copy_from_slice(content);
    bytes
}

pub(crate) fn key_of(row: &Row) -> KeyRow {
    let [position, sequence, lamport, ..] = row[16..].as_chunks().0 else { unreachable!("a row has three numbers") };
    KeyRow {
        position: Position(u64::from_le_bytes(*position)),
        sequence: Sequence(u64::from_le_bytes(*sequence)),
        lamport: Lamport(u64::from_le_bytes(*lamport)),
        content: *row.last_chunk().expect("a row ends with a hash"),
    }
}

/// Puts keys down, in a table that is filled so far, and takes away what left the window and is in their way.
pub(crate) fn put<'a>(
    txn: &WriteTransaction,
    secret: &Secret,
    state: &State,
    before: Fill,
    new: impl Iterator<Item = (ContextNo, &'a str, &'a KeyRow)>,
) -> Result<Fill, redb::Error> {
    let new = new.map(|(context, key, row)| row_of(&print(secret, context, key), row)).collect();
    buckets::put(txn, KEYS, secret, before, new, |row| state.knows_key_of(key_of(row).position))
}

/// Looks for keys, in one state of the database.
pub(crate) struct KeyReader {
    table: ReadOnlyTable<u64, &'static [u8]>,
    buckets: u64,
    secret: Secret,
    scope: Scope,
}

impl KeyReader {
    pub(crate) fn new(txn: &ReadTransaction) -> Result<KeyReader, redb::Error> {
        let meta = txn.open_table(META)?;
        let counts: RowCounts = meta_row(&meta, META_COUNTS)?;
        let secret = meta_row(&meta, META_SECRET)?;
        let (table, scope) = (txn.open_table(KEYS)?, Scope::new(&secret, KEYS));
        Ok(KeyReader { table, buckets: counts.keys.buckets, secret, scope })
    }

    pub(crate) fn key(&self, context: ContextNo, key: &str) -> Result<Option<KeyRow>, redb::Error> {
        let row = buckets::find(&self.table, &self.scope, self.buckets, &print(&self.secret, context, key))?;
        Ok(row.as_ref().map(key_of))
    }
}

/// Walks all rows. Says how many there are.
pub(crate) fn walk(txn: &ReadTransaction, mut each: impl FnMut(&KeyRow)) -> Result<u64, redb::Error> {
    let meta = txn.open_table(META)?;
    let counts: RowCounts = meta_row(&meta, META_COUNTS)?;
    let scope = Scope::new(&meta_row(&meta, META_SECRET)?, KEYS);
    buckets::walk(&txn.open_table(KEYS)?, &scope, counts.keys.buckets, |row| each(&key_of(row)))
}
