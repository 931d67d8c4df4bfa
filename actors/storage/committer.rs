//! The database's worker: recovers, puts what is applied into segments, commits in bulk, keeps a journal file ready, closes.
//!
//! It owns the database: it opens it, it is the only one that writes to it, and it closes it on its
//! own thread, after the journal's writer has ended and no reader is left.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{LogIndex, Lsn, State};
use converge_supervisors::{Hold, panic_text};
use redb::Database;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::database::commit::{AppliedRows, WriteSet, commit};
use super::database::log::LogReader;
use super::database::overlay::Generation;
use super::database::settle::{Settled, Unsettled, settle};
use super::database::tables::Progress;
use super::database::trouble::{Trouble, redb_cause};
use super::disk::{File, Lock};
use super::error::{Cause, Error};
use super::executor::{Signal, Step, Worker};
use super::failure::Failure;
use super::incarnation::Incarnation;
use super::journal::ring::{JournalFile, Maker};
use super::journal::tip::Tip;
use super::layout::{self, DATABASE, LOCK_FILE, Make};
use super::passing::{is_lack, lack, passes};
use super::recover::{self, BootOf, Found, Opened};
use super::room::{LACK_PAUSE, LOOK_INTERVAL, Room};
use super::segments::writer::SegmentWriter;
use super::settings::Settings;
use super::shared::{Process, Shared};

/// Told what recovery came to: where the journal goes on.
type Recovery = oneshot::Sender<Result<Tip, Failure>>;

/// The worker's life: `Opening -> Running -> (gone)`.
enum Work {
    /// Recovery is to be done, and its outcome sent.
    Opening(Option<Recovery>),
    /// Commits what comes.
    Running(Box<OpenDatabase>),
}

/// Drives the database.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    work: Work,
    // Dropped last: the next incarnation starts after it.
    _alive: Arc<Hold>,
}

impl Committer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        incarnation: Arc<Incarnation>,
        reply: Recovery,
        alive: Arc<Hold>,
    ) -> Committer {
        Committer { shared, incarnation, work: Work::Opening(Some(reply)), _alive: alive }
    }

    fn recover(&mut self) -> Result<(Box<OpenDatabase>, Tip), Failure> {
        let Process { boot, came_up, store_id } = *self.shared.process();
        let boot = boot.map_or(BootOf::New, BootOf::Process);
        let durable = Lsn(self.shared.durable_lsn.load(Ordering::Acquire));
        let make = if came_up { Make::Known { store_id, durable } } else { Make::Fresh };
        let mut found = Found::default();
        let recovered = self.recover_as(make, boot, &mut found);
        if came_up {
            return recovered;
        }
        self.shared.process().store_id = found.store_id;
        recovered.map_err(|failure| recover::at_first(&self.shared.settings, failure, found.is_member))
    }

    fn recover_as(&self, make: Make, boot: BootOf, found: &mut Found) -> Result<(Box<OpenDatabase>, Tip), Failure> {
        let opened = recover::open(&self.shared.settings, make, boot, found)?;
        self.shared.install(&opened);
        OpenDatabase::start(&self.shared, &self.incarnation, opened)
    }
}

impl Worker for Committer {
    fn step(&mut self) -> Step {
        match &mut self.work {
            Work::Opening(reply) => {
                let reply = reply.take();
                let (outcome, next) = match self.recover() {
                    Ok((running, tip)) => (Ok(tip), Some(running)),
                    Err(failure) => (Err(failure), None),
                };
                let go_on = next.is_some();
                if let Some(running) = next {
                    self.work = Work::Running(running);
                }
                // Whoever asked may be gone; then the incarnation was closed.
                let _ = reply.map(|reply| reply.send(outcome));
                if go_on { Step::Worked } else { Step::Done }
            }
            Work::Running(running) => running.step(&self.shared, &self.incarnation),
        }
    }

    fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.incarnation.redb_signal)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        close(&self.shared);
        self.incarnation.spares().ended = true;
        self.incarnation.worker_ended();
        self.incarnation.wake();
    }
}

/// Closes the database once no reader has it.
pub(crate) fn close(shared: &Shared) {
    let db = shared.db.take();
    let close = || db.map_or(Ok(()), |db| db.close().map_err(redb::Error::from));
    match catch_unwind(AssertUnwindSafe(close)).unwrap_or(Err(redb::Error::PreviousIo)) {
        Ok(()) => {}
        // Whoever met the failure, or the panic, that it remembers has seen to it.
        Err(error @ redb::Error::PreviousIo) => {
            tracing::warn!(%error, "the database was not closed well; the next start repairs it");
        }
        // The next incarnation must not build on what this one may not have written.
        Err(error) => drop(shared.fence(redb_cause("closing the database", &error))),
    }
}

