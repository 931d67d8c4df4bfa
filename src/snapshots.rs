//! Copying a context out, and back in: all or nothing, also past the size of one log entry.
//!
//! A load stages the entries it brings in chunks, invisibly, in the log, one command each; one commit command then
//! checks that the context still is what it was compared with, and links the chunks. What a failed load staged is
//! dropped by every node when this node's mark passes the load's staging.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use converge_actors::entry::Staging;
use converge_ledger_core::{Command, Head, Limits, Load, Outcome, Sequence, Stage, StagedEntry, snapshot as blob};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ledger::{Failure, deadline};
use crate::types::{Consistency, Loaded, ReadOptions, Snapshot};
use crate::{Error, Ledger};

pub(crate) async fn snapshot(ledger: &Ledger, context: &str, given: Option<Duration>) -> Result<Snapshot, Error> {
    let options = ReadOptions { consistency: Consistency::Linearizable, deadline: given, ..ReadOptions::default() };
    let (limit, offload) = (ledger.inner.snapshot_bytes, ledger.inner.storage.offload());
    let mut pages = ledger.pages(context, options).await?;
    // A context that cannot be unpacked again is not packed.
    let mut packer = blob::Packer::new(context, unpacked_bytes(ledger));
    while let Some(entries) = pages.next().await? {
        let work = move || entries.iter().try_for_each(|entry| packer.push(entry)).map(|()| packer);
        packer = offload.run(work).await.map_err(|_| Error::SnapshotTooLarge { limit })?;
        if packer.packed_bytes() > limit {
            return Err(Error::SnapshotTooLarge { limit });
        }
    }
    let (created_at_ns, entry_count) = ((ledger.inner.clock)(), packer.count());
    let encoded = offload.run(move || packer.finish(created_at_ns)).await;
    if encoded.len() > limit {
        return Err(Error::SnapshotTooLarge { limit });
    }
    let sequence = pages.latest();
    Ok(Snapshot { bytes: encoded.into(), sequence, created_at_ns, entry_count, version: blob::VERSION })
}

/// What a blob may take unpacked.
pub(crate) fn unpacked_bytes(ledger: &Ledger) -> usize {
    ledger.inner.snapshot_bytes.saturating_mul(ledger.inner.calls.unpacked_factor)
}

pub(crate) async fn load(
    ledger: &Ledger,
    context: &str,
    snapshot: Bytes,
    fail_if_exists: bool,
    given: Option<Duration>,
) -> Result<Loaded, Error> {
    let deadline = deadline(given);
    ledger.inner.limits.check_context_id(context).map_err(|error| Error::InvalidArgument(error.to_string()))?;
    let blob = unpack(ledger, context, snapshot).await?;
    let staging = ledger.inner.entries.begin_staging();
    let mut staged = Staged::default();
    for _ in 0..ledger.inner.calls.load_tries_max {
        ledger.confirm(deadline).await?;
        let head = ledger.stored(deadline, || ledger.inner.storage.head(context)).await?;
        let base = blob.compare(head.as_ref(), fail_if_exists)?;
        stage(ledger, &staging, context, &blob, base, &mut staged, deadline).await?;
        match commit(ledger, context, &staging, base, &blob, fail_if_exists, deadline).await {
            Err(Failure::Moved) => {}
            Ok(loaded) => return Ok(loaded),
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Unknown(_)) => return Err(unknown_load()),
        }
    }
    Err(Error::Unavailable {
        reason: format!(
            "context {context} kept growing while it was compared with the snapshot; nothing was loaded, try again when it is quiet"
        ),
    })
}

/// A load has no entry to give back; loading again is safe, because what is there already changes nothing.
fn unknown_load() -> Error {
    Error::LoadUnknown
}

/// A decoded blob, and what it is under the name of the context it goes into.
struct Blob {
    decoded: blob::Decoded,
    /// The chain hash after each entry.
    chain: Vec<[u8; 32]>,
}

impl Blob {
    /// The sequence up to which the context already holds the blob.
    fn compare(&self, head: Option<&Head>, fail_if_exists: bool) -> Result<Sequence, Error> {
        let Some(head) = head.filter(|head| head.latest > Sequence(0)) else { return Ok(Sequence(0)) };
        let latest = head.latest;
        if fail_if_exists {
            return Err(Error::ContextExists { latest });
        }
        match self.chain.get(place(latest) - 1) {
            Some(chain) if *chain == head.chain => Ok(latest),
            _ => Err(Error::LoadDiverges { latest }),
        }
    }

    fn chain_at(&self, base: Sequence) -> [u8; 32] {
        match base {
            Sequence(0) => converge_ledger_core::EMPTY_CHAIN,
            base => self.chain[place(base) - 1],
        }
    }
}

fn place(sequence: Sequence) -> usize {
    usize::try_from(sequence.get()).expect("a blob's sequences fit in memory")
}

