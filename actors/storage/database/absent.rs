//! That a row is really absent.
//!
//! The database checks its pages on repair only, and a row that is found vouches for itself; a
//! lookup that finds nothing has nothing to vouch for it, though one flipped bit can hide a row: in
//! its key, in a key of a branch, in a pointer to a page. So an absence is looked at from both
//! sides: the rows next to the gap must be sound, lie on their sides of it, and be each other's
//!
//! What a table has altogether, and where it ends, is looked at when it is opened (`stored`).
//!
//! What stays, there: a pointer whose flipped bit makes it one to an earlier version of the same page, or to a page below
//! it.

use std::ops::Bound;

use redb::{Key, ReadOnlyTable, ReadTransaction};

use super::names::{self, Known, Print};
use super::tables::{head_from, key_from};
use super::trouble::Trouble;

/// A table whose values vouch for their keys.
pub(crate) trait Vouched: Key + 'static {
    fn vouch(key: &Self::SelfType<'_>, value: &[u8]) -> Result<(), String>;
    fn name(key: &Self::SelfType<'_>) -> String;
}

/// Contexts.
impl Vouched for &'static str {
    fn vouch(key: &&str, value: &[u8]) -> Result<(), String> {
        head_from(key, value).map(drop)
    }

    fn name(key: &&str) -> String {
        format!("context {key:?}")
    }
}

/// Idempotency keys.
impl Vouched for (u64, &'static str) {
    fn vouch((context, key): &(u64, &str), value: &[u8]) -> Result<(), String> {
        key_from(converge_ledger_core::ContextNo(*context), key, value).map(drop)
    }

    fn name((context, key): &(u64, &str)) -> String {
        format!("idempotency key {key:?} of context {context}")
    }
}

type RowTable<K> = ReadOnlyTable<K, &'static [u8]>;

/// Checks that a row that was not found is not there.
pub(crate) fn check<K: Vouched>(
    txn: &ReadTransaction,
    table: &RowTable<K>,
    key: &K::SelfType<'_>,
    print: Print,
) -> Result<(), Trouble> {
    match names::ask(txn, print)? {
        Known::Absent => Ok(()),
        Known::There => {
            let what = format!("the database has no row of {}, though it knows the name", K::name(key));
            Err(Trouble::DataLoss(what))
        }
        Known::Untold => check_gap::<K>(table, key),
    }
}

fn check_gap<K: Vouched>(table: &RowTable<K>, key: &K::SelfType<'_>) -> Result<(), Trouble> {
    let at = K::as_bytes(key);
    let (before, behind) = (before::<K>(table, at.as_ref())?, behind::<K>(table, at.as_ref())?);
    let far = match (&before, &behind) {
        (Some(before), Some(behind)) => {
            let (next, last) = (self::behind::<K>(table, before)?, self::before::<K>(table, behind)?);
            next.as_ref() == Some(behind) && last.as_ref() == Some(before)
        }
        (Some(before), None) => self::behind::<K>(table, before)?.is_none(),
        (None, Some(behind)) => self::before::<K>(table, behind)?.is_none(),
        (None, None) => true,
    };
    let low = before.as_ref().is_none_or(|row| K::compare(row, at.as_ref()).is_lt());
    let high = behind.as_ref().is_none_or(|row| K::compare(row, at.as_ref()).is_gt());
    if low && high && far {
        return Ok(());
    }
    Err(Trouble::DataLoss(format!("the database cannot tell whether it has {}: a page is damaged", K::name(key))))
}

/// The key of the last row before a key.
fn before<K: Vouched>(table: &RowTable<K>, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
    let key = K::from_bytes(key);
    let range = (Bound::Unbounded, Bound::Excluded(&key));
    neighbour::<K>(table.range::<K::SelfType<'_>>(range)?.next_back())
}

/// The key of the first row behind a key.
fn behind<K: Vouched>(table: &RowTable<K>, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
    let key = K::from_bytes(key);
    let range = (Bound::Excluded(&key), Bound::Unbounded);
    neighbour::<K>(table.range::<K::SelfType<'_>>(range)?.next())
}

type Row<'a, K> = Result<(redb::AccessGuard<'a, K>, redb::AccessGuard<'a, &'static [u8]>), redb::StorageError>;

fn neighbour<K: Vouched>(row: Option<Row<'_, K>>) -> Result<Option<Vec<u8>>, Trouble> {
    let Some((key, value)) = row.transpose()? else {
        return Ok(None);
    };
    let key = key.value();
    K::vouch(&key, value.value()).map_err(Trouble::DataLoss)?;
    Ok(Some(K::as_bytes(&key).as_ref().to_vec()))
}
