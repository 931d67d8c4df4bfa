//! Rows that are found by the print of their name, in buckets.
//!
//! redb checks its pages on repair only, so a row vouches for itself. A lookup that finds nothing has nothing to vouch for it,
//! though one flipped bit can hide a row: in its key, in a key of a branch, in a pointer to a page. So rows lie in buckets. Each
//! bucket is always there, and its checksum covers its [`Scope`], its number and all of its rows: a row that is not in its bucket
//! is absent. A bucket that is missing, another's, or one of another table or an earlier index, is damage. One case stays: a
//! pointer whose flipped bit makes it one to an earlier version of the same page.
//!
//! The buckets are those of linear hashing (W. Litwin, "Linear Hashing: A New Tool for File and Table Addressing", 1980):
//! how many there are follows from how many rows there were at most, and with each further bucket one is split. They never
//! become fewer.
//!
//! Clients choose the names. A print has the [`Secret`] of this index in it, so nobody can choose names that meet in one
//! bucket. How many rows a bucket has is chance (a Poisson distribution), and its average is at most twice that of all.

use converge_ledger_core::codec::{decode_flat, encode_flat};
use redb::{ReadableTable, Table, TableDefinition, TableHandle, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::storage::settings::Random;

/// A table of buckets, by number.
pub(crate) type BucketTable = TableDefinition<'static, u64, &'static [u8]>;

/// The rows of a bucket, on average: several buckets have a page, and one is quickly checked and written.
const BUCKET_BYTES: usize = 1 << 10;

const PRINT_BYTES: usize = 16;

/// The beginning of a name's keyed BLAKE3 hash. It has 128 bits, so that no two names are met that share one.
pub(crate) type Print = [u8; PRINT_BYTES];

/// Drawn by chance when an index is made. Without it nobody knows which names have prints that meet in a bucket.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

impl Secret {
    pub(crate) fn draw(random: &Random) -> Secret {
        let mut secret = [0; 32];
        secret.as_chunks_mut().0.iter_mut().for_each(|part| *part = random().to_le_bytes());
        Secret(secret)
    }

    /// The print of a name that is written in parts, each but the last of a fixed length.
    pub(crate) fn print(&self, parts: &[&[u8]]) -> Print {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes().first_chunk().expect("a hash is longer")
    }
}

/// What the buckets of one table of one index have in their checksums, and no others.
#[derive(Clone, Copy)]
pub(crate) struct Scope(pub(crate) Print);

impl Scope {
    pub(crate) fn new(secret: &Secret, table: BucketTable) -> Scope {
        Scope(secret.print(&[b"t", table.name().as_bytes()]))
    }

    /// With a bucket's number.
    pub(crate) fn key(&self, number: u64) -> [u8; PRINT_BYTES + 8] {
        let mut key = [0; PRINT_BYTES + 8];
        key[..PRINT_BYTES].copy_from_slice(&self.0);
        key[PRINT_BYTES..].copy_from_slice(&number.to_le_bytes());
        key
    }
}

/// How much a table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fill {
    pub(crate) rows: u64,
    pub(crate) buckets: u64,
}

/// How many buckets so many rows have.
fn buckets_of<const ROW: usize>(rows: u64) -> u64 {
    const { assert!(ROW >= PRINT_BYTES && ROW <= BUCKET_BYTES) }
    if rows == 0 { 0 } else { rows / (BUCKET_BYTES / ROW) as u64 + 1 }
}

/// The bucket of a print, of so many.
fn place(print: &Print, buckets: u64) -> u64 {
    let wide = buckets.next_power_of_two();
    let low = u64::from_le_bytes(*print.first_chunk().expect("a print is longer"));
    let at = low & (wide - 1);
    if at < buckets { at } else { at & (wide / 2 - 1) }
}

/// The bucket that is split when this one is made; the first one is made of none.
fn origin(number: u64) -> Option<u64> {
    number.checked_ilog2().map(|bit| number & !(1 << bit))
}

fn print_of<const ROW: usize>(row: &[u8; ROW]) -> &Print {
    row.first_chunk().expect("a row begins with its print")
}

pub(crate) fn bucket_value<const ROW: usize>(scope: &Scope, number: u64, rows: &[[u8; ROW]]) -> Vec<u8> {
    encode_flat(&scope.key(number), rows.as_flattened())
}

pub(crate) fn bucket_from<'a, const ROW: usize>(
    scope: &Scope,
    number: u64,
    data: &'a [u8],
) -> Result<&'a [[u8; ROW]], String> {
    let flat = decode_flat(&scope.key(number), data).map_err(|error| format!("bucket {number}: {error}"))?;
    match flat.as_chunks() {
        (rows, []) => Ok(rows),
        _ => Err(format!("bucket {number} ends within a row")),
    }
}

fn damaged(table: &str, what: String) -> redb::Error {
    redb::Error::Corrupted(format!("{table}: {what}"))
}

