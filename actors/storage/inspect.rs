//! Looking into the data directory of a node that is stopped.
//!
//! Every function takes the directory's lock. All but those of a damaged tail replay the journal into the database first,
//! as a start would: so they need to write, and what they show is what a start would find. None counts as a start, and none
//! makes anything in a directory that holds no ledger.

mod tail;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use converge_ledger_core::{Batch, Boot, LogIndex, Lsn, Position, Sequence, State, StoreId, Term};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::Serialize;

use super::committer::{OpenDatabase, close};
use super::database::log::LogReader;
use super::database::open::{drop_index, touch};
use super::database::rows::RowReader;
use super::database::tables::{
    BLOCKS, CONTEXTS, INDEX, META, META_COUNTS, POSITIONS, RowCounts, block_from, head_from, meta_row, place_from,
    spans_from,
};
use super::database::trouble::{Trouble, db_failure};
use super::database::{keys, names};
use super::error::Error;
use super::failure::Failure;
use super::layout::Make;
use super::recover::{self, BootOf, Found, Opened};
use super::segments::SegmentsEnd;
use super::segments::walk::SegmentWalk;
use super::settings::Settings;
use super::shared::Shared;
use super::types::{EntryKind, Genesis, HardState, LogEntry};
pub use tail::{DamagedTail, NOT_ALONE, cut_tail, damaged_tail};

/// As much of the log is held in memory at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// After so many findings a verification stops looking for more.
const PROBLEMS_MAX: usize = 100;

/// What a directory holds, at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The directory's random name.
    pub store_id: StoreId,
    /// How many processes started on it.
    pub boot: Boot,
    /// The cluster it belongs to.
    pub genesis: Option<Genesis>,
    /// Term, vote, commit.
    pub hard_state: HardState,
    /// The end of the log.
    pub last: LogIndex,
    /// The last log entry applied.
    pub applied: LogIndex,
    /// How many entries the ledger has.
    pub entries: Position,
    /// How many contexts the ledger has.
    pub contexts: u64,
    /// Digest of the applied state, lowercase hex.
    pub digest: String,
    /// The last journal record, all of which the database covers.
    pub covered_lsn: Lsn,
    /// Bytes of the journal's files.
    pub journal_bytes: u64,
    /// Bytes of the segments' files.
    pub segment_bytes: u64,
    /// Bytes of the database's file.
    pub redb_bytes: u64,
}

/// A log entry, at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct LogLine {
    /// Its place.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// What it is to Raft.
    pub kind: EntryKind,
    /// Bytes of its data.
    pub bytes: usize,
    /// The node that proposed it; none when it carries no batch.
    pub origin: Option<u64>,
    /// How many commands its batch has.
    pub commands: usize,
}

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    /// Blocks of segments read, each against checksum, place and chain.
    pub blocks: u64,
    /// Log entries read, each against its checksum.
    pub log_entries: u64,
    /// Contexts walked from their first entry to their head.
    pub contexts: u64,
    /// Entries read through the index, each against checksum and chain hash.
    pub entries: u64,
    /// Idempotency keys read.
    pub keys: u64,
    /// What is wrong; empty when all is well. Ends early after a hundred.
    pub problems: Vec<String>,
}

/// Opens a directory. What is known to be committed is applied then, as a start would: after a kill, the database may lack
/// what was acknowledged for a while.
fn open(dir: &Path) -> Result<(Settings, Opened), Error> {
    let settings = Settings::new(dir);
    let open = || recover::open(&settings, Make::Nothing, BootOf::Nobody, &mut Found::default());
    let mut opened = open()?;
    let progress = *opened.set.progress();
    if opened.state.applied < progress.hard_state.commit.min(progress.last) {
        apply_committed(settings.clone(), opened)?;
        opened = open()?;
    }
    Ok((settings, opened))
}

/// Applies what is committed, and closes the database.
fn apply_committed(settings: Settings, opened: Opened) -> Result<(), Failure> {
    let shared = Shared::new(settings, Arc::new(|_| {}));
    shared.install(&opened);
    let incarnation = shared.incarnations.begin(None);
    let running = OpenDatabase::start(&shared, &incarnation, opened);
    close(&shared);
    running.map(drop)
}

fn trouble(trouble: Trouble) -> Error {
    Failure::from(trouble).into()
}

/// Puts what was opened where reads look for it.
fn hold(settings: &Settings, opened: Opened) -> (Shared, LockedDirectory) {
    let shared = Shared::new(settings.clone(), Arc::new(|_| {}));
    shared.install(&opened);
    let Opened { db, lock, set, state, .. } = opened;
    shared.db.put(db);
    let progress = *set.progress();
    (shared, LockedDirectory { last: progress.last, segments: progress.segments, state, _lock: lock })
}

struct LockedDirectory {
    last: LogIndex,
    segments: SegmentsEnd,
    state: State,
    _lock: Box<dyn super::disk::Lock>,
}

