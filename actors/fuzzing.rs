//! What a fuzzer feeds: bytes of a stranger go into each decoder, and what comes out must hold.
//!
//! A function here takes any bytes, says whether they were taken for sound, and panics where a promise is broken: a
//! decoder that panics itself, that reads back something else than it wrote, or that takes more bytes to say the
//! same. Where a checksum stands in front of a decoder, one mode of the input gets the right one put on, because
//! chance does not find it.
//!
//! Behind the feature `fuzzing`, which no node is built with. `fuzz/` runs these under a fuzzer, `tests/lab/tests/fuzz_corpus.rs`
//! replays what it found.

mod apply;
mod input;
pub(crate) mod sample;
mod seeds;
mod snapshot;

use bytes::Bytes;
use converge_ledger_core::testing::Memory;
use converge_ledger_core::{Batch, BatchRow, Command, checksum::Checksum, decode_row, rows};

pub use crate::distribution::calls::fuzzing::call_frame;
pub use crate::distribution::fuzzing::handshake;
pub use crate::replication::fuzzing::raft_step;
use crate::replication::wire::Frame;
pub use crate::storage::fuzzing::{journal, table_row};
pub use crate::storage::segments::fuzzing::segment;
pub use apply::apply;
pub use input::Input;
pub use sample::Seed;
pub use seeds::seeds;
pub use snapshot::snapshot;

/// A frame as a peer may send it.
pub fn peer_frame(data: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(data);
    let Ok((frame, tag)) = Frame::decode(&bytes) else { return false };
    let again: Bytes = frame.clone().encode(tag).concat().into();
    assert!(again.len() <= bytes.len(), "our own form of a frame is longer than a stranger's");
    assert_eq!(Frame::decode(&again), Ok((frame.clone(), tag)), "a frame reads back as another");
    if let Frame::Propose { data, .. } = frame {
        committed(&data);
    }
    true
}

/// The bytes of a log entry: as they are, or (after an odd first byte) with the checksums put right.
pub fn batch(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let sealed = input.flag();
    let mut bytes = input.rest().to_vec();
    if sealed {
        seal(&mut bytes);
    }
    committed(&Bytes::from(bytes))
}

/// What every node does with the bytes of a committed entry. Nobody can refuse them any more.
fn committed(data: &Bytes) -> bool {
    let decoded = Batch::decode(data);
    match &decoded {
        Ok(batch) => readable(batch, data),
        Err(_) => assert!(rows(data).is_err() || !are_commands(data), "rows are sound and their batch is not"),
    }
    let taken = decoded.is_ok();
    let batch = decoded.ok();
    let mut memory = Memory::new();
    let first = memory.apply(batch.clone());
    let again = memory.apply(batch);
    assert_eq!(first.outcomes, again.outcomes, "an attempt ends differently the second time");
    assert!(again.entries.is_empty() && again.heads.is_empty(), "applied twice, appended twice");
    for context in memory.rows.heads.keys() {
        let entries = memory.entries(context);
        assert!((1..).zip(&entries).all(|(n, entry)| entry.sequence.get() == n), "a gap in {context:?}");
    }
    taken
}

fn readable(batch: &Batch, data: &Bytes) {
    let again = batch.encode();
    assert!(again.len() <= data.len(), "our own form of a batch is longer than a stranger's");
    assert_eq!(Batch::decode(&again).as_ref(), Ok(batch), "a batch reads back as another");
    let rows = rows(data).expect("a batch has rows");
    assert_eq!(rows.concat(), data[..], "rows joined are the entry");
    if batch.commands.is_empty() {
        assert!(decode_row(0, &rows[0]).is_err(), "a command out of a batch without one");
    } else {
        let mut own = (0..).zip(&rows).map(|(n, row)| decode_row(n, row).expect("a row of a batch is sound"));
        for command in &batch.commands {
            match (command, own.next()) {
                (Command::Transact(transact), Some(BatchRow::Transact(_, parts))) => {
                    let parts = own.by_ref().take(parts as usize);
                    let due = transact.entries.iter().cloned().map(BatchRow::Part);
                    assert!(parts.eq(due), "rows are not the entries of their transaction");
                }
                (command, row) => {
                    assert_eq!(row, Some(BatchRow::Command(command.clone())), "a row is not the command of its place");
                }
            }
        }
        assert!(own.next().is_none(), "a batch has more rows than its commands");
    }
}

/// Every row decodes, each to a whole command.
fn are_commands(data: &Bytes) -> bool {
    let Ok(rows) = rows(data) else { return false };
    (0..).zip(&rows).all(|(n, row)| matches!(decode_row(n, row), Ok(BatchRow::Command(_))))
}

/// Puts the checksum of each row right, as far as the bytes look like rows.
fn seal(bytes: &mut [u8]) -> Option<()> {
    const CHECKSUM: usize = 4;
    let (header, rest) = postcard::take_from_bytes::<(u8, u64, u64, u64, u32)>(bytes).ok()?;
    let (mut start, mut at) = (0, bytes.len() - rest.len());
    for n in 0..header.4.max(1) {
        let end = if header.4 == 0 {
            at
        } else {
            let ((_tag, length), rest) = postcard::take_from_bytes::<(u8, usize)>(&bytes[at..]).ok()?;
            (bytes.len() - rest.len()).checked_add(length)?
        };
        let content = bytes.get(start..end)?;
        let checksum = Checksum::new().with(&n.to_le_bytes()).with(content).to_bytes();
        bytes.get_mut(end..end.checked_add(CHECKSUM)?)?.copy_from_slice(&checksum);
        (start, at) = (end + CHECKSUM, end + CHECKSUM);
    }
    Some(())
}
