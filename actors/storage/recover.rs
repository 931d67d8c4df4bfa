//! From a directory to a state that can be served. A cold start and the restart of the actor are
//! the same code.
//!
//! Open the database; scan the journal; take the records it does not cover; store them, durably,
//! before anybody sees any of them (what a kill left in the page cache is not on the disk yet);
//! then apply up to the recovered commit. No step grows with the size of the database, unless the
//! index has to be made anew.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{Boot, LogIndex, Lsn, State, StoreId};
use redb::{Builder as RedbBuilder, Database};

use super::commit::{WriteSet, begin, commit};
use super::disk::{Backend, File, Lock};
use super::error::{Cause, Error};
use super::journal::Tip;
use super::journal::record::{Builder, FIRST_RECORD, Op};
use super::journal::ring::{self, JournalFile, Maker, Spares};
use super::journal::scan::{self, Journal, ScanError};
use super::layout::{self, DATABASE, Directory, refused};
use super::overlay::{AppliedMark, Overlay};
use super::passing::passes;
use super::read::redb_cause;
use super::settings::Settings;
use super::shared::Shared;
use super::stored;
use super::tables::{
    CONTEXTS, Counts, INDEX, INDEX_FORMAT, Identity, KEYS, LOG, META, META_COUNTS, META_IDENTITY, META_PROGRESS,
    META_STATE, POSITIONS, Progress, StateRow, meta_value,
};
use super::types::Genesis;

const FIRST_SLOT: u64 = 1;

/// Why start-up came to no end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The process should not start.
    Refused(Error),
    /// The node runs, fenced.
    Fence(Cause),
    /// Something is lacking for the moment; nothing was lost, and it may be tried again.
    Passing(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::DataLoss(what) => Failure::Fence(Cause::DataLoss { what }),
            Error::Fenced(cause) => Failure::Fence(cause),
            other => Failure::Refused(other),
        }
    }
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Io(error) => Failure::Fence(Cause::of("reading the journal", &error)),
            ScanError::DataLoss(what) => Failure::Fence(Cause::DataLoss { what }),
        }
    }
}

pub(crate) fn data_loss(what: impl Into<String>) -> Failure {
    Failure::Fence(Cause::DataLoss { what: what.into() })
}

pub(crate) fn io_failure<'a>(what: &'a str) -> impl Fn(io::Error) -> Failure + 'a {
    move |error| match passes(&error) {
        true => Failure::Passing(format!("{what}: {error}")),
        false => Failure::Fence(Cause::of(what, &error)),
    }
}

pub(crate) fn db_failure<E: Into<redb::Error>>(what: &str) -> impl Fn(E) -> Failure + '_ {
    move |error| Failure::Fence(redb_cause(what, &error.into()))
}

/// Who opens a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootOf {
    /// An inspection, which is no start of a node.
    Nobody,
    /// A process for the first time.
    New,
    /// A process that has its number.
    Process(Boot),
}

/// What opening may make of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// Nothing: an inspection.
    Nothing,
    /// A ledger, where there is none: a process whose storage did not come up yet.
    Fresh,
    /// Nothing, for this process knows the directory. An empty one in its place, another one or an older copy of it lacks
    /// what was acknowledged (S2, S8).
    Known {
        /// Its random name, if that was read.
        store_id: Option<StoreId>,
        /// The last record that is durable in it.
        durable: Lsn,
    },
}

/// What was found out about a directory, also by an opening that failed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// It belongs to a member of a cluster. Where the failure came before that could be read, a directory that is not
    /// fresh may.
    pub(crate) is_member: bool,
    pub(crate) store_id: Option<StoreId>,
}

/// An open directory with its journal replayed into its database.
pub(crate) struct Opened {
    pub(crate) db: Database,
    pub(crate) db_file: Arc<dyn File>,
    pub(crate) lock: Box<dyn Lock>,
    pub(crate) store_id: StoreId,
    pub(crate) set: WriteSet,
    pub(crate) state: State,
    pub(crate) genesis: Option<Genesis>,
    pub(crate) tip: Tip,
    pub(crate) spares: Spares,
    pub(crate) maker: Maker,
}

