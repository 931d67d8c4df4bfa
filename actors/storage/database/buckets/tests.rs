use std::collections::BTreeMap;

use converge_ledger_core::chance::Dice;
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase};

use super::*;

const TABLE: BucketTable = BucketTable::new("rows");
/// A print, and a number that says when it may go.
const ROW: usize = 24;

fn database() -> Database {
    Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
}

fn secret() -> Secret {
    Secret([7; 32])
}

fn scope() -> Scope {
    Scope::new(&secret(), TABLE)
}

fn print(name: u64) -> Print {
    secret().print(&[b"n", &name.to_le_bytes()])
}

fn row(name: u64, number: u64) -> [u8; ROW] {
    let mut row = [0; ROW];
    row[..16].copy_from_slice(&print(name));
    row[16..].copy_from_slice(&number.to_le_bytes());
    row
}

fn number(row: &[u8; ROW]) -> u64 {
    u64::from_le_bytes(*row.last_chunk().unwrap())
}

/// One commit, as storage makes it: what has a number of at least `first` is kept.
fn put(db: &Database, before: Fill, new: Vec<[u8; ROW]>, first: u64) -> Fill {
    let txn = db.begin_write().unwrap();
    let fill = super::put(&txn, TABLE, &secret(), before, new, |row| number(row) >= first).unwrap();
    txn.commit().unwrap();
    fill
}

fn found(db: &Database, buckets: u64, name: u64) -> Result<Option<u64>, redb::Error> {
    let table = db.begin_read()?.open_table(TABLE)?;
    Ok(find::<ROW>(&table, &scope(), buckets, &print(name))?.as_ref().map(number))
}

fn walked(db: &Database, fill: Fill) -> Result<u64, redb::Error> {
    walk::<ROW>(&db.begin_read()?.open_table(TABLE)?, &scope(), fill.buckets, |_| ())
}

/// Inserts, replacements and rows that go, in commits of all sizes, against a map.
#[test]
fn buckets_have_what_a_map_has_until_it_may_go() {
    const NAMES: u64 = 3000;
    for seed in 0..4 {
        let (db, mut dice, mut model) = (database(), Dice(seed), BTreeMap::new());
        let (mut fill, mut at, mut most) = (Fill::default(), 1_u64, 0);
        let window = 1 + dice.below(2000);
        for _ in 0..60 {
            let mut new = BTreeMap::new();
            for _ in 0..dice.below(300) {
                new.insert(dice.below(NAMES), at);
                at += 1;
            }
            let first = at.saturating_sub(window);
            model.extend(&new);
            model.retain(|_, number| *number >= first);
            let before = fill;
            let rows = new.iter().map(|(name, number)| row(*name, *number)).collect();
            fill = put(&db, fill, rows, first);
            most = most.max(before.rows + new.len() as u64);
            assert_eq!(fill.buckets, buckets_of::<ROW>(most), "it follows from the rows, and never becomes less");
            assert_eq!(walked(&db, fill).unwrap(), fill.rows);
            assert!(fill.rows >= model.len() as u64);
            for name in 0..NAMES {
                // What may go may stay.
                let found = found(&db, fill.buckets, name).unwrap().filter(|number| *number >= first);
                assert_eq!(found, model.get(&name).copied(), "seed {seed}, name {name}");
            }
        }
    }
}

/// Each row that comes is of a new name, and one goes.
#[test]
fn of_what_is_stored_about_one_row_a_bucket_may_have_gone() {
    const WINDOW: u64 = 4000;
    let (db, mut fill) = (database(), Fill::default());
    for last in (100..=5 * WINDOW).step_by(100) {
        let new = (last - 99..=last).map(|name| row(name, name)).collect();
        fill = put(&db, fill, new, (last + 1).saturating_sub(WINDOW));
    }
    assert!((WINDOW..=WINDOW + 2 * fill.buckets).contains(&fill.rows), "{fill:?}");
    assert!(fill.buckets <= buckets_of::<ROW>(WINDOW + 2 * fill.buckets), "{fill:?}");
}

/// Names meet in a bucket by chance alone.
#[test]
fn no_bucket_has_many_times_the_rows_of_another() {
    let db = database();
    let fill = put(&db, Fill::default(), (0..20_000).map(|name| row(name, 1)).collect(), 0);
    let table = db.begin_read().unwrap().open_table(TABLE).unwrap();
    let bytes = table.iter().unwrap().map(|row| row.unwrap().1.value().len());
    assert!(bytes.max() < Some(3 * BUCKET_BYTES), "{fill:?}");
    let other = Secret([8; 32]);
    assert_ne!(other.print(&[b"n", b"name"]), secret().print(&[b"n", b"name"]), "the secret is a part of the print");
}

