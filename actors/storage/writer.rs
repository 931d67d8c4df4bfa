//! The journal's worker: it owns the file that is written to.
//!
//! It takes what is queued, writes it as one
//! record, syncs, hands the operations on to the database's worker and calls back, in this order
//! and one record at a time: a record is not written before the one in front of it is durable
//! (S1, S2). It takes the next file from `Spares`; making it is the other worker's job.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use converge_ledger_core::planted::{self, Bug};
use converge_supervisors::Hold;

use super::error::Cause;
use super::executor::{Signal, Step, Worker};
use super::incarnation::{Incarnation, QueuedWrite};
use super::journal::record::{Builder, FIRST_RECORD, Op};
use super::journal::tip::Tip;
use super::shared::Shared;

/// The worker that writes.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    tip: Tip,
    builder: Builder,
    /// In the builder, not yet durable.
    batch: Vec<QueuedWrite>,
    /// The builder's record is in the file, and not synced yet.
    written: bool,
    /// The other worker was told to make the next file.
    wants_next: bool,
    // Dropped last: the next incarnation starts after it.
    _alive: Arc<Hold>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, incarnation: Arc<Incarnation>, tip: Tip, alive: Arc<Hold>) -> Writer {
        Writer {
            shared,
            incarnation,
            tip,
            builder: Builder::default(),
            batch: Vec::new(),
            written: false,
            wants_next: false,
            _alive: alive,
        }
    }

    /// Takes as much of the queue as a record may hold. Says whether the queue was closed.
    fn take(&mut self) -> bool {
        let max = self.shared.settings.journal_record_bytes_max;
        let mut queue = self.incarnation.queue();
        let mut weight = 0;
        while let Some(next) = queue.writes.front() {
            if !self.batch.is_empty() && weight + next.weight > max {
                break;
            }
            weight += next.weight;
            self.batch.extend(queue.writes.pop_front());
        }
        let closed = queue.closed;
        drop(queue);
        self.builder.begin();
        for op in self.batch.iter().flat_map(|write| &write.ops) {
            self.builder.put(op);
        }
        closed
    }

    /// Goes on in the next file; none is ready if this says no.
    fn next_file(&mut self) -> bool {
        let mut spares = self.incarnation.spares();
        let Some(next) = spares.ready.take() else {
            spares.wanted = true;
            drop(spares);
            self.incarnation.want_commit();
            return false;
        };
        (spares.active_bytes, spares.wanted) = (next.header.bytes, false);
        self.wants_next = false;
        let full = std::mem::replace(&mut self.tip.file, next);
        spares.retired.push_back((full, self.tip.last));
        drop(spares);
        self.tip.offset = FIRST_RECORD;
        self.incarnation.want_commit();
        true
    }

    /// Puts the record into the file. Where there is nothing to write, there is nothing to sync.
    fn write(&mut self) {
        if self.batch.iter().all(|write| write.ops.is_empty()) {
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
        self.batch.iter_mut().filter_map(|write| write.done.take()).for_each(|done| done(Ok(())));
    }

    /// Makes the record durable, and says so.
    fn sync(&mut self) {
        self.written = false;
        let mut ops = self.batch.iter().flat_map(|write| &write.ops);
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
        for done in self.batch.drain(..).filter_map(|write| write.done) {
            done(Err(error.clone()));
        }
    }

    /// The batch is durable: first the database's worker takes it, then everybody hears of it.
    fn finish(&mut self, wrote: bool) {
        let batch = std::mem::take(&mut self.batch);
        let mut dones = Vec::with_capacity(batch.len());
        let mut ops = Vec::with_capacity(batch.len());
        let mut weight = 0;
        for write in batch {
            ops.extend(write.ops);
            dones.extend(write.done);
            weight += write.weight;
        }
        if wrote {
            self.hand_on(ops, weight);
        }
        if !self.wants_next && self.tip.wants_next() {
            self.wants_next = true;
            self.incarnation.spares().wanted = true;
            self.incarnation.redb_signal.raise();
        }
        for done in dones {
            done(Ok(()));
        }
    }

    fn hand_on(&self, ops: Vec<Op>, weight: usize) {
        let lsn = self.tip.last;
        self.shared.durable_lsn.store(lsn.get(), Ordering::Release);
        self.incarnation.backlog.fetch_add(weight, Ordering::Relaxed);
        let enough = self.shared.commit_bytes();
        let mut durable = self.incarnation.durable();
        let (first, before) = (durable.records.is_empty(), durable.bytes);
        durable.bytes += weight;
        durable.records.push((lsn, ops, weight));
        let wake = first || (before < enough && durable.bytes >= enough);
        drop(durable);
        if wake {
            self.incarnation.redb_signal.raise();
        }
    }

    fn refuse(&mut self, cause: &Cause) -> Step {
        let mut queue = self.incarnation.queue();
        let writes = std::mem::take(&mut queue.writes);
        let closed = queue.closed;
        drop(queue);
        for write in self.batch.drain(..).chain(writes) {
            if let Some(done) = write.done {
                done(Err(cause.error()));
            }
        }
        if closed { self.end() } else { Step::Idle(None) }
    }

    fn end(&self) -> Step {
        self.incarnation.durable().ended = true;
        self.incarnation.redb_signal.raise();
        Step::Done
    }
}

impl Worker for Writer {
    fn step(&mut self) -> Step {
        if let Some(cause) = self.shared.fence.cause() {
            return self.refuse(&cause);
        }
        if self.written {
            self.sync();
            return Step::Worked;
        }
        if self.batch.is_empty() {
            // A closed queue is finished past the bound: it does not grow any more.
            if self.shared.crowded(&self.incarnation) && !self.incarnation.is_closed() {
                self.incarnation.want_commit();
                return Step::Idle(None);
            }
            let closed = self.take();
            if self.batch.is_empty() {
                return if closed { self.end() } else { Step::Idle(None) };
            }
        }
        if !self.tip.has_room(&self.builder) && !self.next_file() {
            // Without a next file what is queued stays unwritten; `drop` lets go of it.
            return if self.incarnation.spares().ended { Step::Done } else { Step::Idle(None) };
        }
        self.write();
        Step::Worked
    }

    fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.incarnation.journal_signal)
    }
}

impl Drop for Writer {
    /// Also after a panic in a callback: the other worker must not wait for more, nor anybody for
    /// what is still queued.
    fn drop(&mut self) {
        self.incarnation.worker_ended();
        self.incarnation.durable().ended = true;
        self.incarnation.redb_signal.raise();
        let unanswered = std::mem::take(&mut self.incarnation.queue().writes);
        drop(unanswered);
    }
}