/// Opens a directory, replays its journal and makes the outcome durable. The number
/// of a starting process is durable in journal and database when this returns.
pub(crate) fn open(settings: &Settings, make: Make, boot: BootOf, found: &mut Found) -> Result<Opened, Failure> {
    check_settings(settings)?;
    let mut directory = layout::open(settings, make)?;
    found.store_id = Some(directory.store_id);
    if make != Make::Nothing && !planted::is(Bug::NamesUnsure) {
        // A process in front of this one may have been killed, or have failed, between giving a file its name and making
        // that durable. What is built on a name that a power cut takes away goes with it.
        settings.disk.sync_dir(&settings.dir).map_err(io_failure("syncing the directory"))?;
    }
    if directory.fresh {
        has_room(settings)?;
        fill(settings, &directory)?;
        (directory.has_database, directory.slots) = (true, vec![FIRST_SLOT]);
    }
    found.is_member = !directory.fresh;
    let (db, db_file) = open_database(settings, &directory)?;
    let replayed = match replayed(settings, &db, &directory, &mut found.is_member) {
        Ok(replayed) => replayed,
        Err(failure) => return Err(closed(db, failure)),
    };
    let Replayed { set, state, genesis, tip, spares, maker } = replayed;
    let (lock, store_id) = (directory.lock, directory.store_id);
    let mut opened = Opened { db, db_file, lock, store_id, set, state, genesis, tip, spares, maker };
    match opened.is_known(make).and_then(|()| opened.start_boot(boot, settings)) {
        Ok(()) => Ok(opened),
        Err(failure) => Err(closed(opened.db, failure)),
    }
}

/// A database that is dropped keeps a failure to itself, and whoever opens it again in this process would build on what
/// may not be on the disk.
fn closed(db: Database, failure: Failure) -> Failure {
    match db.close().map_err(redb::Error::from) {
        // Of what failed before, whoever met it has told.
        Ok(()) | Err(redb::Error::PreviousIo) => failure,
        Err(error) => Failure::Fence(redb_cause("closing the database", &error)),
    }
}

/// What the journal adds to the database.
struct Replayed {
    set: WriteSet,
    state: State,
    genesis: Option<Genesis>,
    tip: Tip,
    spares: Spares,
    maker: Maker,
}

fn replayed(
    settings: &Settings,
    db: &Database,
    directory: &Directory,
    is_member: &mut bool,
) -> Result<Replayed, Failure> {
    let stored = stored::load(db, directory, settings)?;
    *is_member = stored.genesis.is_some();
    let maker = maker(settings, directory.store_id);
    let files = open_files(settings, directory)?;
    if files.is_empty() {
        return Err(data_loss("the journal's files are missing"));
    }
    let journal = scan::scan(files, stored.progress.covered)?;
    // First, for a database that covers more than the journal has means that records are missing.
    if !planted::is(Bug::LastUnsure) {
        scan::make_durable(&journal).map_err(io_failure("syncing the journal"))?;
    }
    let mut set = WriteSet::new(stored.progress);
    let mut genesis = stored.genesis;
    let replayed = replay(db, &mut set, &journal, (stored.state.applied, settings.replay_bytes), &mut genesis);
    *is_member = genesis.is_some();
    replayed?;
    let (tip, spares) = take_up(journal, &maker);
    Ok(Replayed { set, state: stored.state, genesis, tip, spares, maker })
}

fn check_settings(settings: &Settings) -> Result<(), Failure> {
    let record = settings.journal_record_bytes_max as u64;
    if settings.journal_file_bytes < FIRST_RECORD + 4 * record {
        let reason = format!(
            "journal_file_bytes = {} is less than four records of {record} bytes: raise it",
            settings.journal_file_bytes
        );
        return Err(Failure::Refused(refused(settings, reason)));
    }
    Ok(())
}

fn maker(settings: &Settings, store_id: StoreId) -> Maker {
    Maker {
        disk: Arc::clone(&settings.disk),
        dir: settings.dir.clone(),
        store_id,
        file_bytes: super::journal::record::padded(settings.journal_file_bytes),
        fill_bytes: settings.fill_bytes,
    }
}

