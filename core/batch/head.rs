//! The content of a row: a command's fields, then its payload as it is.
//!
//! ```text
//! append = flags u8, counter, id [16], time u64 LE [8],
//!          idempotency key?, expected sequence?, received Lamport time?,
//!          context, key, metadata?, payload
//! stage  = counter, load, context, first sequence, chain before [32], chain after [32],
//!          count u32, and for each entry: flags u8, Lamport time, id [16], time u64 LE [8],
//!          key, metadata?, payload length, payload
//! load   = counter, stage, context, base, base chain [32], count, fail_if_exists
//! transact = flags u8, counter, idempotency key?, count of conditions u32,
//!          and for each: flags u8, context, sequence?, fence epoch?; count of entries u32
//! part   = flags u8, id [16], time u64 LE [8], received Lamport time?, context, key, metadata?, payload
//! fence  = flags u8, counter, context, fence epoch?
//! ```
//!
//! The entries of a transaction are the rows after its own, a part each. An append has its fence epoch behind its
//! received Lamport time.
//!
//! All else is postcard, piece by piece. What is optional is there if its flag is set; that an append
//! follows the one before it is a flag alone. Times are not varints, for those of our days would take nine bytes.

use bytes::Bytes;
use serde::Deserialize;

use super::BatchRow;
use crate::codec::{CodecError, put};
use crate::command::{Append, Command, Condition, Load, RaiseFence, Stage, StagedEntry, Transact, TransactEntry};
use crate::entry::NewEntry;

/// What errors call a row.
pub(super) const ROW: &str = "a log row";

/// What errors call what this program does not know.
const KIND: &str = "a log row of kind";
const FLAGS: &str = "a log row with flags";

const APPEND: u8 = 1;
const STAGE: u8 = 2;
const LOAD: u8 = 3;
const TRANSACT: u8 = 4;
const PART: u8 = 5;
const FENCE: u8 = 6;

const IDEMPOTENCY_KEY: u8 = 1;
const EXPECTED_SEQUENCE: u8 = 2;
const RECEIVED_LAMPORT: u8 = 4;
const METADATA: u8 = 8;
const FOLLOWS: u8 = 16;
const FENCE_EPOCH: u8 = 32;

/// Numbers, identifiers and hashes of any head, with lengths and checksum.
const FIXED_BYTES_MAX: usize = 160;
/// Flags, Lamport time, identifier, time, and two lengths: no staged entry is shorter.
const STAGED_BYTES_MIN: usize = 1 + 1 + 16 + 8 + 1 + 1;
/// Flags and the length of a name: no condition is shorter.
const CONDITION_BYTES_MIN: usize = 1 + 1;

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// About how many bytes the row of this command takes.
pub(super) fn size_hint(command: &Command) -> usize {
    FIXED_BYTES_MAX
        + match command {
            Command::Append(Append { idempotency_key, entry, .. }) => {
                idempotency_key.as_ref().map_or(0, String::len) + entry.content_bytes()
            }
            Command::Stage(stage) => {
                stage.context_id.len() + stage.entries.iter().map(StagedEntry::bytes).sum::<usize>()
            }
            Command::Load(load) => load.context_id.len(),
            Command::Transact(transact) => {
                let conditions = transact.conditions.iter().map(|condition| 32 + condition.context_id.len());
                let entries = transact.entries.iter().map(|part| FIXED_BYTES_MAX + part.entry.content_bytes());
                transact.idempotency_key.as_ref().map_or(0, String::len)
                    + conditions.sum::<usize>()
                    + entries.sum::<usize>()
            }
            Command::Fence(fence) => fence.context_id.len(),
        }
}

/// The kind, the head (behind what is in `out`), and the payload. The entries of a transaction are not in it.
pub(super) fn encode(out: Vec<u8>, command: &Command) -> (u8, Vec<u8>, &[u8]) {
    match command {
        Command::Append(append) => (APPEND, put_append(out, append), &append.entry.payload),
        Command::Stage(stage) => (STAGE, put_stage(out, stage), &[]),
        Command::Load(load) => (LOAD, put_load(out, load), &[]),
        Command::Transact(transact) => (TRANSACT, put_transact(out, transact), &[]),
        Command::Fence(fence) => (FENCE, put_fence(out, fence), &[]),
    }
}

