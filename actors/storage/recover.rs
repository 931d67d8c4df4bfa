//! From a directory to a state that can be served. A cold start and the restart of the actor are
//! the same code.
//!
//! Open the database; look at the segments; scan the journal; cut the segments to what the database says of them; take
//! the records it does not cover; store them, durably, before anybody sees any of them (what a kill left in the page
//! cache is not on the disk yet); then apply up to the recovered commit. No step grows with the size of the database, unless the
//! index has to be made anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{Boot, LogIndex, Lsn, State, StoreId};
use redb::Database;

use super::database::commit::{WriteSet, commit};
use super::database::open::{self, closed};
use super::database::overlay::Overlay;
use super::database::settle::Settled;
use super::database::stored;
use super::database::trouble::db_failure;
use super::disk::{File, Lock};
use super::error::Cause;
use super::failure::{Failure, data_loss, io_failure, newer, refused};
use super::journal::record::{BLOCK, Builder, FIRST_RECORD, FileHeader, Op, VERSION, padded};
use super::journal::ring::{self, JournalFile, Maker, Spares};
use super::journal::scan::{self, Journal};
use super::journal::tip::Tip;
use super::layout::{self, Directory, Make};
use super::segments::{self, writer::SegmentWriter};
use super::settings::Settings;
use super::shared::Shared;
use super::types::{AppliedMark, Genesis};

const FIRST_SLOT: u64 = 1;

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
    pub(crate) segments: SegmentWriter,
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
    let (db, db_file) = open::open(settings, &directory)?;
    let replayed = match replayed(settings, &db, &directory, &mut found.is_member) {
        Ok(replayed) => replayed,
        Err(failure) => return Err(closed(db, failure)),
    };
    let Replayed { set, state, genesis, tip, spares, maker, segments } = replayed;
    let (lock, store_id) = (directory.lock, directory.store_id);
    let mut opened = Opened { db, db_file, lock, store_id, set, state, genesis, tip, spares, maker, segments };
    match opened.is_known(make).and_then(|()| opened.start_boot(boot, settings)) {
        Ok(()) => Ok(opened),
        Err(failure) => Err(closed(opened.db, failure)),
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
    segments: SegmentWriter,
}

fn replayed(
    settings: &Settings,
    db: &Database,
    directory: &Directory,
    is_member: &mut bool,
) -> Result<Replayed, Failure> {
    let stored = stored::load(db, directory, settings)?;
    *is_member = stored.genesis.is_some();
    let found = segments::open::find(settings, stored.progress.segments, &stored.blocks)?;
    let maker = maker(settings, directory.store_id);
    let files = open_files(settings, directory)?;
    let journal = scan::scan(files, stored.progress.covered)?;
    // First, for a database that covers more than the journal has means that records are missing.
    if !planted::is(Bug::LastUnsure) {
        scan::make_durable(&journal).map_err(io_failure("syncing the journal"))?;
    }
    // Only when the database is known to be the newest there was: what a later one counts on is not to be cut.
    let segments = found.cut(settings).map_err(io_failure("cutting a segment"))?;
    let mut set = WriteSet::new(stored.progress);
    let mut genesis = stored.genesis;
    let replayed = replay(db, &mut set, &journal, (stored.state.applied, settings.replay_bytes), &mut genesis);
    *is_member = genesis.is_some();
    replayed?;
    let (tip, spares) = take_up(journal, &maker);
    let mut state = stored.state;
    if let Some(genesis) = &genesis {
        genesis.begin(&mut state);
    }
    Ok(Replayed { set, state, genesis, tip, spares, maker, segments })
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
        file_bytes: padded(settings.journal_file_bytes),
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
    open::make(settings, directory.store_id)?;
    let making = "making the data directory";
    settings.disk.create_dir_all(&segments::folder(&settings.dir)).map_err(io_failure(making))?;
    let first_bytes = settings.journal_first_bytes.max(FIRST_RECORD + BLOCK);
    let file_bytes = padded(first_bytes.min(settings.journal_file_bytes));
    let maker = Maker { file_bytes, ..maker(settings, directory.store_id) };
    maker.make(FIRST_SLOT, 1, (settings.random)()).map_err(io_failure(making))?;
    layout::finish(settings, directory.store_id).map_err(io_failure(making))
}

/// The journal's files, with what a crash or a flip spoilt of their headers made good.
pub(crate) fn open_files(settings: &Settings, directory: &Directory) -> Result<Vec<JournalFile>, Failure> {
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
            ring::Opened::Newer { what, version } => return Err(newer(what, version, VERSION)),
        }
    }
    if files.is_empty() {
        return Err(data_loss("the journal's files are missing"));
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
    let applied = applied.max(set.progress().segments.last);
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
        let settled = Settled::nothing(set.progress().segments);
        let progress = commit(db, set, applied, None, &settled);
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
    let FileHeader { generation, bytes, .. } = active.file.header;
    let mut spares = Spares { generation, slot: active.file.slot, active_bytes: bytes, ..Spares::default() };
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
        self.spares.active_bytes = next.header.bytes;
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
        // Also where the index is made anew: what is in a segment is committed.
        hard_state.commit = hard_state.commit.max(progress.segments.last);
        if planted::is(Bug::VoteForgotten) {
            hard_state.vote = converge_ledger_core::NodeId(0);
        }
        Overlay::new(progress.last, hard_state, mark, genesis)
    }
}

impl Shared {
    /// Puts what was recovered in place for readers. The database stays with the caller.
    pub(crate) fn install(&self, opened: &Opened) {
        self.not_outdated_yet();
        self.segments.begin();
        self.say_segments(&opened.segments.durable());
        self.level.store(opened.state.level, Ordering::Release);
        self.memory.install(opened.overlay(), opened.state.clone());
        let mut process = self.process();
        process.boot = Some(opened.set.progress().boot);
        process.store_id = Some(opened.store_id);
        drop(process);
        let covered = opened.set.progress().covered.get();
        self.durable_lsn.store(covered, Ordering::Release);
        self.covered_lsn.store(covered, Ordering::Release);
    }
}