/// A node that could take nothing should not begin.
fn has_room(settings: &Settings) -> Result<(), Failure> {
    let needed = settings.free_bytes_min;
    let reason = match settings.disk.free(&settings.dir) {
        _ if needed == 0 => return Ok(()),
        Ok(free) if free >= needed => return Ok(()),
        Ok(free) => format!(
            "the disk has no room for a ledger: {free} bytes are free, storage.free_bytes_min = {needed}; make room, or \
             choose another data directory"
        ),
        Err(error) => format!(
            "the system does not say how much room the disk has: {error}; check the disk, choose another data \
             directory, or set storage.free_bytes_min = 0"
        ),
    };
    Err(Failure::Refused(refused(settings, reason)))
}

/// The first start of a process that cannot serve ends with the reason, for there is nothing yet that should go on.
/// With damage it runs all the same: a supervisor that starts it again and again would help nobody, and the operator
/// is to see it. So does a member of a cluster whose disk is full: it recovers as soon as there is room, as it would have
/// if it had not been started again. That touches S2: a sync that failed is no full disk, and until a recovery has made
/// durable what it found, nothing is acknowledged.
pub(crate) fn at_first(settings: &Settings, failure: Failure, is_member: bool) -> Failure {
    let reason = match failure {
        Failure::Fence(Cause::DiskFull { .. }) if is_member && !planted::is(Bug::FullEnds) => return failure,
        Failure::Fence(Cause::DiskFull { what, error }) => {
            format!("{what} found no room on the disk: {error}; make room, then start the node again")
        }
        Failure::Fence(cause @ Cause::Io { .. }) => cause.to_string(),
        other => return other,
    };
    Failure::Refused(refused(settings, reason))
}

/// Makes what belongs into a new directory.
fn fill(settings: &Settings, directory: &Directory) -> Result<(), Failure> {
    let making = "making the data directory";
    let file = settings.disk.create(&settings.dir.join(DATABASE));
    let file = file.map_err(io_failure(making))?;
    let db = redb_builder(settings).create_with_backend(Backend(Arc::clone(&file)));
    let db = db.map_err(db_failure(making))?;
    let identity = Identity { store_id: directory.store_id };
    init_tables(&db, &identity).map_err(|error| Failure::Fence(redb_cause(making, &error)))?;
    // Dropped, it would keep a failure to itself, and a sync behind that one proves nothing.
    db.close().map_err(db_failure(making))?;
    file.sync_data().map_err(io_failure(making))?;
    let maker = maker(settings, directory.store_id);
    maker.make(FIRST_SLOT, 1, (settings.random)()).map_err(io_failure(making))?;
    layout::finish(settings, directory.store_id).map_err(io_failure(making))
}

fn init_tables(db: &Database, identity: &Identity) -> Result<(), redb::Error> {
    let txn = begin(db)?;
    {
        txn.open_table(LOG)?;
        let mut meta = txn.open_table(META)?;
        meta.insert(META_IDENTITY, &meta_value(META_IDENTITY, identity)[..])?;
        let progress = Progress::default();
        meta.insert(META_PROGRESS, &meta_value(META_PROGRESS, &progress)[..])?;
    }
    reset_index(&txn)?;
    txn.commit()?;
    Ok(())
}

/// Empties all that follows from the log.
fn reset_index(txn: &redb::WriteTransaction) -> Result<(), redb::Error> {
    txn.delete_table(CONTEXTS)?;
    txn.delete_table(INDEX)?;
    txn.delete_table(POSITIONS)?;
    txn.delete_table(KEYS)?;
    txn.open_table(CONTEXTS)?;
    txn.open_table(INDEX)?;
    txn.open_table(POSITIONS)?;
    txn.open_table(KEYS)?;
    let row = StateRow { format: INDEX_FORMAT, state: State::default() };
    let mut meta = txn.open_table(META)?;
    meta.insert(META_STATE, &meta_value(META_STATE, &row)[..])?;
    meta.insert(META_COUNTS, &meta_value(META_COUNTS, &Counts::default())[..])?;
    Ok(())
}

