//! The journal: what makes an append durable, in front of the database.
//!
//! The [`Writer`] owns the file that is written to. It takes what is queued, writes it as one
//! record, syncs, hands the operations on to the database's worker and calls back, in this order
//! and one record at a time: a record is not written before the one in front of it is durable
//! (S1, S2). It takes the next file from [`ring::Spares`]; making it is the other worker's job.

pub(crate) mod record;
pub(crate) mod ring;
pub(crate) mod scan;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use converge_ledger_core::Lsn;
use converge_ledger_core::planted::{self, Bug};
use converge_supervisors::Hold;

use super::error::Cause;
use super::executor::{Signal, Step, Worker};
use super::shared::{Lane, Request, Shared};
use record::{Builder, FIRST_RECORD, Op};
use ring::JournalFile;

/// Where the journal goes on.
#[derive(Debug)]
pub(crate) struct Tip {
    pub(crate) file: JournalFile,
    pub(crate) offset: u64,
    /// Of the last record.
    pub(crate) last: Lsn,
}

impl Tip {
    /// Writes a sealed record at the tip; it is the last one once it is synced.
    ///
    /// # Panics
    /// When it does not fit: behind the end that the file's header names, nobody would find it.
    pub(crate) fn write(&self, builder: &mut Builder) -> std::io::Result<()> {
        assert!(self.has_room(builder), "a record is larger than a journal file");
        let record = builder.seal(self.file.header.salt, self.offset, self.last.next());
        self.file.file.write_at(self.offset, record)
    }

    /// Makes the record that was written durable.
    pub(crate) fn sync(&mut self, builder: &Builder) -> std::io::Result<()> {
        self.file.file.sync_data()?;
        self.pass(builder);
        Ok(())
    }

    /// The record that was written is the last one.
    fn pass(&mut self, builder: &Builder) {
        self.offset += builder.padded_len();
        self.last = self.last.next();
    }

    pub(crate) fn has_room(&self, builder: &Builder) -> bool {
        self.offset + builder.padded_len() <= self.file.header.bytes
    }
}