async fn unpack(ledger: &Ledger, context: &str, snapshot: Bytes) -> Result<Blob, Error> {
    let bound = ledger.inner.snapshot_bytes;
    let unpacked = unpacked_bytes(ledger);
    if snapshot.len() > bound {
        return Err(Error::InvalidSnapshot(format!(
            "snapshot of {} bytes is larger than limits.snapshot_bytes = {bound}: raise it",
            snapshot.len()
        )));
    }
    // Its entries were accepted once, maybe under higher limits than today's, which judge what is new.
    let given = &ledger.inner.limits;
    let payload_bytes = given.payload_bytes.max(Limits::default().payload_bytes);
    let (context, limits) = (context.to_owned(), Limits { payload_bytes, ..given.clone() });
    let work = move || {
        let decoded = blob::decode(&snapshot, unpacked).map_err(|error| Error::InvalidSnapshot(error.to_string()))?;
        for entry in decoded.entries(&context, 0..decoded.count()) {
            limits
                .check_entry(&entry)
                .map_err(|error| Error::InvalidSnapshot(format!("entry {}: {error}", entry.sequence)))?;
        }
        let chain = blob::chain(decoded.entries(&context, 0..decoded.count()));
        Ok(Blob { decoded, chain })
    };
    ledger.inner.storage.offload().run(work).await
}

/// The chunks that were staged: how many entries, by the place of the first.
#[derive(Default)]
struct Staged(BTreeMap<usize, usize>);

impl Staged {
    /// The next places from `at` on that no chunk covers; none when all up to `end` are. A chunk that reaches over
    /// `at` does not count: only whole ones are linked.
    fn gap(&self, mut at: usize, end: usize) -> Option<std::ops::Range<usize>> {
        while let Some(count) = self.0.get(&at) {
            at += count;
        }
        let next = self.0.range(at..).next().map_or(end, |(next, _)| *next);
        (at < end).then(|| at..next.min(end))
    }
}

/// The first chunk of these places: as many entries as fit, and at least one.
fn chunk(ledger: &Ledger, context: &str, blob: &Blob, places: std::ops::Range<usize>) -> Vec<StagedEntry> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for entry in blob.decoded.entries(context, places).map(StagedEntry::from) {
        bytes += entry.bytes();
        if bytes > ledger.inner.calls.chunk_bytes && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    entries
}

/// Puts what is missing behind the base into the log, invisibly, a bounded number of chunks at a time.
async fn stage(
    ledger: &Ledger,
    staging: &Staging,
    context: &str,
    blob: &Blob,
    base: Sequence,
    staged: &mut Staged,
    deadline: Instant,
) -> Result<(), Error> {
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
    while let Some(gap) = staged.gap(place(base), blob.chain.len()) {
        if tasks.len() >= ledger.inner.calls.staging_max {
            joined(tasks.join_next().await)?;
        }
        let entries = chunk(ledger, context, blob, gap.clone());
        let bytes = entries.iter().map(StagedEntry::bytes).sum();
        let (admission, attempt) = ledger.enter(1, bytes, deadline).await?;
        let end = gap.start + entries.len();
        staged.0.insert(gap.start, entries.len());
        let command = Stage {
            counter: attempt.counter(),
            load: staging.number(),
            context_id: context.to_owned(),
            first: Sequence(gap.start as u64 + 1),
            base_chain: blob.chain_at(Sequence(gap.start as u64)),
            chain: blob.chain_at(Sequence(end as u64)),
            entries,
        };
        let ledger = ledger.clone();
        tasks.spawn(async move {
            match ledger.submit(&attempt, Command::Stage(command), admission, deadline).await {
                Ok(_) => Ok(()),
                Err(Failure::Refused(error)) => Err(error),
                // Staged or not, nothing is visible.
                Err(Failure::Unknown(_) | Failure::Moved) => Err(Error::Unavailable {
                    reason:
                        "the snapshot could not be staged within the deadline; nothing was loaded, give it more time"
                            .to_owned(),
                }),
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        joined(Some(result))?;
    }
    Ok(())
}

fn joined(result: Option<Result<Result<(), Error>, tokio::task::JoinError>>) -> Result<(), Error> {
    match result {
        Some(Ok(result)) => result,
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        None => Ok(()),
    }
}

async fn commit(
    ledger: &Ledger,
    context: &str,
    staging: &Staging,
    base: Sequence,
    blob: &Blob,
    fail_if_exists: bool,
    deadline: Instant,
) -> Result<Loaded, Failure> {
    let attempt = ledger.begin(1, deadline).map_err(Failure::Refused)?;
    let command = Load {
        counter: attempt.counter(),
        stage: staging.number(),
        context_id: context.to_owned(),
        base,
        base_chain: blob.chain_at(base),
        count: blob.chain.len() as u64 - base.get(),
        fail_if_exists,
    };
    let admission = ledger.admit(1, 0).map_err(Failure::Refused)?;
    let done = ledger.submit(&attempt, Command::Load(command), admission, deadline).await?;
    let Outcome::Loaded { restored, latest, .. } = done.outcome else { unreachable!("a load has a load's outcome") };
    Ok(Loaded { entries_restored: restored, latest })
}
