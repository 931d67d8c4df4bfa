//! Which contexts there are: a print of each one's name, in [`super::buckets`].
//!
//! A context's own row is found by its name, and vouches for itself. Where none is found, its print is looked for: where that is
//! there, the row was lost.

use redb::{ReadTransaction, WriteTransaction};

use super::buckets::{self, BucketTable, Fill, Print, Scope, Secret};
use super::tables::{META, META_COUNTS, META_SECRET, RowCounts, meta_row};

pub(crate) const NAMES: BucketTable = BucketTable::new("names");

/// Bytes of a row: the print.
pub(crate) const NAME_BYTES: usize = size_of::<Print>();

fn print(secret: &Secret, context: &str) -> Print {
    secret.print(&[b"c", context.as_bytes()])
}

/// Puts down the names of new contexts, in a table that is filled so far.
pub(crate) fn put(txn: &WriteTransaction, secret: &Secret, before: Fill, new: &[&str]) -> Result<Fill, redb::Error> {
    let new: Vec<Print> = new.iter().map(|context| print(secret, context)).collect();
    buckets::put(txn, NAMES, secret, before, new, |_| true)
}

/// Whether there is a context of this name.
pub(crate) fn has(txn: &ReadTransaction, context: &str) -> Result<bool, redb::Error> {
    let meta = txn.open_table(META)?;
    let counts: RowCounts = meta_row(&meta, META_COUNTS)?;
    let secret = meta_row(&meta, META_SECRET)?;
    let (print, scope) = (print(&secret, context), Scope::new(&secret, NAMES));
    Ok(buckets::find::<NAME_BYTES>(&txn.open_table(NAMES)?, &scope, counts.names.buckets, &print)?.is_some())
}

/// Walks all names. Says how many there are.
pub(crate) fn walk(txn: &ReadTransaction) -> Result<u64, redb::Error> {
    let meta = txn.open_table(META)?;
    let counts: RowCounts = meta_row(&meta, META_COUNTS)?;
    let scope = Scope::new(&meta_row(&meta, META_SECRET)?, NAMES);
    buckets::walk::<NAME_BYTES>(&txn.open_table(NAMES)?, &scope, counts.names.buckets, |_| ())
}