/// The database is open.
pub(crate) struct OpenDatabase {
    set: WriteSet,
    /// What the database has of the state machine.
    applied: LogIndex,
    db_file: Arc<dyn File>,
    segments: SegmentWriter,
    maker: Maker,
    /// A journal file was removed that did not fit, and the one in its place is still to be made.
    owed: bool,
    /// A segment's file could not be made for want of something.
    lacks_segment: bool,
    /// When the room and the directory were looked at last.
    looked: Option<Instant>,
    /// Since when something waits for a commit.
    since: Option<Instant>,
    // The directory stays locked until the database is closed.
    lock: Box<dyn Lock>,
}

impl OpenDatabase {
    /// Takes the database over and applies what is committed, so that whoever recovers finds
    /// nothing left to apply.
    pub(crate) fn start(
        shared: &Shared,
        incarnation: &Incarnation,
        opened: Opened,
    ) -> Result<(Box<OpenDatabase>, Tip), Failure> {
        *incarnation.spares() = opened.spares;
        shared.db.put(opened.db);
        let mut running = Box::new(OpenDatabase {
            applied: opened.state.applied,
            set: opened.set,
            db_file: opened.db_file,
            segments: opened.segments,
            maker: opened.maker,
            owed: false,
            lacks_segment: false,
            looked: None,
            since: None,
            lock: opened.lock,
        });
        let caught_up = running.catch_up(shared, incarnation);
        if caught_up.is_err() {
            close(shared);
        }
        caught_up.map(|()| (running, opened.tip))
    }

    fn catch_up(&mut self, shared: &Shared, incarnation: &Incarnation) -> Result<(), Failure> {
        while let Some(indexes) = shared.unapplied() {
            let bytes = shared.settings.apply_bytes;
            let read = |txn: &redb::ReadTransaction| {
                LogReader::new(txn, &shared.segments).entries(indexes.start, indexes.end, bytes)
            };
            let entries = shared.db.read(read)?;
            shared.apply_all(incarnation, &entries)?;
            if shared.memory.overlay().bytes() >= shared.commit_bytes() {
                self.commit(shared, incarnation)?;
            }
        }
        self.commit(shared, incarnation)?;
        self.measure(shared, incarnation);
        shared.keep_end()?;
        Ok(())
    }

    fn step(&mut self, shared: &Shared, incarnation: &Incarnation) -> Step {
        let (bytes, waiting, ended, wanted) = {
            let durable = incarnation.durable();
            (durable.bytes, !durable.records.is_empty(), durable.ended, durable.wanted)
        };
        self.look(shared);
        if let Some(cause) = shared.fence.cause() {
            // A full disk is left again, and must not be when the directory is gone meanwhile (S8).
            let looks = matches!(cause, Cause::DiskFull { .. }).then_some(LOOK_INTERVAL);
            return if ended { Step::Done } else { Step::Idle(looks) };
        }
        // After an apply that panicked halfway the state is not to be stored any more.
        let sound = shared.memory.is_sound();
        let active = if sound { shared.memory.overlay().active.bytes } else { 0 };
        // Whoever stops does not wait for a file: what is in no segment stays in the log table.
        let lacks = self.lacks_segment && !ended;
        let pending = waiting || lacks || (sound && shared.applied() > self.applied);
        let interval = if self.lacks_segment { LACK_PAUSE } else { shared.settings.commit_interval };
        let due = self.due(pending, interval);
        let enough = bytes + active >= shared.commit_bytes();
        let room = if pending { shared.look() } else { Room::default() };
        let room = if matches!(room, Room::Out { .. }) { None } else { Some(room) };
        if pending && room.is_some() && (enough || wanted || ended || due == Some(Duration::ZERO)) {
            return match self.commit(shared, incarnation) {
                Ok(()) => Step::Worked,
                Err(Halt::Fence(cause)) => {
                    shared.fence(cause);
                    Step::Worked
                }
                Err(Halt::Exit) => Step::Done,
            };
        }
        let next = match self.prepare(shared, incarnation) {
            Ok(Prepared::Made) => return Step::Worked,
            Ok(Prepared::Nothing) if room.is_some() => LOOK_INTERVAL,
            Ok(prepared) => {
                incarnation.give_up_files();
                if prepared == Prepared::Lacking { LACK_PAUSE } else { LOOK_INTERVAL }
            }
            Err(cause) => {
                shared.fence(cause);
                return Step::Worked;
            }
        };
        // What is not committed for want of room is in the journal, and the next start finds it there.
        let due = due.filter(|_| room.is_some()).unwrap_or(next);
        if ended { Step::Done } else { Step::Idle(Some(due.min(next))) }
    }

