//! What the database says of itself, read and checked at a start: whose it is, how far it has come, and that nothing of
//! it is missing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use converge_ledger_core::codec::{RECORD_VERSION, first_of, newer_version};
use converge_ledger_core::levels::MAX_LEVEL;
use converge_ledger_core::{LogIndex, State};
use redb::{
    AccessGuard, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
};
use serde::de::DeserializeOwned;

use super::buckets::{Fill, Secret};
use super::keys::KEYS;
use super::names::NAMES;
use super::open::drop_index;
use super::tables::{
    BLOCKS, CONTEXTS, INDEX, INDEX_FORMAT, Identity, LOG, META, META_COUNTS, META_GENESIS, META_IDENTITY,
    META_PROGRESS, META_SECRET, META_STATE, POSITIONS, Progress, RowCounts, StateRow, meta_from, parse_row0,
    place_from,
};
use super::trouble::{Trouble, db_failure};
use crate::storage::failure::{Failure, data_loss, newer, refused};
use crate::storage::layout::{DATABASE, Directory};
use crate::storage::segments::{BlockPlace, SegmentsEnd};
use crate::storage::settings::Settings;
use crate::storage::types::{Genesis, HardState};

/// What the database holds besides rows.
pub(crate) struct Stored {
    pub(crate) progress: Progress,
    pub(crate) state: State,
    pub(crate) genesis: Option<Genesis>,
    /// The blocks of the segment that is open.
    pub(crate) blocks: Vec<(LogIndex, BlockPlace)>,
}

/// Reads and checks what the database says of itself, and drops an index of another format.
pub(crate) fn load(db: &Database, directory: &Directory, settings: &Settings) -> Result<Stored, Failure> {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let txn = db.begin_read().map_err(db_failure("reading the database"))?;
        load_rows(&txn)
    }));
    let read = read.unwrap_or_else(|_| Err(data_loss(format!("{DATABASE} is damaged"))));
    let (identity, progress, mut state, genesis, blocks) = read?;
    if identity.store_id != directory.store_id {
        let reason = format!(
            "{DATABASE} belongs to store {}, the directory is {}: files of two nodes were mixed",
            identity.store_id, directory.store_id
        );
        return Err(Failure::Refused(refused(settings, reason)));
    }
    if state.is_none() {
        tracing::warn!(dir = %settings.dir.display(), "making the index anew from the log");
        drop_index(db, &settings.random).map_err(db_failure("dropping the index"))?;
        state = None;
    }
    let state = state.map(|row| row.state).unwrap_or_default();
    let (applied, settled) = (state.applied, progress.segments.last);
    let Progress { hard_state: HardState { commit, .. }, last, .. } = progress;
    if applied.max(settled) > commit || commit > last {
        return Err(data_loss(format!(
            "{DATABASE}: applied {applied}, settled {settled}, commit {commit}, last {last} are out of order"
        )));
    }
    Ok(Stored { progress, state, genesis, blocks })
}

type MetaRows = (Identity, Progress, Option<StateRow>, Option<Genesis>, Vec<(LogIndex, BlockPlace)>);

fn load_rows(txn: &ReadTransaction) -> Result<MetaRows, Failure> {
    let indexed = index_format(txn)?;
    if let Some(format) = indexed.filter(|&format| format > INDEX_FORMAT) {
        return Err(newer(format!("the index of {DATABASE}"), format, INDEX_FORMAT));
    }
    if let Some(level) = level(txn)?.filter(|&level| level > MAX_LEVEL) {
        return Err(newer(format!("the state of {DATABASE}, by its level,"), level, MAX_LEVEL));
    }
    check_names(txn)?;
    // Nothing else is known of the tables of another format.
    let is_known = indexed == Some(INDEX_FORMAT);
    if is_known {
        check_index(txn)?;
    }
    let identity = meta(txn, META_IDENTITY)?.ok_or_else(|| data_loss("meta row is missing"))?;
    let progress: Progress = meta(txn, META_PROGRESS)?.ok_or_else(|| data_loss("meta row is missing"))?;
    let blocks = open_blocks(txn, &progress.segments)?;
    check_tail(txn, &progress)?;
    let state = if is_known { meta(txn, META_STATE)? } else { None };
    Ok((identity, progress, state, meta(txn, META_GENESIS)?, blocks))
}