/// A table, the bucket of its row 0, and a name that would be in that, too.
fn one_bucket() -> (Database, Fill, u64, u64) {
    let db = database();
    let fill = put(&db, Fill::default(), (0..400).map(|name| row(name, 1)).collect(), 0);
    let at = place(&print(0), fill.buckets);
    let absent = (400..).find(|name| place(&print(*name), fill.buckets) == at).unwrap();
    (db, fill, at, absent)
}

/// Turns bits of one bucket over, and asks for one of its rows, and for one that would be in it.
#[test]
fn a_flipped_bit_in_a_bucket_is_damage() {
    let (db, fill, at, absent) = one_bucket();
    assert_eq!(found(&db, fill.buckets, absent).unwrap(), None);
    let sound = value(&db, at);
    for bit in (0..sound.len() * 8).step_by(13) {
        let mut flipped = sound.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        set(&db, at, Some(&flipped));
        assert_damaged(&db, fill, &[0, absent]);
    }
    set(&db, at, Some(&sound));
    assert_eq!(found(&db, fill.buckets, 0).unwrap(), Some(1));
}

#[test]
fn a_bucket_that_is_missing_or_anothers_is_damage() {
    let (db, fill, at, absent) = one_bucket();
    let other = value(&db, at ^ 1);
    set(&db, at, Some(&other));
    assert_damaged(&db, fill, &[0, absent]);
    set(&db, at, None);
    assert_damaged(&db, fill, &[0, absent]);
}

fn value(db: &Database, bucket: u64) -> Vec<u8> {
    let table = db.begin_read().unwrap().open_table(TABLE).unwrap();
    table.get(bucket).unwrap().unwrap().value().to_vec()
}

fn set(db: &Database, bucket: u64, value: Option<&[u8]>) {
    let txn = db.begin_write().unwrap();
    let mut table = txn.open_table(TABLE).unwrap();
    match value {
        Some(value) => drop(table.insert(bucket, value).unwrap()),
        None => drop(table.remove(bucket).unwrap()),
    }
    drop(table);
    txn.commit().unwrap();
}

/// For those who ask for these names, for those who put them down, and for those who walk.
fn assert_damaged(db: &Database, fill: Fill, names: &[u64]) {
    for name in names {
        assert!(matches!(found(db, fill.buckets, *name), Err(redb::Error::Corrupted(_))), "name {name}");
        let txn = db.begin_write().unwrap();
        let put = super::put(&txn, TABLE, &secret(), fill, vec![row(*name, 1)], |_| true);
        assert!(matches!(put, Err(redb::Error::Corrupted(_))), "name {name}");
    }
    assert!(matches!(walked(db, fill), Err(redb::Error::Corrupted(_))));
}

#[test]
fn a_row_in_the_wrong_bucket_is_found_by_a_walk() {
    let db = database();
    let fill = put(&db, Fill::default(), (0..400).map(|name| row(name, 1)).collect(), 0);
    let at = place(&print(0), fill.buckets);
    let strangers = bucket_value(&scope(), at ^ 1, &[row(0, 1)]);
    set(&db, at ^ 1, Some(&strangers));
    assert!(matches!(walked(&db, fill), Err(redb::Error::Corrupted(_))));
    let twice = bucket_value(&scope(), at, &[row(0, 1), row(0, 1)]);
    set(&db, at, Some(&twice));
    assert!(matches!(walked(&db, fill), Err(redb::Error::Corrupted(_))));
}

#[test]
fn a_bucket_of_another_table_or_of_an_earlier_index_is_damage() {
    let rows = [row(0, 1)];
    let mine = bucket_value(&scope(), 5, &rows);
    assert_eq!(bucket_from(&scope(), 5, &mine), Ok(&rows[..]));
    let others = [Scope::new(&secret(), BucketTable::new("other")), Scope::new(&Secret([8; 32]), TABLE)];
    for other in others {
        bucket_from::<ROW>(&other, 5, &mine).unwrap_err();
    }
    bucket_from::<ROW>(&scope(), 6, &mine).unwrap_err();
}