/// Finds a row in a table of so many buckets.
pub(crate) fn find<const ROW: usize>(
    table: &(impl ReadableTable<u64, &'static [u8]> + TableHandle),
    scope: &Scope,
    buckets: u64,
    print: &Print,
) -> Result<Option<[u8; ROW]>, redb::Error> {
    if buckets == 0 {
        return Ok(None);
    }
    look(table, scope, place(print, buckets), |rows| rows.iter().find(|row| print_of(row) == print).copied())
}

fn look<const ROW: usize, T>(
    table: &(impl ReadableTable<u64, &'static [u8]> + TableHandle),
    scope: &Scope,
    number: u64,
    look: impl FnOnce(&[[u8; ROW]]) -> T,
) -> Result<T, redb::Error> {
    let value = table.get(number)?;
    let value = value.ok_or_else(|| damaged(table.name(), format!("bucket {number} is missing")))?;
    bucket_from(scope, number, value.value()).map(look).map_err(|what| damaged(table.name(), what))
}

/// Puts rows into a table that is filled so far, each in place of one with its print. From each bucket that it writes it takes the rows
/// that are not to be kept.
pub(crate) fn put<const ROW: usize>(
    txn: &WriteTransaction,
    table: BucketTable,
    secret: &Secret,
    before: Fill,
    new: Vec<[u8; ROW]>,
    keeps: impl Fn(&[u8; ROW]) -> bool,
) -> Result<Fill, redb::Error> {
    let scope = Scope::new(secret, table);
    let mut table = txn.open_table(table)?;
    // Some of the new rows may replace others: then there are a few more buckets than it takes.
    let to = buckets_of::<ROW>(before.rows + new.len() as u64).max(before.buckets);
    let mut filling = Filling { table: &mut table, scope, keeps, came: 0, left: 0 };
    for number in before.buckets..to {
        filling.split(number)?;
    }
    let mut placed: Vec<(u64, [u8; ROW])> = new.into_iter().map(|row| (place(print_of(&row), to), row)).collect();
    placed.sort_unstable();
    for of_bucket in placed.chunk_by(|(one, _), (other, _)| one == other) {
        filling.join(of_bucket[0].0, of_bucket.iter().map(|(_, row)| *row))?;
    }
    let Filling { came, left, .. } = filling;
    let rows =
        (before.rows + came).checked_sub(left).ok_or_else(|| damaged(table.name(), format!("{left} rows left")))?;
    Ok(Fill { rows, buckets: to })
}

/// Writes buckets, and counts.
struct Filling<'t, 'txn, const ROW: usize, K: Fn(&[u8; ROW]) -> bool> {
    table: &'t mut Table<'txn, u64, &'static [u8]>,
    scope: Scope,
    keeps: K,
    came: u64,
    left: u64,
}

impl<const ROW: usize, K: Fn(&[u8; ROW]) -> bool> Filling<'_, '_, ROW, K> {
    /// Makes the bucket that is the next one.
    fn split(&mut self, number: u64) -> Result<(), redb::Error> {
        let Some(origin) = origin(number) else {
            return self.write(number, &[]);
        };
        let rows = self.kept(origin)?;
        let goes = |row: &[u8; ROW]| place(print_of(row), number + 1) == number;
        let (go, stay): (Vec<_>, Vec<_>) = rows.into_iter().partition(goes);
        self.write(origin, &stay)?;
        self.write(number, &go)
    }

    fn join(&mut self, number: u64, new: impl Iterator<Item = [u8; ROW]>) -> Result<(), redb::Error> {
        let mut rows = self.kept(number)?;
        for row in new {
            if !(self.keeps)(&row) {
                continue;
            }
            match rows.iter_mut().find(|other| print_of(other) == print_of(&row)) {
                Some(other) => *other = row,
                None => {
                    rows.push(row);
                    self.came += 1;
                }
            }
        }
        self.write(number, &rows)
    }

    fn kept(&mut self, number: u64) -> Result<Vec<[u8; ROW]>, redb::Error> {
        let mut rows = look(self.table, &self.scope, number, <[_]>::to_vec)?;
        let before = rows.len();
        rows.retain(&self.keeps);
        self.left += (before - rows.len()) as u64;
        Ok(rows)
    }

    fn write(&mut self, number: u64, rows: &[[u8; ROW]]) -> Result<(), redb::Error> {
        self.table.insert(number, &bucket_value(&self.scope, number, rows)[..])?;
        Ok(())
    }
}

/// Walks a table of so many buckets: each is there, and each row is in its own. Says how many rows there are.
pub(crate) fn walk<const ROW: usize>(
    table: &(impl ReadableTable<u64, &'static [u8]> + TableHandle),
    scope: &Scope,
    buckets: u64,
    mut each: impl FnMut(&[u8; ROW]),
) -> Result<u64, redb::Error> {
    let mut count = 0;
    for number in 0..buckets {
        let rows = look(table, scope, number, <[[u8; ROW]]>::to_vec)?;
        let mut prints: Vec<_> = rows.iter().map(print_of).collect();
        prints.sort_unstable();
        if prints.iter().any(|print| place(print, buckets) != number) || prints.windows(2).any(|two| two[0] == two[1]) {
            return Err(damaged(table.name(), format!("bucket {number} has a row of another, or one twice")));
        }
        rows.iter().for_each(&mut each);
        count += rows.len() as u64;
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