/// The worker that writes.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    tip: Tip,
    builder: Builder,
    /// In the builder, not yet durable.
    batch: Vec<Request>,
    /// The builder's record is in the file, and not synced yet.
    written: bool,
    // Dropped last: the next incarnation starts after it.
    _alive: Arc<Hold>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, lane: Arc<Lane>, tip: Tip, alive: Arc<Hold>) -> Writer {
        Writer { shared, lane, tip, builder: Builder::default(), batch: Vec::new(), written: false, _alive: alive }
    }

    /// Takes as much of the queue as a record may hold. Says whether the queue was closed.
    fn take(&mut self) -> bool {
        let max = self.shared.settings.journal_record_bytes_max;
        let mut queue = self.lane.queue();
        let mut weight = 0;
        while let Some(next) = queue.requests.front() {
            if !self.batch.is_empty() && weight + next.weight > max {
                break;
            }
            weight += next.weight;
            self.batch.extend(queue.requests.pop_front());
        }
        let closed = queue.closed;
        drop(queue);
        self.builder.begin();
        for op in self.batch.iter().flat_map(|request| &request.ops) {
            self.builder.put(op);
        }
        closed
    }

    /// Goes on in the next file; none is ready if this says no.
    fn next_file(&mut self) -> bool {
        let mut spares = self.lane.spares();
        let Some(next) = spares.ready.take() else {
            drop(spares);
            self.lane.want_commit();
            return false;
        };
        let full = std::mem::replace(&mut self.tip.file, next);
        spares.retired.push_back((full, self.tip.last));
        drop(spares);
        self.tip.offset = FIRST_RECORD;
        self.lane.want_commit();
        true
    }

    /// Puts the record into the file. Where there is nothing to write, there is nothing to sync.
    fn write(&mut self) {
        if self.batch.iter().all(|request| request.ops.is_empty()) {
            return self.finish(false);
        }
        match self.tip.write(&mut self.builder) {
            Ok(()) if planted::is(Bug::AckBeforeSync) => self.finish_early(),
            Ok(()) => self.written = true,
            Err(error) => self.failed(&error),
        }
    }

    /// What [`Bug::AckBeforeSync`] does.
    fn finish_early(&mut self) {
        self.written = true;
        self.batch.iter_mut().filter_map(|request| request.done.take()).for_each(|done| done(Ok(())));
    }

    /// Makes the record durable, and says so.
    fn sync(&mut self) {
        self.written = false;
        let mut ops = self.batch.iter().flat_map(|request| &request.ops);
        let vote = planted::is(Bug::VoteUnsynced) && ops.all(|op| matches!(op, Op::HardState(_)));
        if vote || planted::is(Bug::SyncSkipped) {
            self.tip.pass(&self.builder);
            return self.finish(true);
        }
        match self.tip.sync(&self.builder) {
            Ok(()) => self.finish(true),
            Err(error) => self.failed(&error),
        }
    }

    /// A write or a sync failed: what is on the disk is unknown (S2).
    fn failed(&mut self, error: &std::io::Error) {
        let error = self.shared.fence(Cause::of("writing the journal", error));
        for done in self.batch.drain(..).filter_map(|request| request.done) {
            done(Err(error.clone()));
        }
    }

    /// The batch is durable: first the database's worker takes it, then everybody hears of it.
    fn finish(&mut self, wrote: bool) {
        let batch = std::mem::take(&mut self.batch);
        let mut dones = Vec::with_capacity(batch.len());
        let mut ops = Vec::with_capacity(batch.len());
        let mut weight = 0;
        for request in batch {
            ops.extend(request.ops);
            dones.extend(request.done);
            weight += request.weight;
        }
        if wrote {
            self.hand_on(ops, weight);
        }
        for done in dones {
            done(Ok(()));
        }
    }

    fn hand_on(&self, ops: Vec<Op>, weight: usize) {
        let lsn = self.tip.last;
        self.shared.durable_lsn.store(lsn.get(), Ordering::Release);
        self.lane.backlog.fetch_add(weight, Ordering::Relaxed);
        let enough = self.shared.settings.commit_bytes;
        let mut durable = self.lane.durable();
        let (first, before) = (durable.records.is_empty(), durable.bytes);
        durable.bytes += weight;
        durable.records.push((lsn, ops, weight));
        let wake = first || (before < enough && durable.bytes >= enough);
        drop(durable);
        if wake {
            self.lane.redb_signal.raise();
        }
    }

    fn refuse(&mut self, cause: &Cause) -> Step {
        let mut queue = self.lane.queue();
        let requests = std::mem::take(&mut queue.requests);
        let closed = queue.closed;
        drop(queue);
        for request in self.batch.drain(..).chain(requests) {
            if let Some(done) = request.done {
                done(Err(cause.error()));
            }
        }
        if closed { self.end() } else { Step::Idle(None) }
    }

    fn end(&self) -> Step {
        self.lane.durable().ended = true;
        self.lane.redb_signal.raise();
        Step::Done
    }
}

impl Worker for Writer {
    fn step(&mut self) -> Step {
        if let Some(cause) = self.shared.fenced() {
            return self.refuse(&cause);
        }
        if self.written {
            self.sync();
            return Step::Worked;
        }
        if self.batch.is_empty() {
            // A closed queue is finished past the bound: it does not grow any more.
            if self.shared.crowded(&self.lane) && !self.lane.is_closed() {
                self.lane.want_commit();
                return Step::Idle(None);
            }
            let closed = self.take();
            if self.batch.is_empty() {
                return if closed { self.end() } else { Step::Idle(None) };
            }
        }
        if !self.tip.has_room(&self.builder) && !self.next_file() {
            // Without a next file what is queued stays unwritten; `drop` lets go of it.
            return if self.lane.spares().ended { Step::Done } else { Step::Idle(None) };
        }
        self.write();
        Step::Worked
    }

    fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.lane.journal_signal)
    }
}

impl Drop for Writer {
    /// Also after a panic in a callback: the other worker must not wait for more, nor anybody for
    /// what is still queued.
    fn drop(&mut self) {
        self.shared.worker_ended(&self.lane);
        self.lane.durable().ended = true;
        self.lane.redb_signal.raise();
        let unanswered = std::mem::take(&mut self.lane.queue().requests);
        drop(unanswered);
    }
}
