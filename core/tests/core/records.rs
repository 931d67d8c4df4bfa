//! Identifiers, small records and index rows.

use std::collections::BTreeMap;

use converge_ledger_core::codec::{
    decode_index_row, decode_keyed, decode_record, encode_index_row, encode_keyed, encode_record,
};
use converge_ledger_core::{
    AttemptId, Boot, ClusterId, CodecError, ContextNo, EntryId, Head, IndexRow, KeyRow, Lamport, LogIndex, NodeId,
    Origin, Outcome, ParseIdError, Part, Position, Refusal, Sequence, Staging, State,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

const HEAD: Head = Head { number: ContextNo(3), latest: Sequence(9), lamport: Lamport(12), chain: [7; 32] };

fn state() -> State {
    let (base_chain, chain) = ([1; 32], [2; 32]);
    let part = Part { count: 2, index: LogIndex(8), row: 0, lamport: Lamport(3), base_chain, chain };
    let parts = BTreeMap::from([(Sequence(1), part)]);
    let staging = Staging { context_id: "orders".to_owned(), parts };
    let origin = Origin {
        boot: Boot(2),
        low_water: 5,
        low_staging: 2,
        outcomes: BTreeMap::from([(5, Outcome::Staged), (6, Outcome::Refused(Refusal::LoadIncomplete))]),
        staged: BTreeMap::from([(3, staging)]),
    };
    State {
        applied: LogIndex(8),
        last_position: Position(40),
        contexts: 3,
        digest: [9; 32],
        origins: BTreeMap::from([(NodeId(1), origin)]),
    }
}

fn any_index_row() -> impl Strategy<Value = IndexRow> {
    any::<(u64, u64, u64, u64, u64, u32)>().prop_map(|(context, sequence, position, lamport, index, row)| IndexRow {
        context: ContextNo(context),
        sequence: Sequence(sequence),
        position: Position(position),
        lamport: Lamport(lamport),
        index: LogIndex(index),
        row,
    })
}

proptest! {
    #[test]
    fn an_index_row_comes_back(row in any_index_row()) {
        let data = encode_index_row(&row);
        prop_assert_eq!(decode_index_row(row.context, row.sequence, &data), Ok(row));
    }

    #[test]
    fn a_damaged_index_row_is_found(row in any_index_row(), at in any::<Index>(), by in 1u8..) {
        let mut data = encode_index_row(&row);
        let at = at.index(data.len());
        data[at] ^= by;
        let damage = Err(CodecError::Checksum { what: "an index row" });
        prop_assert_eq!(decode_index_row(row.context, row.sequence, &data), damage);
    }

    #[test]
    fn an_index_row_under_another_key_is_found(row in any_index_row(), by in 1u64..) {
        let data = encode_index_row(&row);
        let damage = Err(CodecError::Checksum { what: "an index row" });
        let (context, sequence) = (row.context, row.sequence);
        let other = Sequence(sequence.get() ^ by);
        prop_assert_eq!(decode_index_row(context, other, &data), damage);
        let other = ContextNo(context.get() ^ by);
        prop_assert_eq!(decode_index_row(other, sequence, &data), damage);
    }

    #[test]
    fn garbage_does_no_harm(data in vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_record::<State>(&data).is_err());
        prop_assert!(decode_record::<KeyRow>(&data).is_err());
        prop_assert!(decode_index_row(ContextNo(1), Sequence(1), &data).is_err());
    }

    #[test]
    fn sealed_garbage_does_no_harm(data in vec(any::<u8>(), 0..200)) {
        let mut sealed = vec![1];
        sealed.extend_from_slice(&data);
        sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
        let _ = decode_record::<State>(&sealed);
        let _ = decode_record::<Vec<String>>(&sealed);
    }

    #[test]
    fn a_damaged_record_is_found(at in any::<Index>(), by in 1u8..) {
        let mut data = encode_record(&state());
        let at = at.index(data.len());
        data[at] ^= by;
        let damage = Err(CodecError::Checksum { what: "a record" });
        prop_assert_eq!(decode_record::<State>(&data), damage);
    }
}

#[test]
fn records_come_back() {
    assert_eq!(decode_record::<Head>(&encode_record(&HEAD)), Ok(HEAD));
    assert_eq!(decode_record::<State>(&encode_record(&state())), Ok(state()));
}

#[test]
fn a_record_is_read_whole_or_not_at_all() {
    let whole = encode_record(&HEAD);
    for length in 0..whole.len() {
        assert!(decode_record::<Head>(&whole[..length]).is_err(), "{length} bytes");
    }
    let two = encode_record(&(HEAD, 1_u8));
    assert_eq!(decode_record::<Head>(&two), Err(CodecError::Trailing { what: "a record" }));
    let none = encode_record(&());
    assert_eq!(decode_record::<Head>(&none), Err(CodecError::Malformed { what: "a record" }));
}

#[test]
fn a_record_of_a_newer_program_is_told_from_damage() {
    let mut data = encode_record(&HEAD);
    let body = data.len() - 4;
    data[0] = 2;
    let damage = CodecError::Checksum { what: "a record" };
    assert_eq!(decode_record::<Head>(&data), Err(damage));
    let checksum = crc32c::crc32c(&data[..body]).to_le_bytes();
    data[body..].copy_from_slice(&checksum);
    let newer = CodecError::Version { what: "a record", found: 2, known: 1 };
    assert_eq!(decode_record::<Head>(&data), Err(newer));
}

#[test]
fn a_keyed_record_belongs_to_its_key() {
    let data = encode_keyed(b"orders", &HEAD);
    assert_eq!(decode_keyed(b"orders", &data), Ok(HEAD));
    let damage = Err(CodecError::Checksum { what: "a record" });
    assert_eq!(decode_keyed::<Head>(b"other", &data), damage);
}

#[test]
fn an_index_row_is_small() {
    let row = IndexRow {
        context: ContextNo(70_000),
        sequence: Sequence(1_000_000),
        position: Position(200_000_000),
        lamport: Lamport(1_000_000),
        index: LogIndex(100_000_000),
        row: 100,
    };
    assert!(encode_index_row(&row).len() <= 16);
}

#[test]
fn identifiers_are_lowercase_hex_for_people_and_raw_bytes_on_disk() {
    let text = "00ff10203040506070809000a0b0c0d0";
    let id: EntryId = text.parse().unwrap();
    assert_eq!(id.to_string(), text);
    assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<EntryId>(&format!("\"{text}\"")).unwrap(), id);
    assert_eq!(encode_record(&id).len(), 1 + 16 + 4);
    for bad in ["", "00", &text[1..], &text.to_uppercase(), &format!("{text}0"), &"é".repeat(16)] {
        assert_eq!(bad.parse::<ClusterId>(), Err(ParseIdError), "{bad}");
    }
}

#[test]
fn numbers_print_plainly_and_stop_at_their_end() {
    assert_eq!(Sequence(41).next().to_string(), "42");
    assert_eq!(format!("{:>4}", Sequence(7)), "   7");
    assert_eq!(Sequence(u64::MAX).next(), Sequence(u64::MAX));
    assert_eq!(serde_json::to_string(&Position(7)).unwrap(), "7");
    let attempt = AttemptId { node: NodeId(1), boot: Boot(2), counter: 3 };
    assert_eq!(attempt.to_string(), "1/2/3");
}
