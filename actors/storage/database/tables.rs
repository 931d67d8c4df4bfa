//! The database's tables and the bytes of their rows. Pure, apart from the reading of a row.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `log` | (log index, row) | the tail of the log, which is in no segment: a row of the entry's batch; row 0 has a prefix with term, kind, number of rows, checksum of the whole entry |
//! | `blocks` | first log index | [`BlockPlace`]: where a block of a segment is |
//! | `contexts` | context id | [`Head`] |
//! | `index` | (context, first sequence) | [`IndexBlock`] of [`EntryRun`]s: where the entries from this sequence on are, with a checksum of each one's bytes |
//! | `positions` | position | [`Spans`]: which log rows became entries from this position on |
//! | `keys` | bucket | a `KeyRow` for each idempotency key, by its print: see `keys` |
//! | `names` | bucket | prints of all contexts: see `names` |
//! | `meta` | name | [`Progress`], [`Identity`], `Genesis`, `State`, [`RowCounts`], `Secret` |
//!
//! Only `log`, `blocks` and `meta` are the ledger, with the segments; the rest follows from the log. Every value has a checksum
//! that covers its key, for redb verifies its own only on repair.

use bytes::{Buf, BufMut, Bytes};
use converge_ledger_core::codec::{decode_keyed, encode_keyed};
use converge_ledger_core::{Boot, Head, Lamport, LogIndex, Lsn, Position, Sequence, StoreId, Term};
use redb::{ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::buckets::Fill;
use crate::storage::journal::record::{kind_byte, kind_of};
use crate::storage::rowed::split;
use crate::storage::segments::{BlockPlace, SegmentsEnd};
use crate::storage::types::{EntryKind, HardState, LogEntry};

pub(crate) const LOG: TableDefinition<'static, (u64, u32), &[u8]> = TableDefinition::new("log");
pub(crate) const BLOCKS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("blocks");
pub(crate) const CONTEXTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("contexts");
pub(crate) const INDEX: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("index");
pub(crate) const POSITIONS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("positions");
pub(crate) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

pub(crate) const META_PROGRESS: &str = "progress";
pub(crate) const META_IDENTITY: &str = "identity";
pub(crate) const META_GENESIS: &str = "genesis";
pub(crate) const META_STATE: &str = "state";
pub(crate) const META_COUNTS: &str = "counts";
pub(crate) const META_SECRET: &str = "secret";

/// Version of the tables that follow from the log; another one makes start-up rebuild them.
pub(crate) const INDEX_FORMAT: u32 = 5;

/// A block of the index this large takes no more runs.
const BLOCK_BYTES: usize = 512;

/// How far the database is. Changes with every commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Everything in the journal up to here is in the database.
    pub(crate) covered: Lsn,
    /// The last log entry.
    pub(crate) last: LogIndex,
    pub(crate) hard_state: HardState,
    pub(crate) boot: Boot,
    /// How far the segments go: the log up to there is in them, the rest in the log table.
    pub(crate) segments: SegmentsEnd,
}

/// How much each table has that follows from the log: one that lost its root looks empty, and one whose root is a page
/// below its root looks shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowCounts {
    pub(crate) contexts: u64,
    pub(crate) index: u64,
    pub(crate) positions: u64,
    pub(crate) keys: Fill,
    pub(crate) names: Fill,
}

/// Whose database this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) store_id: StoreId,
}

/// The state machine's state with the format of the tables that go with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StateRow {
    pub(crate) format: u32,
    pub(crate) state: converge_ledger_core::State,
}

/// Consecutive entries of a context, also consecutive in the ledger and in one log entry. A batch of one
/// context takes one, and so does a chunk of a load, so that the index stays small beside the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryRun {
    pub(crate) position: Position,
    pub(crate) index: LogIndex,
    /// The row of its first entry.
    pub(crate) row: u32,
    pub(crate) rows: RunLayout,
}

/// How the entries of a run lie in their log entry, and what binds the rows to their place in the context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RunLayout {
    /// A row each.
    Each {
        /// Lamport time less sequence: the same for all of the run.
        lead: i64,
        /// Checksum of each row.
        checks: Vec<[u8; 4]>,
    },
    /// All in one row, the chunk of a load.
    Chunk {
        count: u32,
        /// The beginning of the chain hash in which the chunk ends.
        tag: [u8; 8],
    },
}

impl EntryRun {
    /// How many entries it has.
    pub(crate) fn entries(&self) -> u64 {
        match &self.rows {
            RunLayout::Each { checks, .. } => checks.len() as u64,
            RunLayout::Chunk { count, .. } => u64::from(*count),
        }
    }

