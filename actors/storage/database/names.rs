//! Which names there are: a print of each context's name and of each idempotency key, in buckets.
//!
//! A row that is found vouches for itself; one that is not found has nothing to vouch for it. A bucket is always there,
//! and its checksum covers all prints in it: a name whose print is not in its bucket is absent. Where the print is there and
//! the row is not, the row was lost: a print has 128 bits, so that no two names are met that share one.
//!
//! The buckets are those of linear hashing (W. Litwin, "Linear Hashing: A New Tool for File and Table Addressing", 1980):
//! how many there are follows from how many names there were at most, and with each further bucket one is split.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use converge_ledger_core::ContextNo;
use converge_ledger_core::codec::{decode_keyed, encode_keyed};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::tables::{META, META_COUNTS, RowCounts, meta_from};
use super::trouble::Trouble;

pub(crate) const NAMES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("names");

/// So many names have a bucket, on average.
const NAMES_PER_BUCKET: u64 = 32;
/// A bucket takes no more. Names that were chosen to meet in one cost their own lookups, and nobody else's.
const PRINTS_MAX: usize = 16 * NAMES_PER_BUCKET as usize;

/// Of a name: the beginning of its BLAKE3 hash.
pub(crate) type Print = [u8; 16];

/// The print of a context's name.
pub(crate) fn of_context(context: &str) -> Print {
    print(&[b"c", context.as_bytes()])
}

/// The print of an idempotency key.
pub(crate) fn of_key(context: ContextNo, key: &str) -> Print {
    print(&[b"k", &context.get().to_le_bytes(), key.as_bytes()])
}

fn print(parts: &[&[u8]]) -> Print {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes")
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Bucket {
    /// There were more than it takes, here or where it was split from.
    is_full: bool,
    prints: Vec<Print>,
}

impl Bucket {
    fn put(&mut self, print: Print) {
        if self.prints.len() < PRINTS_MAX {
            self.prints.push(print);
        } else {
            self.is_full = true;
        }
    }

    /// Where it is not here, it was one too many: the bucket stays full, for of the others nothing is known.
    fn take(&mut self, print: &Print) {
        if let Some(at) = self.prints.iter().position(|other| other == print) {
            self.prints.swap_remove(at);
        }
    }

    /// The part of it that belongs into the last of `buckets`.
    fn split(&mut self, buckets: u64) -> Bucket {
        let goes = |print: &Print| place(*print, buckets) == buckets - 1;
        let (prints, stays) = std::mem::take(&mut self.prints).into_iter().partition(goes);
        self.prints = stays;
        Bucket { is_full: self.is_full, prints }
    }

    fn value(&self, number: u64) -> Vec<u8> {
        encode_keyed(&number.to_le_bytes(), self)
    }

    fn from(number: u64, value: &[u8]) -> Result<Bucket, String> {
        decode_keyed(&number.to_le_bytes(), value).map_err(|error| format!("bucket {number} of names: {error}"))
    }
}

/// How many buckets so many names have.
pub(crate) fn buckets(names: u64) -> u64 {
    if names == 0 { 0 } else { names / NAMES_PER_BUCKET + 1 }
}

/// The bucket of a print, of so many.
fn place(print: Print, buckets: u64) -> u64 {
    let wide = buckets.next_power_of_two();
    let [low, ..] = print.as_chunks::<8>().0 else { unreachable!("it has two of them") };
    let at = u64::from_le_bytes(*low) & (wide - 1);
    if at < buckets { at } else { at & (wide / 2 - 1) }
}

/// Puts new names down, then takes those away that are `gone`, after which there are so many names. Says how many buckets
/// there are: never fewer than there were.
pub(crate) fn change(txn: &WriteTransaction, names: u64, new: &[Print], gone: &[Print]) -> Result<u64, redb::Error> {
    let mut table = txn.open_table(NAMES)?;
    let mut touched: BTreeMap<u64, Bucket> = BTreeMap::new();
    let from = table.len()?;
    let to = buckets(names).max(from);
    for number in from..to {
        let new = match number.checked_ilog2() {
            None => Bucket::default(),
            Some(bit) => touch(&table, &mut touched, number & !(1 << bit))?.split(number + 1),
        };
        touched.insert(number, new);
    }
    for print in new {
        touch(&table, &mut touched, place(*print, to))?.put(*print);
    }
    // A name can be both: it came and left within one commit.
    for print in gone {
        touch(&table, &mut touched, place(*print, to))?.take(print);
    }
    for (number, bucket) in &touched {
        table.insert(number, &bucket.value(*number)[..])?;
    }
    Ok(to)
}

fn touch<'a>(
    table: &impl ReadableTable<u64, &'static [u8]>,
    touched: &'a mut BTreeMap<u64, Bucket>,
    number: u64,
) -> Result<&'a mut Bucket, redb::Error> {
    match touched.entry(number) {
        Slot::Occupied(slot) => Ok(slot.into_mut()),
        Slot::Vacant(slot) => {
            let missing = || redb::Error::Corrupted(format!("bucket {number} of names is missing"));
            let bucket = Bucket::from(number, table.get(number)?.ok_or_else(missing)?.value());
            Ok(slot.insert(bucket.map_err(redb::Error::Corrupted)?))
        }
    }
}

/// What the buckets say of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// There is none.
    Absent,
    /// There is one.
    There,
    /// Its bucket is full: it may be one that did not fit.
    Untold,
}

