//! Batches come back as they were, rows stand on their own, and no bytes whatever do harm.

use bytes::Bytes;
use converge_ledger_core::{
    Batch, BatchRow, Boot, CodecError, Command, Entry, Lamport, NodeId, Position, Sequence, Transact, TransactEntry,
    decode_row, row_chunk, row_entry, rows,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::sample::{any_batch, append, batch, history, stage};

fn sample() -> Batch {
    batch(7, (1..4).map(|n| Command::Append(append(n, "orders", "a payload"))))
}

/// What must be in the rows of a command.
fn rows_of(command: &Command) -> Vec<BatchRow> {
    let Command::Transact(transact) = command else { return vec![BatchRow::Command(command.clone())] };
    let head = BatchRow::Transact(Transact { entries: Vec::new(), ..transact.clone() }, transact.entries.len() as u32);
    let parts = transact.entries.iter().cloned().map(BatchRow::Part);
    [head].into_iter().chain(parts).collect()
}

/// A transaction of two entries, and an append after it.
fn with_transaction() -> Batch {
    let part = |n| {
        let append = append(n, "orders", "a payload");
        TransactEntry { id: append.id, appended_at_ns: n, received_lamport: None, entry: append.entry }
    };
    let transact =
        Transact { counter: 1, idempotency_key: None, conditions: Vec::new(), entries: vec![part(1), part(2)] };
    batch(0, [Command::Transact(transact), Command::Append(append(2, "orders", "alone"))])
}

/// Everything that reads a batch, on any bytes: no panic, and what decodes can be split.
fn read_all(data: &Bytes) {
    let decoded = Batch::decode(data).is_ok();
    assert!(!decoded || rows(data).is_ok());
    for n in [0, 1, 2] {
        let _ = decode_row(n, data);
        let _ = row_entry(n, data, "orders", Sequence(1), Position(1), Lamport(1));
    }
}

proptest! {
    #[test]
    fn a_batch_comes_back(batch in any_batch()) {
        let data = batch.encode();
        prop_assert_eq!(Batch::decode(&data).unwrap(), batch);
    }

    #[test]
    fn rows_stand_on_their_own_and_join_to_the_entry(batch in any_batch()) {
        let data = batch.encode();
        let rows = rows(&data).unwrap();
        let own: Vec<BatchRow> = batch.commands.iter().flat_map(rows_of).collect();
        prop_assert_eq!(rows.len(), own.len().max(1));
        prop_assert_eq!(Bytes::from(rows.concat()), data);
        for (n, row) in (0..).zip(&own) {
            prop_assert_eq!(&decode_row(n, &rows[n as usize]).unwrap(), row);
        }
    }

    #[test]
    fn a_damaged_byte_is_found(batch in any_batch(), at in any::<Index>(), by in 1u8..) {
        let mut data = batch.encode().to_vec();
        let at = at.index(data.len());
        data[at] ^= by;
        let data = Bytes::from(data);
        prop_assert!(Batch::decode(&data).is_err());
        prop_assert!(rows(&data).is_err());
    }

    #[test]
    fn a_damaged_row_is_found(batch in any_batch(), row in any::<Index>(), at in any::<Index>()) {
        let rows = rows(&batch.encode()).unwrap();
        let n = row.index(rows.len());
        let mut damaged = rows[n].to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= 0x10;
        prop_assert!(decode_row(n as u32, &damaged.into()).is_err());
    }

    #[test]
    fn a_cut_batch_is_found(batch in any_batch(), at in any::<Index>()) {
        let data = batch.encode();
        let cut = data.slice(..at.index(data.len()));
        prop_assert!(Batch::decode(&cut).is_err());
        prop_assert!(rows(&cut).is_err());
    }

    #[test]
    fn bytes_behind_a_batch_are_found(batch in any_batch(), more in vec(any::<u8>(), 1..40)) {
        let data = Bytes::from([batch.encode().to_vec(), more].concat());
        prop_assert_eq!(Batch::decode(&data), Err(CodecError::Trailing { what: "a batch" }));
        prop_assert_eq!(rows(&data), Err(CodecError::Trailing { what: "a batch" }));
    }

    #[test]
    fn garbage_does_no_harm(data in vec(any::<u8>(), 0..300)) {
        read_all(&data.into());
    }

    /// Garbage that gets past the first checks: a right version, a right tag, right checksums.
    #[test]
    fn sealed_garbage_does_no_harm(
        header in vec(any::<u8>(), 0..12),
        kind in 0x20u8..0x28,
        content in vec(any::<u8>(), 0..120),
    ) {
        let body = [vec![kind, content.len() as u8], content].concat();
        let row = [&[2, 1, 1, 0, 0, 1][..], &body].concat();
        let sealed = |n: u32, row: &[u8]| {
            let checksum = crc32c::crc32c(&[&n.to_le_bytes(), row].concat());
            Bytes::from([row, &checksum.to_le_bytes()].concat())
        };
        read_all(&sealed(0, &row));
        read_all(&sealed(0, &[vec![2], header].concat()));
        read_all(&sealed(1, &body));
    }
}

#[test]
fn a_batch_without_commands_is_a_low_water_mark() {
    let empty = batch(900, []);
    let data = empty.encode();
    assert_eq!(Batch::decode(&data).unwrap(), empty);
    assert_eq!(rows(&data).unwrap(), vec![data.clone()]);
    assert_eq!(decode_row(0, &data), Err(CodecError::Truncated { what: "a log row" }));
}

#[test]
fn swapped_rows_are_found() {
    let data = sample().encode();
    let rows_of = rows(&data).unwrap();
    assert_eq!(rows_of[1].len(), rows_of[2].len(), "the test swaps rows of one length");
    let swapped = Bytes::from([&rows_of[0][..], &rows_of[2], &rows_of[1]].concat());
    let damage = CodecError::Checksum { what: "a log row" };
    assert_eq!(rows(&swapped), Err(damage));
    assert_eq!(Batch::decode(&swapped), Err(damage));
    assert_eq!(decode_row(1, &rows_of[2]), Err(damage));
    assert!(decode_row(1, &rows_of[0]).is_err());
    assert!(decode_row(0, &rows_of[1]).is_err());
}

#[test]
fn a_newer_version_is_named() {
    let mut data = sample().encode().to_vec();
    data[0] = 3;
    let newer = CodecError::Version { what: "a batch", found: 3, known: 2 };
    assert_eq!(Batch::decode(&data.into()), Err(newer));
}

#[test]
fn what_a_newer_program_wrote_is_told_from_what_none_ever_did() {
    const TAG: usize = 6;
    let own = batch(7, [Command::Append(append(1, "orders", "a payload"))]).encode();
    let changed = |at: usize, byte: u8| {
        let mut data = own.to_vec();
        data[at] = byte;
        let crc = data.len() - 4;
        let sum = crc32c::crc32c(&[&[0; 4], &data[..crc]].concat());
        data[crc..].copy_from_slice(&sum.to_le_bytes());
        Batch::decode(&data.into())
    };
    assert_eq!(changed(TAG, own[TAG]).unwrap().encode(), own);
    for (at, byte) in [(0, 3), (TAG, 3 << 4 | 1), (TAG, 2 << 4 | 12), (TAG + 2, 1 << 6)] {
        let newer = changed(at, byte).unwrap_err();
        assert!(newer.is_newer(), "{byte} at {at}: {newer}");
    }
    // An older version, a kind that no program has, and a flag without what it stands for.
    for (at, byte) in [(0, 1), (TAG, 1 << 4 | 1), (TAG, 2 << 4), (TAG + 2, 1)] {
        let nothing = changed(at, byte).unwrap_err();
        assert!(!nothing.is_newer(), "{byte} at {at}: {nothing}");
    }
    let damaged = CodecError::Checksum { what: "a log row" };
    assert!(!damaged.is_newer());
}

#[test]
fn entries_of_a_transaction_are_in_its_rows_and_nowhere_else() {
    let whole = with_transaction();
    let rows = rows(&whole.encode()).unwrap();
    assert_eq!(rows.len(), 4);
    let second = row_entry(2, &rows[2], "orders", Sequence(8), Position(9), Lamport(10)).unwrap();
    let Command::Transact(transact) = &whole.commands[0] else { unreachable!() };
    assert_eq!((second.id, second.sequence, second.position), (transact.entries[1].id, Sequence(8), Position(9)));
    // These rows, one behind the other, each sealed in its place.
    const COUNT: usize = 5;
    let of = |order: &[usize]| {
        let mut all = Vec::new();
        for (n, &of) in (0u32..).zip(order) {
            let mut row = rows[of][..rows[of].len() - 4].to_vec();
            if n == 0 {
                row[COUNT] = order.len() as u8;
            }
            row.extend_from_slice(&crc32c::crc32c(&[&n.to_le_bytes(), &row[..]].concat()).to_le_bytes());
            all.extend(row);
        }
        Batch::decode(&all.into())
    };
    assert_eq!(of(&[0, 1, 2, 3]).unwrap(), whole);
    // An append where an entry is due, an entry without a transaction, and one that is not there.
    for order in [&[0, 1, 3, 2][..], &[0, 1, 2, 2], &[0, 1]] {
        let misplaced = of(order).unwrap_err();
        assert!(!misplaced.is_newer(), "{misplaced}");
    }
}

#[test]
fn a_count_that_cannot_be_is_refused_before_anything_is_set_aside() {
    // Four thousand million commands in a handful of bytes.
    let mut data = vec![2, 1, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
    data.extend_from_slice(&[0; 64]);
    assert_eq!(Batch::decode(&data.into()), Err(CodecError::Truncated { what: "a batch" }));
}

#[test]
fn a_small_entry_takes_little_more_than_itself() {
    let mut append = append(1_000_000, "orders-1", &"x".repeat(256));
    append.entry.key = "status".to_owned();
    let mut batch = batch(1_000_000, [Command::Append(append)]);
    batch.boot = Boot(100);
    batch.origin = NodeId(5);
    let alone = batch.encode().len();
    assert!(alone <= 320, "{alone} bytes");
    let command = batch.commands[0].clone();
    batch.commands.push(command);
    let row = batch.encode().len() - alone;
    assert!(row <= 256 + 8 + 6 + 40, "{row} bytes");
    batch.commands.clear();
    let header = batch.encode().len();
    assert!(header <= 12, "{header} bytes");
}

#[test]
fn payloads_are_not_copied() {
    let data = sample().encode();
    let Command::Append(append) = &Batch::decode(&data).unwrap().commands[1] else {
        panic!("the sample appends");
    };
    assert!(data.as_ptr_range().contains(&append.entry.payload.as_ptr()));
}

#[test]
fn an_entry_is_read_from_its_row_only() {
    let history = history("loaded", 3);
    let chunk = stage(2, 1, &history, 1);
    let batch = batch(0, [Command::Append(append(1, "orders", "hello")), Command::Stage(chunk.clone())]);
    let rows = rows(&batch.encode()).unwrap();
    let read = |n: u32, context: &str, sequence, lamport| {
        let row = &rows[n as usize];
        row_entry(n, row, context, Sequence(sequence), Position(9), Lamport(lamport))
    };
    let other = Err(CodecError::Mismatch { what: "a log row" });

    let appended = read(0, "orders", 4, 5).unwrap();
    assert_eq!(&appended.payload[..], b"hello");
    assert_eq!((appended.sequence, appended.position), (Sequence(4), Position(9)));
    assert_eq!(appended.lamport, Lamport(5));
    assert_eq!(read(0, "order", 4, 5), other);

    assert_eq!(read(1, "loaded", 3, 6), other, "a chunk is no entry");

    let read = |n: u32, context: &str, first, count| row_chunk(n, &rows[n as usize], context, Sequence(first), count);
    let found = read(1, "loaded", 2, 2).unwrap();
    assert_eq!(found, chunk);
    let last = found.entry(Sequence(3), Position(9)).unwrap();
    assert_eq!(last, Entry { position: Position(9), ..history[2].clone() });
    assert!(!batch.encode().as_ptr_range().contains(&last.payload.as_ptr()));
    for at in [0, 1, 4] {
        assert_eq!(found.entry(Sequence(at), Position(9)), None);
    }
    let other = Err(CodecError::Mismatch { what: "a log row" });
    assert_eq!(read(1, "other", 2, 2), other);
    assert_eq!(read(1, "loaded", 1, 2), other);
    assert_eq!(read(1, "loaded", 2, 3), other);
    assert_eq!(read(0, "orders", 1, 1), other);
}
