//! A last record of the journal that is damaged: what goes with it, and going on without it.
//!
//! Unlike the rest of an inspection this does not bring the journal into the database. It opens the database, as a start
//! does, and reads; only [`cut_tail`] writes.

use std::path::{Path, PathBuf};

use converge_ledger_core::Lsn;
use serde::Serialize;

use crate::storage::database::open::{self, closed};
use crate::storage::database::stored;
use crate::storage::database::trouble::db_failure;
use crate::storage::disk::Lock;
use crate::storage::error::Error;
use crate::storage::failure::{Failure, io_failure, refused};
use crate::storage::journal::cut::cut;
use crate::storage::journal::record::Op;
use crate::storage::journal::scan::{self, Damage, Journal};
use crate::storage::layout::{self, Make};
use crate::storage::recover::open_files;
use crate::storage::settings::Settings;
use crate::storage::types::Genesis;

/// The last record of a journal, damaged. Nothing that follows it is there.
#[derive(Clone, Debug, Serialize)]
pub struct DamagedTail {
    /// The journal's file.
    pub file: PathBuf,
    /// Its number.
    pub lsn: Lsn,
    /// Where it begins in the file.
    pub offset: u64,
    /// The first 512 bytes of it that are not those that were written.
    pub sector: u64,
    /// The database has all that it held, so nothing is lost with it.
    pub is_covered: bool,
    /// How many voters its cluster has; 0 where that is not known, and then this node has neither voted nor acknowledged.
    pub voters: usize,
}

struct Looked {
    tail: DamagedTail,
    damage: Damage,
    settings: Settings,
    _lock: Box<dyn Lock>,
}

/// The last record, if it is damaged.
///
/// # Errors
/// [`Error::Refused`] when the directory cannot be opened, [`Error::DataLoss`] when more than the last record is damaged.
pub fn damaged_tail(dir: &Path) -> Result<Option<DamagedTail>, Error> {
    Ok(look(dir)?.map(|looked| looked.tail))
}

/// Puts an empty record in the place of the last one, which is damaged, so that the next start goes on without it. Says
/// where what was there is kept.
///
/// # Errors
/// As [`damaged_tail`]; [`Error::Refused`] also when the last record is sound or has another number, and for a member of a
/// cluster with more than one voter. What one of them has forgotten, it may contradict: two leaders of one term, two
/// histories.
pub fn cut_tail(dir: &Path, lsn: Lsn) -> Result<PathBuf, Error> {
    let settings = Settings::new(dir);
    let Some(Looked { tail, damage, settings, _lock }) = look(dir)? else {
        return Err(refused(&settings, "the last record of its journal is sound: nothing was changed"));
    };
    if tail.lsn != lsn {
        let reason = format!("the record that is damaged is {}, not {lsn}: nothing was changed", tail.lsn);
        return Err(refused(&settings, reason));
    }
    if tail.voters > 1 {
        return Err(refused(&settings, NOT_ALONE));
    }
    let kept = cut(&damage, settings.disk.as_ref(), &settings.dir, settings.fill_bytes);
    Ok(kept.map_err(io_failure("cutting the journal's tail"))?)
}

/// Why a member of a cluster is not cut.
pub const NOT_ALONE: &str = "its cluster has other voters, and a vote or an acknowledgement that this one forgets can fork \
                             their history: replace this node, nothing was changed";

fn look(dir: &Path) -> Result<Option<Looked>, Failure> {
    let settings = Settings::new(dir);
    let directory = layout::open(&settings, Make::Nothing)?;
    let (db, _) = open::open(&settings, &directory)?;
    let stored = match stored::load(&db, &directory, &settings) {
        Ok(stored) => stored,
        Err(failure) => return Err(closed(db, failure)),
    };
    db.close().map_err(db_failure("closing the database"))?;
    let covered = stored.progress.covered;
    let (journal, damage) = scan::survey(open_files(&settings, &directory)?, covered)?;
    let Some(damage) = damage else { return Ok(None) };
    let genesis = latest_genesis(&journal, covered)?.or(stored.genesis);
    let tail = DamagedTail {
        file: damage.path(&settings.dir),
        lsn: damage.lsn,
        offset: damage.offset,
        sector: damage.sector,
        is_covered: damage.lsn <= covered,
        voters: genesis.map_or(0, |genesis| genesis.voters.len()),
    };
    Ok(Some(Looked { tail, damage, settings, _lock: directory.lock }))
}

/// A genesis that only the journal has.
fn latest_genesis(journal: &Journal, covered: Lsn) -> Result<Option<Genesis>, Failure> {
    let mut genesis = None;
    for scanned in &journal.files {
        for &place in scanned.records.iter().filter(|place| place.lsn > covered) {
            let ops = scan::read(&scanned.file, place)?;
            let found = ops.into_iter().filter_map(|op| if let Op::Genesis(found) = op { Some(found) } else { None });
            genesis = found.last().or(genesis);
        }
    }
    Ok(genesis)
}