/// The same for an entry of a transaction.
pub(super) fn encode_part(out: Vec<u8>, part: &TransactEntry) -> (u8, Vec<u8>, &[u8]) {
    let TransactEntry { id, appended_at_ns, received_lamport, entry } = part;
    let NewEntry { context_id, key, payload, metadata } = entry;
    let flags = flag(received_lamport.is_some(), RECEIVED_LAMPORT) | flag(!metadata.is_empty(), METADATA);
    let mut out = put(out, &(flags, id, appended_at_ns.to_le_bytes()));
    if let Some(lamport) = received_lamport {
        out = put(out, lamport);
    }
    out = put(out, &(context_id, key));
    (PART, if metadata.is_empty() { out } else { put(out, metadata) }, payload)
}

fn put_append(out: Vec<u8>, append: &Append) -> Vec<u8> {
    let NewEntry { context_id, key, payload: _, metadata } = &append.entry;
    let flags = flag(append.idempotency_key.is_some(), IDEMPOTENCY_KEY)
        | flag(append.expected_sequence.is_some(), EXPECTED_SEQUENCE)
        | flag(append.fence_epoch.is_some(), FENCE_EPOCH)
        | flag(append.received_lamport.is_some(), RECEIVED_LAMPORT)
        | flag(!metadata.is_empty(), METADATA)
        | flag(append.follows, FOLLOWS);
    let time = append.appended_at_ns.to_le_bytes();
    let mut out = put(out, &(flags, append.counter, append.id, time));
    if let Some(key) = &append.idempotency_key {
        out = put(out, key);
    }
    if let Some(sequence) = append.expected_sequence {
        out = put(out, &sequence);
    }
    if let Some(lamport) = append.received_lamport {
        out = put(out, &lamport);
    }
    if let Some(epoch) = append.fence_epoch {
        out = put(out, &epoch);
    }
    out = put(out, &(context_id, key));
    if metadata.is_empty() { out } else { put(out, metadata) }
}

fn put_stage(out: Vec<u8>, stage: &Stage) -> Vec<u8> {
    let Stage { counter, load, context_id, first, base_chain, chain, entries } = stage;
    let count = u32::try_from(entries.len()).expect("a chunk has a bound far below");
    let out = put(out, &(counter, load, context_id, first, base_chain, chain, count));
    entries.iter().fold(out, put_staged)
}

fn put_staged(out: Vec<u8>, entry: &StagedEntry) -> Vec<u8> {
    let flags = flag(!entry.metadata.is_empty(), METADATA);
    let time = entry.appended_at_ns.to_le_bytes();
    let mut out = put(out, &(flags, entry.lamport, entry.id, time, &entry.key));
    if !entry.metadata.is_empty() {
        out = put(out, &entry.metadata);
    }
    let mut out = put(out, &entry.payload.len());
    out.extend_from_slice(&entry.payload);
    out
}

fn put_load(out: Vec<u8>, load: &Load) -> Vec<u8> {
    let Load { counter, stage, context_id, base, base_chain, count, fail_if_exists } = load;
    put(out, &(counter, stage, context_id, base, base_chain, count, fail_if_exists))
}

fn put_transact(out: Vec<u8>, transact: &Transact) -> Vec<u8> {
    let Transact { counter, idempotency_key, conditions, entries } = transact;
    let mut out = put(out, &(flag(idempotency_key.is_some(), IDEMPOTENCY_KEY), counter));
    if let Some(key) = idempotency_key {
        out = put(out, key);
    }
    let count = |n: usize| u32::try_from(n).expect("a transaction has a bound far below");
    out = put(out, &count(conditions.len()));
    for Condition { context_id, sequence, fence_epoch } in conditions {
        let flags = flag(sequence.is_some(), EXPECTED_SEQUENCE) | flag(fence_epoch.is_some(), FENCE_EPOCH);
        out = put(out, &(flags, context_id));
        if let Some(sequence) = sequence {
            out = put(out, sequence);
        }
        if let Some(epoch) = fence_epoch {
            out = put(out, epoch);
        }
    }
    put(out, &count(entries.len()))
}