/// What a directory holds, at a glance.
///
/// # Errors
/// [`Error::Refused`] when it cannot be opened, [`Error::DataLoss`] when it is damaged.
pub fn summary(dir: &Path) -> Result<Summary, Error> {
    let (_, opened) = open(dir)?;
    let progress = *opened.set.progress();
    let spares = opened.spares.retired.iter().map(|(file, _)| file).chain(&opened.spares.ready);
    let files = spares.chain([&opened.tip.file]);
    Ok(Summary {
        store_id: opened.store_id,
        boot: progress.boot,
        genesis: opened.genesis.clone(),
        hard_state: HardState {
            commit: progress.hard_state.commit.min(progress.last).max(opened.state.applied),
            ..progress.hard_state
        },
        last: progress.last,
        applied: opened.state.applied,
        entries: opened.state.last_position,
        contexts: opened.state.contexts,
        digest: opened.state.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        covered_lsn: progress.covered,
        journal_bytes: files.map(|file| file.header.bytes).sum(),
        segment_bytes: progress.segments.closed_bytes + progress.segments.bytes,
        redb_bytes: opened.db_file.len().unwrap_or_default(),
    })
}

/// Hands log entries `from..=to` to `each`, until it says no.
///
/// # Errors
/// As [`summary`].
pub fn log(dir: &Path, from: LogIndex, to: LogIndex, each: &mut dyn FnMut(LogLine) -> bool) -> Result<(), Error> {
    let (settings, opened) = open(dir)?;
    let (shared, held) = hold(&settings, opened);
    let mut at = from.max(LogIndex(1));
    let end = to.min(held.last);
    while at <= end {
        let read = |txn: &ReadTransaction| LogReader::new(txn, &shared.segments).entries(at, end.next(), CHUNK_BYTES);
        let entries = shared.db.read(read).map_err(trouble)?;
        for entry in &entries {
            if !each(line(entry)) {
                return Ok(());
            }
        }
        at = LogIndex(at.get() + entries.len() as u64);
    }
    Ok(())
}

fn line(entry: &LogEntry) -> LogLine {
    let batch = match entry.kind {
        EntryKind::Normal if !entry.data.is_empty() => Batch::decode(&entry.data).ok(),
        _ => None,
    };
    LogLine {
        index: entry.index,
        term: entry.term,
        kind: entry.kind,
        bytes: entry.data.len(),
        origin: batch.as_ref().map(|batch| batch.origin.get()),
        commands: batch.map_or(0, |batch| batch.commands.len()),
    }
}

/// Walks everything: redb's pages, the segments, the log behind them, and the index against the log.
///
/// # Errors
/// As [`summary`]. What is wrong inside the database is in [`Verified::problems`].
pub fn verify(dir: &Path) -> Result<Verified, Error> {
    let (settings, mut opened) = open(dir)?;
    let mut verified = Verified::default();
    let pages = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| opened.db.check_integrity()));
    match pages {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => verified.problems.push("the database's pages were repaired".into()),
        Ok(Err(error)) => verified.problems.push(format!("the database's pages: {error}")),
        Err(_) => verified.problems.push("the database's pages are damaged".into()),
    }
    // Whatever the check committed: the next start is quick only after a commit of ours.
    touch(&opened.db).map_err(db_failure("committing"))?;
    let (shared, held) = hold(&settings, opened);
    let mut term = Term(0);
    let walked = shared.db.read(|txn| verify_segments(&shared, txn, held.segments, &mut term, &mut verified));
    match walked {
        Ok(()) => verify_tail(&shared, (held.segments.last.next(), held.last), term, &mut verified),
        Err(found) => verified.problems.push(trouble(found).to_string()),
    }
    let index = shared.db.read(|txn| {
        verify_contexts(&shared, txn, &held.state, &mut verified)?;
        verify_positions(txn, &held.state, &mut verified)?;
        verify_buckets(txn, &held.state, &mut verified)
    });
    if let Err(found) = index {
        verified.problems.push(trouble(found).to_string());
    }
    Ok(verified)
}

/// Walks the segments from the first block to the last, along the places that the database has of them.
fn verify_segments(
    shared: &Shared,
    txn: &ReadTransaction,
    end: SegmentsEnd,
    term: &mut Term,
    verified: &mut Verified,
) -> Result<(), Trouble> {
    let mut walk = SegmentWalk::new(&shared.settings, end);
    for row in txn.open_table(BLOCKS)?.iter()? {
        let (key, value) = row?;
        let first = LogIndex(key.value());
        let place = place_from(first, value.value()).map_err(Trouble::DataLoss)?;
        let entries = walk.block(first, &place).map_err(Trouble::segment)?;
        verify_terms(&entries, term, verified);
        verified.blocks += 1;
    }
    walk.end().map_err(Trouble::segment)
}

fn verify_terms(entries: &[LogEntry], term: &mut Term, verified: &mut Verified) {
    for entry in entries {
        if entry.term < *term && verified.problems.len() < PROBLEMS_MAX {
            verified.problems.push(format!("log entry {}: its term goes back", entry.index));
        }
        *term = entry.term;
    }
    verified.log_entries += entries.len() as u64;
}