/// The log table goes on where the segments end, and ends where the log does.
fn check_tail(txn: &ReadTransaction, progress: &Progress) -> Result<(), Trouble> {
    let loss = |what| Err(Trouble::DataLoss(what));
    let log = txn.open_table(LOG)?;
    let settled = progress.segments.last;
    let index = |(key, _): (AccessGuard<'_, (u64, u32)>, _)| LogIndex(key.value().0);
    let first = log.first()?.map(index);
    if let Some(first) = first.filter(|first| *first != settled.next()) {
        return loss(format!("the log goes on at {first}, the segments end at {settled}"));
    }
    let last = log.last()?.map_or(settled, index);
    if last != progress.last {
        return loss(format!("the log ends at {last}, not at {}", progress.last));
    }
    if first.is_some() {
        let row = log.get((last.get(), 0))?;
        let row = row.ok_or_else(|| Trouble::DataLoss(format!("log entry {last} has no first row")))?;
        parse_row0(last, row.value()).map_err(Trouble::DataLoss)?;
    }
    Ok(())
}

/// The blocks of the open segment, whose places are the last ones; all places together are as many as were closed.
fn open_blocks(txn: &ReadTransaction, end: &SegmentsEnd) -> Result<Vec<(LogIndex, BlockPlace)>, Trouble> {
    let loss = |what| Err(Trouble::DataLoss(what));
    let table = txn.open_table(BLOCKS)?;
    let count = table.len()?;
    if count != end.blocks {
        return loss(format!("{DATABASE} has the places of {count} blocks, not of {}", end.blocks));
    }
    let mut blocks = Vec::new();
    for row in table.iter()?.rev() {
        let (key, value) = row?;
        let first = LogIndex(key.value());
        let place = place_from(first, value.value()).map_err(Trouble::DataLoss)?;
        if place.file != end.file {
            break;
        }
        blocks.push((first, place));
    }
    blocks.reverse();
    let last =
        blocks.last().map_or((LogIndex(0), 0), |(_, place)| (place.last, place.offset + u64::from(place.length)));
    if last != (end.last, end.bytes) {
        return loss(format!("{DATABASE}: blocks end at {last:?}, not at {:?}", (end.last, end.bytes)));
    }
    Ok(blocks)
}

/// The format of the tables that follow from the log, whatever else the row of the state has in it; none without such a row,
/// or where a newer program wrote it.
fn index_format(txn: &ReadTransaction) -> Result<Option<u32>, Failure> {
    first_of_state(txn)
}

/// The level of the state, where the index has a format that is known: no other says where it stands.
fn level(txn: &ReadTransaction) -> Result<Option<u32>, Failure> {
    let first: Option<(u32, u32)> = if index_format(txn)? == Some(INDEX_FORMAT) { first_of_state(txn)? } else { None };
    Ok(first.map(|(_, level)| level))
}

fn first_of_state<T: DeserializeOwned>(txn: &ReadTransaction) -> Result<Option<T>, Failure> {
    let table = meta_table(txn)?;
    let row = table.get(META_STATE).map_err(db_failure("reading the database"))?;
    let Some(row) = row else { return Ok(None) };
    let key = META_STATE.as_bytes();
    match first_of(key, row.value()) {
        Some(format) => Ok(Some(format)),
        None if newer_version(key, row.value()).is_some() => Ok(None),
        None => Err(data_loss(format!("meta row {META_STATE} is damaged"))),
    }
}

/// A row whose name was damaged would look absent, and a node without a genesis makes another. One of a newer program may
/// have any name.
fn check_names(txn: &ReadTransaction) -> Result<(), Failure> {
    let reading = || db_failure("reading the database");
    for row in meta_table(txn)?.iter().map_err(reading())? {
        let (name, value) = row.map_err(reading())?;
        let name = name.value();
        if let Some(version) = newer_version(name.as_bytes(), value.value()) {
            return Err(newer(format!("meta row {name:?} of {DATABASE}"), version, RECORD_VERSION));
        }
        if ![META_PROGRESS, META_IDENTITY, META_GENESIS, META_STATE, META_COUNTS, META_SECRET].contains(&name) {
            return Err(data_loss(format!("{DATABASE} has an unknown meta row {name:?}")));
        }
    }
    Ok(())
}

fn meta_table(txn: &ReadTransaction) -> Result<ReadOnlyTable<&'static str, &'static [u8]>, Failure> {
    txn.open_table(META).map_err(|error| match error {
        // What the disk did not read may well be there.
        redb::TableError::Storage(error) => db_failure("reading the database")(error),
        error => data_loss(format!("{DATABASE} is not a ledger's: {error}")),
    })
}

/// Nothing is missing from the index, as far as can be told without a walk.
fn check_index(txn: &ReadTransaction) -> Result<(), Failure> {
    let missing = || data_loss("meta row is missing");
    let _: Secret = meta(txn, META_SECRET)?.ok_or_else(missing)?;
    let known: RowCounts = meta(txn, META_COUNTS)?.ok_or_else(missing)?;
    let filled = |fill: Fill, buckets| Fill { buckets, ..fill };
    let count = || {
        Ok::<_, redb::Error>(RowCounts {
            contexts: txn.open_table(CONTEXTS)?.len()?,
            index: txn.open_table(INDEX)?.len()?,
            positions: txn.open_table(POSITIONS)?.len()?,
            keys: filled(known.keys, txn.open_table(KEYS)?.len()?),
            names: filled(known.names, txn.open_table(NAMES)?.len()?),
        })
    };
    let found = count().map_err(db_failure("reading the database"))?;
    if found != known {
        return Err(data_loss(format!("{DATABASE} has rows {found:?}, not {known:?}")));
    }
    Ok(())
}

fn meta<T: DeserializeOwned>(txn: &ReadTransaction, name: &str) -> Result<Option<T>, Failure> {
    let table = meta_table(txn)?;
    let row = table.get(name).map_err(db_failure("reading the database"))?;
    row.map(|row| meta_from(name, row.value())).transpose().map_err(data_loss)
}