fn put_fence(out: Vec<u8>, fence: &RaiseFence) -> Vec<u8> {
    let RaiseFence { counter, context_id, epoch } = fence;
    let out = put(out, &(flag(epoch.is_some(), FENCE_EPOCH), counter, context_id));
    if let Some(epoch) = epoch { put(out, epoch) } else { out }
}

/// The row of this kind with these fields.
pub(super) fn decode(kind: u8, content: &Bytes) -> Result<BatchRow, CodecError> {
    let mut reader = Reader::new(ROW, content);
    let row = match kind {
        // What ends with a payload takes all there is.
        APPEND => return take_append(reader, content).map(|append| BatchRow::Command(Command::Append(append))),
        PART => return take_part(reader, content).map(BatchRow::Part),
        STAGE => BatchRow::Command(Command::Stage(take_stage(&mut reader, content)?)),
        LOAD => BatchRow::Command(Command::Load(take_load(&mut reader)?)),
        TRANSACT => {
            let (transact, parts) = take_transact(&mut reader)?;
            BatchRow::Transact(transact, parts)
        }
        FENCE => BatchRow::Command(Command::Fence(take_fence(&mut reader)?)),
        // No version ever wrote it, nor will.
        0 => return Err(CodecError::Malformed { what: ROW }),
        found => return Err(CodecError::Unknown { what: KIND, found }),
    };
    if reader.rest().is_empty() { Ok(row) } else { Err(CodecError::Trailing { what: ROW }) }
}

fn take_append(mut reader: Reader<'_>, content: &Bytes) -> Result<Append, CodecError> {
    let known = IDEMPOTENCY_KEY | EXPECTED_SEQUENCE | RECEIVED_LAMPORT | METADATA | FOLLOWS | FENCE_EPOCH;
    let flags = reader.flags(known)?;
    let (counter, id, time) = reader.take::<(_, _, [u8; 8])>()?;
    let idempotency_key = reader.optional(flags, IDEMPOTENCY_KEY)?;
    let expected_sequence = reader.optional(flags, EXPECTED_SEQUENCE)?;
    let received_lamport = reader.optional(flags, RECEIVED_LAMPORT)?;
    let fence_epoch = reader.optional(flags, FENCE_EPOCH)?;
    let entry = take_entry(reader, flags, content)?;
    Ok(Append {
        counter,
        id,
        appended_at_ns: u64::from_le_bytes(time),
        idempotency_key,
        expected_sequence,
        fence_epoch,
        received_lamport,
        follows: flags & FOLLOWS != 0,
        entry,
    })
}

/// What ends a row of an entry.
fn take_entry(mut reader: Reader<'_>, flags: u8, content: &Bytes) -> Result<NewEntry, CodecError> {
    let (context_id, key) = reader.take()?;
    let metadata = reader.optional(flags, METADATA)?.unwrap_or_default();
    let payload = content.slice_ref(reader.rest());
    Ok(NewEntry { context_id, key, payload, metadata })
}

fn take_part(mut reader: Reader<'_>, content: &Bytes) -> Result<TransactEntry, CodecError> {
    let flags = reader.flags(RECEIVED_LAMPORT | METADATA)?;
    let (id, time) = reader.take::<(_, [u8; 8])>()?;
    let received_lamport = reader.optional(flags, RECEIVED_LAMPORT)?;
    let entry = take_entry(reader, flags, content)?;
    Ok(TransactEntry { id, appended_at_ns: u64::from_le_bytes(time), received_lamport, entry })
}