    /// Bytes in a block, about.
    pub(crate) fn weight(&self) -> usize {
        12 + match &self.rows {
            RunLayout::Each { checks, .. } => 4 * checks.len(),
            RunLayout::Chunk { .. } => 12,
        }
    }
}

/// What names a chunk in a run.
pub(crate) fn chunk_tag(chain: &[u8; 32]) -> [u8; 8] {
    *chain.first_chunk().expect("a hash is longer")
}

pub(crate) fn lamport(lead: i64, sequence: u64) -> Lamport {
    Lamport(sequence.wrapping_add(lead.cast_unsigned()))
}

/// Runs that follow one another in a context, in one row of the index: a row for each run would
/// take three times the space when contexts take turns. The last block of a context grows until it
/// is full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexBlock(pub(crate) Vec<EntryRun>);

impl IndexBlock {
    /// How many entries it has.
    pub(crate) fn entries(&self) -> u64 {
        self.0.iter().map(EntryRun::entries).sum()
    }

    /// It is written anew with every run that joins it, so that its size has a bound.
    pub(crate) fn is_full(&self) -> bool {
        self.0.iter().map(EntryRun::weight).sum::<usize>() >= BLOCK_BYTES
    }

    /// Its runs, each with its first sequence.
    pub(crate) fn runs(&self, first: u64) -> impl Iterator<Item = (u64, &EntryRun)> {
        self.0.iter().scan(first, |next, run| {
            let at = *next;
            *next += run.entries();
            Some((at, run))
        })
    }
}

/// Which log rows became entries, positions running on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spans(pub(crate) Vec<Span>);

/// Rows of one log entry that became entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) index: LogIndex,
    pub(crate) row: u32,
    /// How many entries.
    pub(crate) count: u32,
    /// They are all in that one row.
    pub(crate) chunk: bool,
}

impl Spans {
    /// How many positions they cover.
    pub(crate) fn entries(&self) -> u64 {
        self.0.iter().map(|span| u64::from(span.count)).sum()
    }
}

/// A row's checksum in an [`EntryRun`].
pub(crate) fn row_check(row: &[u8]) -> [u8; 4] {
    crc32c::crc32c(row).to_le_bytes()
}

pub(crate) fn meta_value<T: Serialize>(name: &str, value: &T) -> Vec<u8> {
    encode_keyed(name.as_bytes(), value)
}

pub(crate) fn meta_from<T: DeserializeOwned>(name: &str, data: &[u8]) -> Result<T, String> {
    decode_keyed(name.as_bytes(), data).map_err(|error| format!("meta row {name}: {error}"))
}

/// A row of the table `meta` that is always there.
pub(crate) fn meta_row<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<T, redb::Error> {
    let row = meta.get(name)?.ok_or_else(|| redb::Error::Corrupted(format!("meta row {name} is missing")))?;
    meta_from(name, row.value()).map_err(redb::Error::Corrupted)
}

pub(crate) fn head_value(context: &str, head: &Head) -> Vec<u8> {
    head.encode(context)
}

pub(crate) fn head_from(context: &str, data: &[u8]) -> Result<Head, String> {
    Head::decode(context, data).map_err(|error| format!("head of {context:?}: {error}"))
}

fn block_key(context: u64, first: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&context.to_le_bytes());
    out[8..].copy_from_slice(&first.to_le_bytes());
    out
}

pub(crate) fn block_value(context: u64, first: u64, block: &IndexBlock) -> Vec<u8> {
    encode_keyed(&block_key(context, first), block)
}

pub(crate) fn block_from(context: u64, first: u64, data: &[u8]) -> Result<IndexBlock, String> {
    decode_keyed(&block_key(context, first), data)
        .map_err(|error| format!("index of context {context} at {first}: {error}"))
}

pub(crate) fn place_value(first: LogIndex, place: &BlockPlace) -> Vec<u8> {
    encode_keyed(&first.get().to_le_bytes(), place)
}

pub(crate) fn place_from(first: LogIndex, data: &[u8]) -> Result<BlockPlace, String> {
    decode_keyed(&first.get().to_le_bytes(), data).map_err(|error| format!("place of block {first}: {error}"))
}

pub(crate) fn spans_value(first: u64, spans: &Spans) -> Vec<u8> {
    encode_keyed(&first.to_le_bytes(), spans)
}

