//! Identifiers and small records.

use std::collections::BTreeMap;

use converge_ledger_core::codec::{decode_keyed, encode_keyed};
use converge_ledger_core::{
    AttemptId, Boot, ClusterId, CodecError, ContextNo, EntryId, FenceEpoch, Head, KeyRow, Lamport, LogIndex, NodeId,
    Origin, Outcome, ParseIdError, Part, Position, Refusal, Sequence, Staging, State,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// The checksum of a record under it covers the record alone.
const NO_KEY: &[u8] = b"";
const HEAD: Head = Head {
    number: ContextNo(3),
    latest: Sequence(9),
    lamport: Lamport(12),
    chain: [7; 32],
    fence_epoch: FenceEpoch(0),
};

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
        level: 1,
        key_window: 9,
        applied: LogIndex(8),
        last_position: Position(40),
        contexts: 3,
        digest: [9; 32],
        origins: BTreeMap::from([(NodeId(1), origin)]),
    }
}

proptest! {
    #[test]
    fn garbage_does_no_harm(data in vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_keyed::<State>(NO_KEY, &data).is_err());
        prop_assert!(decode_keyed::<KeyRow>(NO_KEY, &data).is_err());
    }

    #[test]
    fn sealed_garbage_does_no_harm(data in vec(any::<u8>(), 0..200)) {
        let mut sealed = vec![1];
        sealed.extend_from_slice(&data);
        sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
        let _ = decode_keyed::<State>(NO_KEY, &sealed);
        let _ = decode_keyed::<Vec<String>>(NO_KEY, &sealed);
    }

    #[test]
    fn a_damaged_record_is_found(at in any::<Index>(), by in 1u8..) {
        let mut data = encode_keyed(NO_KEY, &state());
        let at = at.index(data.len());
        data[at] ^= by;
        let damage = Err(CodecError::Checksum { what: "a record" });
        prop_assert_eq!(decode_keyed::<State>(NO_KEY, &data), damage);
    }
}

#[test]
fn records_come_back() {
    assert_eq!(decode_keyed::<Head>(NO_KEY, &encode_keyed(NO_KEY, &HEAD)), Ok(HEAD));
    assert_eq!(decode_keyed::<State>(NO_KEY, &encode_keyed(NO_KEY, &state())), Ok(state()));
}

#[test]
fn a_head_has_a_fence_epoch_only_where_it_was_fenced() {
    let fenced = Head { fence_epoch: FenceEpoch(300), ..HEAD };
    assert_eq!(
        HEAD.encode("orders"),
        encode_keyed(b"orders", &HEAD),
        "its row is what it was before there were fences"
    );
    for head in [HEAD, fenced] {
        assert_eq!(Head::decode("orders", &head.encode("orders")), Ok(head));
        assert!(Head::decode("other", &head.encode("orders")).is_err());
    }
    let zero = encode_keyed(b"orders", &(HEAD, FenceEpoch(0)));
    assert_eq!(Head::decode("orders", &zero), Err(CodecError::Malformed { what: "a record" }));
    let more = encode_keyed(b"orders", &(HEAD, FenceEpoch(1), 1_u8));
    assert_eq!(Head::decode("orders", &more), Err(CodecError::Trailing { what: "a record" }));
}

#[test]
fn a_record_is_read_whole_or_not_at_all() {
    let whole = encode_keyed(NO_KEY, &HEAD);
    for length in 0..whole.len() {
        assert!(decode_keyed::<Head>(NO_KEY, &whole[..length]).is_err(), "{length} bytes");
    }
    let two = encode_keyed(NO_KEY, &(HEAD, 1_u8));
    assert_eq!(decode_keyed::<Head>(NO_KEY, &two), Err(CodecError::Trailing { what: "a record" }));
    let none = encode_keyed(NO_KEY, &());
    assert_eq!(decode_keyed::<Head>(NO_KEY, &none), Err(CodecError::Malformed { what: "a record" }));
}

#[test]
fn a_record_of_a_newer_program_is_told_from_damage() {
    let mut data = encode_keyed(NO_KEY, &HEAD);
    let body = data.len() - 4;
    data[0] = 2;
    let damage = CodecError::Checksum { what: "a record" };
    assert_eq!(decode_keyed::<Head>(NO_KEY, &data), Err(damage));
    let checksum = crc32c::crc32c(&data[..body]).to_le_bytes();
    data[body..].copy_from_slice(&checksum);
    let newer = CodecError::Version { what: "a record", found: 2, known: 1 };
    assert_eq!(decode_keyed::<Head>(NO_KEY, &data), Err(newer));
}

#[test]
fn a_keyed_record_belongs_to_its_key() {
    let data = encode_keyed(b"orders", &HEAD);
    assert_eq!(decode_keyed(b"orders", &data), Ok(HEAD));
    let damage = Err(CodecError::Checksum { what: "a record" });
    assert_eq!(decode_keyed::<Head>(b"other", &data), damage);
}

#[test]
fn identifiers_are_lowercase_hex_for_people_and_raw_bytes_on_disk() {
    let text = "00ff10203040506070809000a0b0c0d0";
    let id: EntryId = text.parse().unwrap();
    assert_eq!(id.to_string(), text);
    assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<EntryId>(&format!("\"{text}\"")).unwrap(), id);
    assert_eq!(encode_keyed(NO_KEY, &id).len(), 1 + 16 + 4);
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