/// A transaction without its entries, and how many those are.
fn take_transact(reader: &mut Reader<'_>) -> Result<(Transact, u32), CodecError> {
    let flags = reader.flags(IDEMPOTENCY_KEY)?;
    let counter = reader.take()?;
    let idempotency_key = reader.optional(flags, IDEMPOTENCY_KEY)?;
    let count = count_fits(reader.take()?, CONDITION_BYTES_MIN, reader.rest())?;
    let mut conditions = Vec::with_capacity(count);
    for _ in 0..count {
        let flags = reader.flags(EXPECTED_SEQUENCE | FENCE_EPOCH)?;
        let context_id = reader.take()?;
        let sequence = reader.optional(flags, EXPECTED_SEQUENCE)?;
        let fence_epoch = reader.optional(flags, FENCE_EPOCH)?;
        conditions.push(Condition { context_id, sequence, fence_epoch });
    }
    let parts = reader.take()?;
    Ok((Transact { counter, idempotency_key, conditions, entries: Vec::new() }, parts))
}

fn take_fence(reader: &mut Reader<'_>) -> Result<RaiseFence, CodecError> {
    let flags = reader.flags(FENCE_EPOCH)?;
    let (counter, context_id) = reader.take()?;
    let epoch = reader.optional(flags, FENCE_EPOCH)?;
    Ok(RaiseFence { counter, context_id, epoch })
}

fn take_stage(reader: &mut Reader<'_>, content: &Bytes) -> Result<Stage, CodecError> {
    let (counter, load, context_id, first, base_chain, chain, count) = reader.take()?;
    let count = count_fits(count, STAGED_BYTES_MIN, reader.rest())?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(take_staged(reader, content)?);
    }
    Ok(Stage { counter, load, context_id, first, base_chain, chain, entries })
}

/// Before anything is set aside for them: more of so many bytes do not fit in here.
fn count_fits(count: u32, bytes_min: usize, rest: &[u8]) -> Result<usize, CodecError> {
    let count = count as usize;
    if count <= rest.len() / bytes_min { Ok(count) } else { Err(CodecError::Truncated { what: ROW }) }
}

fn take_staged(reader: &mut Reader<'_>, content: &Bytes) -> Result<StagedEntry, CodecError> {
    let flags = reader.flags(METADATA)?;
    let (lamport, id, time, key) = reader.take::<(_, _, [u8; 8], _)>()?;
    let metadata = reader.optional(flags, METADATA)?.unwrap_or_default();
    let length = reader.take::<usize>()?;
    let payload = content.slice_ref(reader.bytes(length)?);
    let appended_at_ns = u64::from_le_bytes(time);
    Ok(StagedEntry { lamport, id, appended_at_ns, key, payload, metadata })
}

fn take_load(reader: &mut Reader<'_>) -> Result<Load, CodecError> {
    let (counter, stage, context_id, base, base_chain, count, fail_if_exists) = reader.take()?;
    Ok(Load { counter, stage, context_id, base, base_chain, count, fail_if_exists })
}

/// Postcard pieces, one after the other.
pub(super) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, rest: &'a [u8]) -> Self {
        Self { what, rest }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take<T: Deserialize<'a>>(&mut self) -> Result<T, CodecError> {
        let what = self.what;
        let (value, rest) = postcard::take_from_bytes(self.rest).map_err(|error| match error {
            postcard::Error::DeserializeUnexpectedEnd => CodecError::Truncated { what },
            _ => CodecError::Malformed { what },
        })?;
        self.rest = rest;
        Ok(value)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let what = self.what;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(CodecError::Truncated { what })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn flags(&mut self, known: u8) -> Result<u8, CodecError> {
        let flags = self.take::<u8>()?;
        match flags & !known {
            0 => Ok(flags),
            found => Err(CodecError::Unknown { what: FLAGS, found }),
        }
    }

    fn optional<T: Deserialize<'a>>(&mut self, flags: u8, bit: u8) -> Result<Option<T>, CodecError> {
        if flags & bit == 0 { Ok(None) } else { self.take().map(Some) }
    }
}