    /// Looks at the room, and whether the directory is still there: files that were removed take writes as before,
    /// and nobody would ever find them.
    fn look(&mut self, shared: &Shared) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            return;
        }
        self.looked = Some(Instant::now());
        shared.look();
        let Settings { dir, .. } = &shared.settings;
        let is_here = self.db_file.is_at(&dir.join(DATABASE)).and_then(|database| {
            let lock = self.lock.is_at(&dir.join(LOCK_FILE));
            lock.map(|lock| database && lock)
        });
        match is_here {
            Ok(true) => {}
            Ok(false) => drop(shared.fence(layout::gone())),
            // The next look may tell.
            Err(error) if is_lack(&error) => {}
            // Whoever cannot see the files cannot tell that anybody will find them: S2 asks for that.
            Err(error) => drop(shared.fence(Cause::of("looking at the data directory", &error))),
        }
    }

    /// How long until a commit is due; none when there is nothing to commit.
    fn due(&mut self, pending: bool, interval: Duration) -> Option<Duration> {
        if !pending {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        Some(interval.saturating_sub(since.elapsed()))
    }

    fn commit(&mut self, shared: &Shared, incarnation: &Incarnation) -> Result<(), Halt> {
        self.since = None;
        // Rows first, records second: what was applied is durable in the journal by then.
        let rows = self.take_rows(shared);
        let records = {
            let mut durable = incarnation.durable();
            durable.bytes = 0;
            // Not before: where there is no room it is still wanted when there is.
            durable.wanted = false;
            std::mem::take(&mut durable.records)
        };
        for (lsn, ops, weight) in records {
            let absorbed = self.set.absorb(lsn, ops, weight);
            absorbed.expect("the overlay refuses what does not fit");
        }
        let row_bytes = rows.as_ref().map_or(0, |(_, generation)| generation.bytes);
        if self.set.is_empty() && rows.is_none() && !self.lacks_segment {
            return Ok(());
        }
        let weight = self.set.bytes + row_bytes;
        self.store(shared, rows.as_ref())?;
        let written = self.set.stored(Progress { segments: self.segments.durable(), ..*self.set.progress() });
        // Freed after the lock is.
        let gone = shared.memory.end_flush(&written);
        drop(gone);
        let freed = weight.min(incarnation.backlog.load(Ordering::Relaxed));
        incarnation.backlog.fetch_sub(freed, Ordering::Relaxed);
        let covered = self.set.progress().covered.get();
        shared.covered_lsn.store(covered, Ordering::Release);
        self.measure(shared, incarnation);
        incarnation.committed.notify_waiters();
        incarnation.journal_signal.raise();
        Ok(())
    }

    /// The applied rows and the state that goes with them, when there is something new.
    fn take_rows(&self, shared: &Shared) -> Option<(State, Arc<Generation>)> {
        let mut state = shared.memory.applying()?;
        if state.applied == self.applied {
            return None;
        }
        let generation = state.begin_flush();
        Some((state.clone(), generation))
    }

    fn store(&mut self, shared: &Shared, rows: Option<&(State, Arc<Generation>)>) -> Result<(), Halt> {
        let applied_rows = rows.map(|(state, rows)| AppliedRows { state, rows });
        let applied = rows.map_or(self.applied, |(state, _)| state.applied);
        let db = shared.db.borrow();
        let db: &Database = db.as_ref().expect("is open while its worker runs");
        let (set, segments, block_bytes_max) = (&self.set, &mut self.segments, shared.settings.segment_block_bytes);
        let settles = rows.is_some() || self.lacks_segment;
        let stored = catch_unwind(AssertUnwindSafe(|| {
            let settled = match settles {
                true => settle(segments, block_bytes_max, db, set, applied)?,
                false => Settled::nothing(segments.durable()),
            };
            commit(db, set, self.applied, applied_rows, &settled).map_err(Unstored::Commit)?;
            Ok::<_, Unstored>(settled.lack)
        }));
        match stored {
            Ok(Ok(lack)) => {
                if lack.is_some() || self.lacks_segment {
                    self.lacks_segment = lack.is_some();
                    shared.lacks.say(lack.map(|error| format!("making a segment: {error}")));
                }
                shared.say_segments(&self.segments.durable());
                self.applied = applied;
                shared.commit_panicked.store(false, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(unstored)) => Err(unstored.into()),
            // Whatever it was about is gone after a recovery, unless it is on the disk.
            Err(_) if !shared.commit_panicked.swap(true, Ordering::Relaxed) => Err(Halt::Exit),
            Err(panic) => {
                let what = format!("the database: {}", panic_text(panic.as_ref()));
                Err(Halt::Fence(Cause::DataLoss { what }))
            }
        }
    }

    /// Sees to it that the journal's writer finds a next file.
    fn prepare(&mut self, shared: &Shared, incarnation: &Incarnation) -> Result<Prepared, Cause> {
        let covered = self.set.progress().covered;
        let mut spares = incarnation.spares();
        if spares.ready.is_some() || !spares.wanted {
            return Ok(Prepared::Nothing);
        }
        // S7: only when the database has all of it; and only when a later record is durable, so that
        // the last record there is always stays, and says how old the journal's files are.
        let durable = Lsn(shared.durable_lsn.load(Ordering::Acquire));
        let free = |last: Lsn| (last <= covered && last < durable) || planted::is(Bug::FileReusedEarly);
        let old = if self.owed { None } else { spares.take_oldest(free) };
        if old.is_none() && !self.owed && !spares.retired.is_empty() {
            // It will be, after the next record and the next commit.
            return Ok(Prepared::Nothing);
        }
        spares.generation += 1;
        let generation = spares.generation;
        let slot = spares.slot + 1;
        drop(spares);
        let salt = (shared.settings.random)();
        let ready = match old {
            Some(old) if self.maker.fits(&old) => self.maker.renew(old, generation, salt),
            Some(old) => self.maker.remove(&old).and_then(|()| {
                self.owed = true;
                self.make(shared, slot, generation, salt)
            }),
            None => self.make(shared, slot, generation, salt),
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) if passes(&error) => {
                shared.lacks.say(Some(format!("making a journal file: {error}")));
                return Ok(Prepared::Lacking);
            }
            Err(error) => return Err(Cause::of("making a journal file", &error)),
        };
        shared.lacks.say(None);
        self.owed = false;
        let mut spares = incarnation.spares();
        spares.slot = spares.slot.max(ready.slot);
        spares.ready = Some(ready);
        drop(spares);
        self.measure(shared, incarnation);
        incarnation.journal_signal.raise();
        Ok(Prepared::Made)
    }

    fn make(&self, shared: &Shared, slot: u64, generation: u64, salt: u64) -> io::Result<JournalFile> {
        if self.owed {
            self.maker.sync_names()?;
        }
        if let Room::Out { free } = shared.look() {
            return Err(lack(format!("room: {free} bytes are free")));
        }
        self.maker.make(slot, generation, salt)
    }

    fn measure(&self, shared: &Shared, incarnation: &Incarnation) {
        if let Ok(len) = self.db_file.len() {
            shared.redb_bytes.store(len, Ordering::Relaxed);
        }
        let spares = incarnation.spares();
        shared.journal_bytes.store(spares.bytes(), Ordering::Relaxed);
    }
}