/// Drops the index; the next start makes it anew from the log.
pub(crate) fn drop_index(db: &Database) -> Result<(), redb::Error> {
    let txn = begin(db)?;
    reset_index(&txn)?;
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

fn redb_builder(settings: &Settings) -> RedbBuilder {
    let mut builder = Database::builder();
    builder.set_cache_size(settings.redb_cache_bytes);
    builder
}

fn open_database(settings: &Settings, directory: &Directory) -> Result<(Database, Arc<dyn File>), Failure> {
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
    let db = catch_unwind(AssertUnwindSafe(|| redb_builder(settings).create_with_backend(backend)));
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

fn open_files(settings: &Settings, directory: &Directory) -> Result<Vec<JournalFile>, Failure> {
    let mut files = Vec::new();
    for &slot in &directory.slots {
        let opened = ring::open(settings.disk.as_ref(), &settings.dir, slot);
        match opened.map_err(io_failure("opening the journal"))? {
            ring::Opened::Sound(file) if file.header.store_id == directory.store_id => {
                files.push(file);
            }
            ring::Opened::Sound(file) => {
                let name = ring::file_name(slot);
                let reason = format!("{name} belongs to store {}", file.header.store_id);
                return Err(Failure::Refused(refused(settings, reason)));
            }
            ring::Opened::Damaged(what) => return Err(data_loss(what)),
        }
    }
    Ok(files)
}

fn replay(
    db: &Database,
    set: &mut WriteSet,
    journal: &Journal,
    (applied, replay_bytes): (LogIndex, usize),
    genesis: &mut Option<Genesis>,
) -> Result<(), Failure> {
    let covered = set.progress().covered;
    for scanned in &journal.files {
        let early = |lsn| planted::is(Bug::TailLost) && lsn == journal.last;
        for &place in scanned.records.iter().filter(|r| r.lsn > covered && !early(r.lsn)) {
            let ops = scan::read(&scanned.file, place)?;
            for op in &ops {
                match op {
                    Op::Entries(entries) if entries.first().is_some_and(|e| e.index <= applied) => {
                        let lsn = place.lsn;
                        return Err(data_loss(format!("record {lsn} replaces applied entries")));
                    }
                    Op::Genesis(found) => *genesis = Some(found.clone()),
                    _ => {}
                }
            }
            let weight = ops.iter().map(Op::weight).sum();
            set.absorb(place.lsn, ops, weight).map_err(data_loss)?;
            if set.bytes >= replay_bytes {
                store(db, set, applied)?;
            }
        }
    }
    store(db, set, applied)
}

fn store(db: &Database, set: &mut WriteSet, applied: LogIndex) -> Result<(), Failure> {
    if !set.is_empty() {
        let progress = commit(db, set, applied, None);
        let progress = progress.map_err(db_failure("committing to the database"))?;
        set.stored(progress);
    }
    Ok(())
}

/// Where the journal goes on, and which files are free: all but the one with the last record, for
/// the database covers everything now.
fn take_up(journal: Journal, maker: &Maker) -> (Tip, Spares) {
    let Journal { mut files, last } = journal;
    let at = files.iter().rposition(|s| !s.records.is_empty()).unwrap_or_default();
    let active = files.remove(at);
    let mut spares = Spares { generation: active.file.header.generation, slot: active.file.slot, ..Spares::default() };
    for scanned in files {
        let file = scanned.file;
        spares.generation = spares.generation.max(file.header.generation);
        spares.slot = spares.slot.max(file.slot);
        let newer = file.header.generation > active.file.header.generation;
        if newer && maker.fits(&file) && spares.ready.is_none() {
            spares.ready = Some(file);
        } else {
            spares.retired.push_back((file, Lsn(0)));
        }
    }
    let tip = Tip { file: active.file, offset: active.end, last };
    (tip, spares)
}

/// A boot's lower bits are chance: a directory that was put back from a copy counts the same boots again, and an attempt
/// of the second one must never be taken for one of the first, which has an outcome already.
const BOOT_CHANCE_BITS: u32 = 24;

fn next_boot(last: Boot, settings: &Settings) -> Boot {
    let count = (last.get() >> BOOT_CHANCE_BITS) + 1;
    Boot(count << BOOT_CHANCE_BITS | (settings.random)() >> (u64::BITS - BOOT_CHANCE_BITS))
}

impl Opened {
    /// All that this process knows to be durable is there (S2): an older copy of the directory, put in its place, has
    /// the same name.
    fn is_known(&self, make: Make) -> Result<(), Failure> {
        match make {
            Make::Known { durable, .. } if self.tip.last < durable => Err(data_loss(format!(
                "the journal ends with record {}, though this process wrote record {durable}: an older copy was put in \
                 the place of the directory",
                self.tip.last
            ))),
            _ => Ok(()),
        }
    }

    /// Counts the start of a process, in the journal first: an older copy of the database must not
    /// bring back a number that was used.
    fn start_boot(&mut self, boot: BootOf, settings: &Settings) -> Result<(), Failure> {
        let boot = match boot {
            BootOf::Nobody => return Ok(()),
            BootOf::Process(boot) if boot == self.set.progress().boot => return Ok(()),
            BootOf::Process(boot) => boot,
            BootOf::New => next_boot(self.set.progress().boot.max(self.applied_boot()), settings),
        };
        let op = Op::Boot(boot);
        let mut builder = Builder::default();
        builder.begin();
        builder.put(&op);
        if !self.tip.has_room(&builder) {
            self.next_file(settings)?;
        }
        let written = self.tip.write(&mut builder).and_then(|()| self.tip.sync(&builder));
        written.map_err(io_failure("writing the journal"))?;
        let weight = op.weight();
        let absorbed = self.set.absorb(self.tip.last, vec![op], weight);
        absorbed.map_err(data_loss)?;
        store(&self.db, &mut self.set, self.state.applied)
    }

    /// The newest boot of this node whose batches were applied: above those that a directory counts that was put back
    /// from an older copy, once the log has come to it.
    fn applied_boot(&self) -> Boot {
        let voters = self.genesis.iter().flat_map(|genesis| &genesis.voters);
        let own = voters.filter(|(_, store_id)| **store_id == self.store_id).map(|(id, _)| id);
        own.filter_map(|id| self.state.origins.get(id)).map(|origin| origin.boot).max().unwrap_or_default()
    }

    fn next_file(&mut self, settings: &Settings) -> Result<(), Failure> {
        let next = match self.spares.ready.take() {
            Some(file) => file,
            None => {
                self.spares.generation += 1;
                self.spares.slot += 1;
                let (slot, generation) = (self.spares.slot, self.spares.generation);
                let made = self.maker.make(slot, generation, (settings.random)());
                made.map_err(io_failure("making a journal file"))?
            }
        };
        let full = std::mem::replace(&mut self.tip.file, next);
        self.spares.retired.push_back((full, self.tip.last));
        self.tip.offset = FIRST_RECORD;
        Ok(())
    }

    /// The overlay to start from.
    pub(crate) fn overlay(&self) -> Overlay {
        let progress = self.set.progress();
        let mark =
            AppliedMark { index: self.state.applied, position: self.state.last_position, digest: self.state.digest };
        let genesis = self.genesis.clone();
        let mut hard_state = progress.hard_state;
        if planted::is(Bug::VoteForgotten) {
            hard_state.vote = converge_ledger_core::NodeId(0);
        }
        Overlay::new(progress.last, hard_state, mark, genesis)
    }
}

impl Shared {
    /// Puts what was recovered in place for readers. The database stays with the caller.
    pub(crate) fn install(&self, opened: &Opened) {
        *self.overlay_mut() = opened.overlay();
        self.state.clear_poison();
        let mut state = self.state.lock().expect("was just cleared of poison");
        *state = opened.state.clone();
        drop(state);
        let mut process = self.process();
        process.boot = Some(opened.set.progress().boot);
        process.store_id = Some(opened.store_id);
        drop(process);
        let covered = opened.set.progress().covered.get();
        self.durable_lsn.store(covered, Ordering::Release);
        self.covered_lsn.store(covered, Ordering::Release);
    }
}
