//! Making, opening and closing the database's file.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use converge_ledger_core::{State, StoreId};
use redb::{Builder, Database, TableHandle};

use super::buckets::Secret;
use super::commit::begin;
use super::keys::KEYS;
use super::names::NAMES;
use super::tables::{
    BLOCKS, CONTEXTS, INDEX, INDEX_FORMAT, Identity, LOG, META, META_COUNTS, META_IDENTITY, META_PROGRESS, META_SECRET,
    META_STATE, POSITIONS, Progress, RowCounts, StateRow, meta_value,
};
use super::trouble::{db_failure, redb_cause};
use crate::storage::disk::File;
use crate::storage::failure::{Failure, data_loss, io_failure, refused};
use crate::storage::layout::{DATABASE, Directory};
use crate::storage::settings::{Random, Settings};

/// The database's file as redb wants it.
#[derive(Debug)]
struct Backend(Arc<dyn File>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(settings.redb_cache_bytes);
    builder
}

/// Makes the database of a new directory.
pub(crate) fn make(settings: &Settings, store_id: StoreId) -> Result<(), Failure> {
    let making = "making the data directory";
    let file = settings.disk.create(&settings.dir.join(DATABASE));
    let file = file.map_err(io_failure(making))?;
    let db = builder(settings).create_with_backend(Backend(Arc::clone(&file)));
    let db = db.map_err(db_failure(making))?;
    let identity = Identity { store_id };
    init_tables(&db, &identity, &settings.random).map_err(|error| Failure::Fence(redb_cause(making, &error)))?;
    // Dropped, it would keep a failure to itself, and a sync behind that one proves nothing.
    db.close().map_err(db_failure(making))?;
    file.sync_data().map_err(io_failure(making))
}

/// Opens the database of a directory that has one.
pub(crate) fn open(settings: &Settings, directory: &Directory) -> Result<(Database, Arc<dyn File>), Failure> {
    if !directory.has_database {
        let reason = format!("{DATABASE} is missing: replace this node, nothing was made anew");
        return Err(Failure::Refused(refused(settings, reason)));
    }
    let opening = "opening the database";
    let file = settings.disk.open(&settings.dir.join(DATABASE));
    let file = file.map_err(io_failure(opening))?;
    if file.is_empty().map_err(io_failure(opening))? {
        // redb would make a new one.
        return Err(data_loss(format!("{DATABASE} is empty")));
    }
    let backend = Backend(Arc::clone(&file));
    // It panics on some damage, for it trusts the pages of a database that was closed well.
    let db = catch_unwind(AssertUnwindSafe(|| builder(settings).create_with_backend(backend)));
    match db {
        Ok(Ok(db)) => Ok((db, file)),
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(error))))
            if error.kind() != io::ErrorKind::InvalidData && error.kind() != io::ErrorKind::UnexpectedEof =>
        {
            Err(io_failure(opening)(error))
        }
        Ok(Err(error)) => Err(data_loss(format!("{DATABASE}: {error}"))),
        Err(_) => Err(data_loss(format!("{DATABASE} is damaged"))),
    }
}

/// A database that is dropped keeps a failure to itself, and whoever opens it again in this process would build on what
/// may not be on the disk.
pub(crate) fn closed(db: Database, failure: Failure) -> Failure {
    match db.close().map_err(redb::Error::from) {
        // Of what failed before, whoever met it has told.
        Ok(()) | Err(redb::Error::PreviousIo) => failure,
        Err(error) => Failure::Fence(redb_cause("closing the database", &error)),
    }
}

fn init_tables(db: &Database, identity: &Identity, random: &Random) -> Result<(), redb::Error> {
    let txn = begin(db)?;
    {
        txn.open_table(LOG)?;
        txn.open_table(BLOCKS)?;
        let mut meta = txn.open_table(META)?;
        meta.insert(META_IDENTITY, &meta_value(META_IDENTITY, identity)[..])?;
        let progress = Progress::default();
        meta.insert(META_PROGRESS, &meta_value(META_PROGRESS, &progress)[..])?;
    }
    reset_index(&txn, random)?;
    txn.commit()?;
    Ok(())
}

/// Empties all that follows from the log, whatever tables an earlier format had.
fn reset_index(txn: &redb::WriteTransaction, random: &Random) -> Result<(), redb::Error> {
    let tables: Vec<_> = txn.list_tables()?.collect();
    for table in tables {
        if ![LOG.name(), BLOCKS.name(), META.name()].contains(&table.name()) {
            txn.delete_table(table)?;
        }
    }
    txn.open_table(CONTEXTS)?;
    txn.open_table(INDEX)?;
    txn.open_table(POSITIONS)?;
    txn.open_table(KEYS)?;
    txn.open_table(NAMES)?;
    let row = StateRow { format: INDEX_FORMAT, state: State::default() };
    let mut meta = txn.open_table(META)?;
    meta.insert(META_STATE, &meta_value(META_STATE, &row)[..])?;
    meta.insert(META_COUNTS, &meta_value(META_COUNTS, &RowCounts::default())[..])?;
    meta.insert(META_SECRET, &meta_value(META_SECRET, &Secret::draw(random))[..])?;
    Ok(())
}

/// Drops the index; the next start makes it anew from the log.
pub(crate) fn drop_index(db: &Database, random: &Random) -> Result<(), redb::Error> {
    let txn = begin(db)?;
    reset_index(&txn, random)?;
    txn.commit()?;
    Ok(())
}

/// An empty transaction of ours, after others may have committed in another way.
pub(crate) fn touch(db: &Database) -> Result<(), redb::Error> {
    let txn = begin(db)?;
    txn.open_table(META)?;
    txn.commit()?;
    Ok(())
}