/// Why a commit was not stored.
enum Unstored {
    Segments(Unsettled),
    Commit(redb::Error),
}

impl From<Unsettled> for Unstored {
    fn from(unsettled: Unsettled) -> Unstored {
        Unstored::Segments(unsettled)
    }
}

impl From<Unstored> for Halt {
    fn from(unstored: Unstored) -> Halt {
        let committing = |error| Halt::Fence(redb_cause("committing to the database", &error));
        match unstored {
            Unstored::Commit(error) | Unstored::Segments(Unsettled::Read(Trouble::Redb(error))) => committing(error),
            Unstored::Segments(Unsettled::Write(error)) => Halt::Fence(Cause::of("writing a segment", &error)),
            Unstored::Segments(Unsettled::Read(trouble)) => match Failure::from(trouble) {
                Failure::Fence(cause) => Halt::Fence(cause),
                Failure::Refused(_) | Failure::Passing(_) => Halt::Exit,
            },
        }
    }
}

/// Why a commit came to no end.
enum Halt {
    /// The disk, or what is on it.
    Fence(Cause),
    /// It panicked: the incarnation ends, and the next one recovers from disk.
    Exit,
}

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Failure {
        match halt {
            Halt::Fence(cause) => Failure::Fence(cause),
            Halt::Exit => Failure::Refused(Error::Unavailable),
        }
    }
}

/// What came of looking for a next journal file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prepared {
    /// There is one, or none can be had yet.
    Nothing,
    Made,
    /// Something is lacking; it is to be tried again.
    Lacking,
}