/// Whether there is a name of this print.
pub(crate) fn ask(txn: &ReadTransaction, print: Print) -> Result<Known, Trouble> {
    let meta = txn.open_table(META)?;
    let counts = meta.get(META_COUNTS)?;
    let counts = counts.ok_or_else(|| Trouble::DataLoss("the counts of rows are missing".into()))?;
    let counts: RowCounts = meta_from(META_COUNTS, counts.value()).map_err(Trouble::DataLoss)?;
    let buckets = counts.names;
    if buckets == 0 {
        return Ok(Known::Absent);
    }
    let number = place(print, buckets);
    let bucket = txn.open_table(NAMES)?.get(number)?;
    let bucket = bucket.ok_or_else(|| Trouble::DataLoss(format!("bucket {number} of names is missing")))?;
    let bucket = Bucket::from(number, bucket.value()).map_err(Trouble::DataLoss)?;
    Ok(match bucket.prints.contains(&print) {
        true => Known::There,
        false if bucket.is_full => Known::Untold,
        false => Known::Absent,
    })
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase};

    use super::super::tables::meta_value;
    use super::*;

    fn database() -> Database {
        Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
    }

    /// One commit, as storage makes it.
    fn put(db: &Database, before: u64, prints: &[Print]) -> u64 {
        change(db, before + prints.len() as u64, prints, &[])
    }

    fn change(db: &Database, names: u64, new: &[Print], gone: &[Print]) -> u64 {
        let txn = db.begin_write().unwrap();
        let buckets = super::change(&txn, names, new, gone).unwrap();
        let counts = RowCounts { names: buckets, ..RowCounts::default() };
        txn.open_table(META).unwrap().insert(META_COUNTS, &meta_value(META_COUNTS, &counts)[..]).unwrap();
        txn.commit().unwrap();
        names
    }

    fn known(db: &Database, print: Print) -> Known {
        ask(&db.begin_read().unwrap(), print).unwrap()
    }

    #[test]
    fn a_name_is_absent_until_it_is_put_however_many_there_are() {
        let db = database();
        let prints: Vec<Print> = (0..3000).map(|n| of_key(ContextNo(n % 7), &format!("key {n}"))).collect();
        let mut names = put(&db, 0, &[]);
        assert_eq!(known(&db, prints[0]), Known::Absent);
        for some in prints.chunk_by(|one, _| one[0] % 37 != 0) {
            assert!(some.iter().all(|print| known(&db, *print) == Known::Absent));
            names = put(&db, names, some);
            assert!(some.iter().all(|print| known(&db, *print) == Known::There));
        }
        assert!(
            prints.iter().all(|print| known(&db, *print) == Known::There),
            "one was lost where its bucket was split"
        );
        let table = db.begin_read().unwrap().open_table(NAMES).unwrap();
        assert_eq!(table.len().unwrap(), buckets(names));
        let most = |row: Result<(_, redb::AccessGuard<'_, &[u8]>), _>| row.unwrap().1.value().len();
        assert!(table.iter().unwrap().map(most).max() < Some(64 * NAMES_PER_BUCKET as usize), "names are spread");
    }

    #[test]
    fn names_that_are_gone_are_absent_and_leave_room_in_their_buckets() {
        let db = database();
        let name = |n: u64| of_key(ContextNo(1), &format!("key {n}"));
        let (window, rounds) = (500_u64, 8_u64);
        for round in 0..rounds {
            let of = |round: u64| (round * window..(round + 1) * window).map(name).collect::<Vec<_>>();
            let gone = round.checked_sub(1).map(of).unwrap_or_default();
            change(&db, window, &of(round), &gone);
            assert!(gone.iter().all(|print| known(&db, *print) == Known::Absent));
            assert!(of(round).iter().all(|print| known(&db, *print) == Known::There));
        }
        let table = db.begin_read().unwrap().open_table(NAMES).unwrap();
        assert_eq!(table.len().unwrap(), buckets(window));
    }

    #[test]
    fn a_bucket_is_bounded_and_one_that_is_full_proves_nothing() {
        let db = database();
        // All of them belong into one bucket, for as many buckets as there are.
        let print = |n: u128| (n << 64).to_le_bytes();
        let crowd: Vec<Print> = (0..2 * PRINTS_MAX as u128).map(print).collect();
        put(&db, 0, &crowd);
        let other = print(1 << 20);
        assert_eq!(known(&db, crowd[0]), Known::There);
        assert_eq!(known(&db, other), Known::Untold);
        assert_eq!(known(&db, [1; 16]), Known::Absent, "other buckets do as before");
    }

    #[test]
    fn a_bucket_that_is_missing_or_anothers_is_damage() {
        let db = database();
        let prints: Vec<Print> = (0..200).map(|n| of_context(&format!("context {n}"))).collect();
        put(&db, 0, &prints);
        let number = place(prints[0], buckets(200));
        let txn = db.begin_write().unwrap();
        let other = txn.open_table(NAMES).unwrap().get(number ^ 1).unwrap().unwrap().value().to_vec();
        txn.open_table(NAMES).unwrap().insert(number, &other[..]).unwrap();
        txn.commit().unwrap();
        let asked = |db: &Database| ask(&db.begin_read().unwrap(), prints[0]);
        assert!(matches!(asked(&db), Err(Trouble::DataLoss(_))));
        let txn = db.begin_write().unwrap();
        txn.open_table(NAMES).unwrap().remove(number).unwrap();
        txn.commit().unwrap();
        assert!(matches!(asked(&db), Err(Trouble::DataLoss(_))));
    }
}