pub(crate) fn spans_from(first: u64, data: &[u8]) -> Result<Spans, String> {
    decode_keyed(&first.to_le_bytes(), data).map_err(|error| format!("position row {first}: {error}"))
}

/// What stands in front of row 0 of a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPrefix {
    pub(crate) term: Term,
    pub(crate) kind: EntryKind,
    pub(crate) rows: u32,
    /// Checksum of the entry's data, all rows.
    data_crc: u32,
}

/// A log entry as it is written: the prefix and the rows.
pub(crate) struct LogRows {
    pub(crate) prefix: Vec<u8>,
    pub(crate) rows: Vec<Bytes>,
}

pub(crate) fn log_rows(entry: &LogEntry) -> LogRows {
    let rows = split(entry);
    let head = (kind_byte(entry.kind), entry.term, u32::try_from(rows.len()).expect("rows of a bounded entry"));
    let mut prefix = postcard::to_stdvec(&head).expect("numbers have a postcard form");
    prefix.put_u32_le(crc32c::crc32c(&entry.data));
    prefix.put_u32_le(prefix_crc(entry.index, &prefix));
    LogRows { prefix, rows }
}

fn prefix_crc(index: LogIndex, prefix: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&index.get().to_le_bytes()), prefix)
}

/// Splits row 0 into its prefix and the core's row 0.
pub(crate) fn parse_row0(index: LogIndex, data: &[u8]) -> Result<(LogPrefix, usize), String> {
    let damaged = || format!("log entry {index}: its first row fails its checksum");
    let ((kind, term, rows), rest) = postcard::take_from_bytes::<(u8, Term, u32)>(data).map_err(|_| damaged())?;
    let mut tail = rest;
    let data_crc = tail.try_get_u32_le().map_err(|_| damaged())?;
    let checked = data.len() - tail.len();
    let crc = tail.try_get_u32_le().map_err(|_| damaged())?;
    if crc != prefix_crc(index, &data[..checked]) {
        return Err(damaged());
    }
    let prefix = LogPrefix { term, kind: kind_of(kind).ok_or_else(damaged)?, rows, data_crc };
    Ok((prefix, checked + 4))
}

/// Puts an entry together from all of its rows, row 0 without its prefix.
pub(crate) fn join(index: LogIndex, prefix: &LogPrefix, rows: &[Bytes]) -> Result<LogEntry, String> {
    let data = match rows {
        [one] => one.clone(),
        many => Bytes::from(many.concat()),
    };
    if rows.len() != prefix.rows as usize || crc32c::crc32c(&data) != prefix.data_crc {
        return Err(format!("log entry {index}: its data fails its checksum"));
    }
    Ok(LogEntry { index, term: prefix.term, kind: prefix.kind, data })
}

/// Whether `sequence` is in a run that starts at `first`.
pub(crate) fn run_covers(first: u64, run: &EntryRun, sequence: Sequence) -> bool {
    sequence.get() >= first && sequence.get() - first < run.entries()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_entry_comes_back_and_notices_every_flip() {
        let entry = LogEntry {
            index: LogIndex(300),
            term: Term(5),
            kind: EntryKind::ConfChange,
            data: Bytes::from_static(b"some change"),
        };
        let LogRows { mut prefix, rows } = log_rows(&entry);
        prefix.extend_from_slice(&rows[0]);
        let read = |bytes: &[u8], index| {
            let (head, at) = parse_row0(index, bytes)?;
            join(index, &head, &[Bytes::copy_from_slice(&bytes[at..])])
        };
        assert_eq!(read(&prefix, entry.index), Ok(entry.clone()));
        assert!(read(&prefix, LogIndex(301)).is_err());
        for bit in 0..prefix.len() * 8 {
            let mut flipped = prefix.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped, entry.index).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_row_under_another_key_is_found_out() {
        let rows = RunLayout::Each { lead: -1, checks: vec![[1, 2, 3, 4]] };
        let chunk = RunLayout::Chunk { count: 7, tag: [5; 8] };
        let run = |rows: RunLayout| EntryRun { position: Position(9), index: LogIndex(4), row: 0, rows };
        let block = IndexBlock(vec![run(rows), run(chunk)]);
        assert_eq!(block.runs(2).map(|(first, _)| first).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(block.entries(), 8);
        let bytes = block_value(1, 2, &block);
        assert_eq!(block_from(1, 2, &bytes), Ok(block));
        assert!(block_from(1, 3, &bytes).is_err());
        assert!(block_from(2, 2, &bytes).is_err());
    }
}