fn verify_tail(shared: &Shared, (mut at, last): (LogIndex, LogIndex), mut term: Term, verified: &mut Verified) {
    while at <= last && verified.problems.len() < PROBLEMS_MAX {
        let read = |txn: &ReadTransaction| LogReader::new(txn, &shared.segments).entries(at, last.next(), CHUNK_BYTES);
        match shared.db.read(read) {
            Ok(entries) => {
                verify_terms(&entries, &mut term, verified);
                at = LogIndex(at.get() + entries.len() as u64);
            }
            Err(found) => {
                verified.problems.push(trouble(found).to_string());
                return;
            }
        }
    }
}

fn verify_contexts(
    shared: &Shared,
    txn: &ReadTransaction,
    state: &State,
    verified: &mut Verified,
) -> Result<(), Trouble> {
    let contexts = txn.open_table(CONTEXTS)?;
    if contexts.len()? != state.contexts {
        let count = contexts.len()?;
        verified.problems.push(format!("{count} contexts are stored, {} were made", state.contexts));
    }
    for row in contexts.iter()? {
        if verified.problems.len() >= PROBLEMS_MAX {
            return Ok(());
        }
        let (key, value) = row?;
        let context = key.value();
        match verify_context(shared, txn, context, value.value()) {
            Ok(entries) => verified.entries += entries,
            Err(Trouble::DataLoss(what)) => verified.problems.push(what),
            Err(other) => return Err(other),
        }
        verified.contexts += 1;
    }
    Ok(())
}

/// Walks a context from its first entry to its head; says how many there are.
fn verify_context(shared: &Shared, txn: &ReadTransaction, context: &str, head: &[u8]) -> Result<u64, Trouble> {
    let head = head_from(context, head).map_err(Trouble::DataLoss)?;
    let number = head.number.get();
    let index = txn.open_table(INDEX)?;
    let tail = BTreeMap::new();
    let mut rows = RowReader::new(LogReader::new(txn, &shared.segments), &tail);
    let mut chain = converge_ledger_core::EMPTY_CHAIN;
    let mut due = 1;
    for row in index.range((number, 0)..=(number, u64::MAX))? {
        let (key, value) = row?;
        let first = key.value().1;
        let block = block_from(number, first, value.value()).map_err(Trouble::DataLoss)?;
        if first != due {
            return Err(Trouble::DataLoss(format!("context {context:?} goes on at {first}, not at {due}")));
        }
        for (first, run) in block.runs(first) {
            for sequence in first..first + run.entries() {
                chain = rows.entry(context, first, run, Sequence(sequence))?.chain(&chain);
            }
        }
        due += block.entries();
    }
    if Sequence(due - 1) != head.latest {
        return Err(Trouble::DataLoss(format!("context {context:?} ends at {}, not at {}", due - 1, head.latest)));
    }
    if chain != head.chain {
        return Err(Trouble::DataLoss(format!("context {context:?}: its chain hash differs")));
    }
    Ok(due - 1)
}

fn verify_positions(txn: &ReadTransaction, state: &State, verified: &mut Verified) -> Result<(), Trouble> {
    let mut due = 1;
    for row in txn.open_table(POSITIONS)?.iter()? {
        let (key, value) = row?;
        let first = key.value();
        if first != due {
            verified.problems.push(format!("positions go on at {first}, not at {due}"));
        }
        let spans = spans_from(first, value.value()).map_err(Trouble::DataLoss)?;
        due = first + spans.entries();
    }
    if Position(due - 1) != state.last_position {
        verified.problems.push(format!("positions end at {}, not at {}", due - 1, state.last_position));
    }
    Ok(())
}

fn verify_buckets(txn: &ReadTransaction, state: &State, verified: &mut Verified) -> Result<(), Trouble> {
    let counts: RowCounts = meta_row(&txn.open_table(META)?, META_COUNTS)?;
    let mut last = Position(0);
    verified.keys = keys::walk(txn, |row| last = last.max(row.position))?;
    let names = names::walk(txn)?;
    for (what, found, counted) in
        [("idempotency keys", verified.keys, counts.keys.rows), ("names of contexts", names, counts.contexts)]
    {
        if found != counted {
            verified.problems.push(format!("there are {found} {what}, {counted} were counted"));
        }
    }
    if last > state.last_position {
        verified
            .problems
            .push(format!("an idempotency key is of position {last}, they end at {}", state.last_position));
    }
    Ok(())
}

/// Drops all that follows from the log and makes it anew. A crash in between is made good by the
/// next start.
///
/// # Errors
/// As [`summary`].
pub fn rebuild_index(dir: &Path) -> Result<Summary, Error> {
    let (settings, mut opened) = open(dir)?;
    drop_index(&opened.db, &settings.random).map_err(db_failure("dropping the index"))?;
    opened.state = State::default();
    if let Some(genesis) = &opened.genesis {
        genesis.begin(&mut opened.state);
    }
    apply_committed(settings, opened)?;
    summary(dir)
}
