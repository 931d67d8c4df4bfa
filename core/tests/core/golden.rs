//! Formats and hashes, written down: what is on the disks of yesterday must be read tomorrow, and
//! nodes of two versions must agree on every hash. A change here is a new format version.

use std::collections::BTreeMap;
use std::fmt::Write;

use converge_ledger_core::codec::encode_keyed;
use converge_ledger_core::testing::Memory;
use converge_ledger_core::{
    Append, Batch, Boot, Command, Condition, ContextNo, FenceEpoch, Head, Lamport, Load, NodeId, RaiseFence, Sequence,
    Transact, TransactEntry, snapshot,
};

use crate::sample::{append, history, stage};

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn batch() -> Batch {
    let mut full = Append {
        idempotency_key: Some("once".to_owned()),
        expected_sequence: Some(Sequence(1)),
        received_lamport: Some(Lamport(300)),
        ..append(8, "a", "y")
    };
    full.entry.metadata = BTreeMap::from([("m".to_owned(), "n".to_owned())]);
    let load = Load {
        counter: 10,
        stage: 10,
        context_id: "b".to_owned(),
        base: Sequence(0),
        base_chain: [0; 32],
        count: 1,
        fail_if_exists: true,
    };
    Batch {
        origin: NodeId(3),
        boot: Boot(2),
        low_water: 7,
        low_staging: 9,
        commands: vec![
            Command::Append(append(7, "a", "x")),
            Command::Append(full),
            Command::Stage(stage(11, 10, &history("b", 1), 0)),
            Command::Load(load),
        ],
    }
}

#[test]
fn a_batch() {
    assert_eq!(
        hex(batch().encode()),
        "020302070904212300070000000000000000000000000000000707002a36fe9c9717016105666163\
747378feb0a6b921300f080000000000000000000000000000000808002a36fe9c9717046f6e6365\
01ac02016105666163747301016d016e7910dc3cd622750b0a016201000000000000000000000000\
000000000000000000000000000000000000000035b748d008c9593e3ccbe804114fcb02f0b9275d\
d24547a9f62472ce8794bc3b010802000000000000000000000000000003e90100a0d88557341605\
6b6579203101016e0131097061796c6f616420310b402f1f23270a0a016200000000000000000000\
0000000000000000000000000000000000000000000000010159a50c91"
    );
}

#[test]
fn a_group() {
    let follows = |counter: u64| Command::Append(Append { follows: counter > 1, ..append(counter, "a", "x") });
    let group =
        Batch { origin: NodeId(3), boot: Boot(2), low_water: 1, low_staging: 1, commands: [1, 2].map(follows).into() };
    assert_eq!(
        hex(group.encode()),
        "020302010102212300010000000000000000000000000000000101002a36fe9c971701610566616374737808\
153815212310020000000000000000000000000000000202002a36fe9c971701610566616374737826dc8e83"
    );
}

fn units() -> Batch {
    let part = |n: u64, received: Option<u64>| {
        let Append { id, appended_at_ns, entry, .. } = append(n, "a", "x");
        TransactEntry { id, appended_at_ns, received_lamport: received.map(Lamport), entry }
    };
    let condition = |sequence: Option<u64>, epoch: Option<u64>| Condition {
        context_id: "a".to_owned(),
        sequence: sequence.map(Sequence),
        fence_epoch: epoch.map(FenceEpoch),
    };
    let transact = Transact {
        counter: 2,
        idempotency_key: Some("once".to_owned()),
        conditions: vec![condition(Some(0), None), condition(None, Some(300))],
        entries: vec![part(1, None), part(2, Some(300))],
    };
    let fence = |counter, epoch: Option<u64>| {
        Command::Fence(RaiseFence { counter, context_id: "a".to_owned(), epoch: epoch.map(FenceEpoch) })
    };
    let fenced = Append { fence_epoch: Some(FenceEpoch(301)), ..append(4, "a", "x") };
    Batch {
        origin: NodeId(3),
        boot: Boot(2),
        low_water: 1,
        low_staging: 1,
        commands: vec![fence(1, Some(300)), Command::Transact(transact), fence(3, None), Command::Append(fenced)],
    }
}

#[test]
fn a_transaction_and_fences() {
    assert_eq!(
        hex(units().encode()),
        "020302010106260620010161ac02e86369a324120102046f6e63650202016100200161ac02027fd1\
35b92522000000000000000000000000000000000101002a36fe9c971701610566616374737819fe\
ea472524040000000000000000000000000000000202002a36fe9c9717ac02016105666163747378\
1d298c0526040003016100f259a6212520040000000000000000000000000000000404002a36fe9c\
9717ad020161056661637473781eca805e"
    );
    let mut memory = Memory::new();
    let effects = memory.apply(Some(units()));
    let found =
        [hex(memory.state.digest), hex(encode_keyed(b"", &effects.outcomes)), hex(memory.rows.heads["a"].encode("a"))];
    let due = [
        "8fc78c04267ad7b7d74a0d7393fdd3b660189d665f68d673d22b0afed8b92044",
        "01040501ac020000040102000501ad02020200010303ae02000361e91c",
        "010103ae0227a9da3a2f3f21a4ea8932d3def204c095471a7af3310f00b86be0d0d34cbecdad02d4a72a86",
    ];
    assert_eq!(found, due);
}

#[test]
fn records() {
    let head = Head {
        number: ContextNo(3),
        latest: Sequence(9),
        lamport: Lamport(12),
        chain: [7; 32],
        fence_epoch: FenceEpoch(0),
    };
    assert_eq!(
        hex(encode_keyed(b"", &head)),
        "0103090c07070707070707070707070707070707070707070707070707070707070707070d6728c7"
    );
}

#[test]
fn hashes() {
    let entries = history("orders", 3);
    assert_eq!(hex(entries[0].content_hash()), "9ad7692cdefaf6fc1ee14a82261aa7dca8e28ab062e902854f1bdbeaa7854299");
    assert_eq!(hex(snapshot::chain(&entries)[2]), "a48c69f916beeb86bb0a1e5d37088cdecb9afbf9b917d1a93f093ca5ee37d235");
    assert_eq!(hex(snapshot::root(&entries)), "c3c5fb99aabfb270f957fa3573a3f4cadcbd37fb264b405a028c3309b6ceb93f");
}

#[test]
fn a_state() {
    let mut memory = Memory::new();
    memory.apply(None);
    memory.apply(Some(batch()));
    assert_eq!(hex(memory.state.digest), "c24506d299e6373ccab3a298346ad2d111457fe4db61b86b79bc4fce68d910b6");
    assert_eq!(
        hex(encode_keyed(b"", &memory.state)),
        "010180808040020302c24506d299e6373ccab3a298346ad2d111457fe4db61b86b79bc4fce68d910\
b6010302070903070001010101000800010202ad02000a02020101008cbf8d72"
    );
}

/// The compressed part may change with the compressor; that it is read is what counts.
#[test]
fn a_snapshot() {
    let blob: Vec<u8> = BLOB
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let decoded = snapshot::decode(&blob, 10_000).unwrap();
    assert!(decoded.entries("orders", 0..decoded.count()).eq(history("orders", 2)));
}

const BLOB: &str = "43564c4544534e5001000000066f72646572738080a8b1e39fe7cb17025e26ae860d3310f18fd5fb\
2b3a84e16cf00476cf62702c60a35b0316cf2d1ba26ce53f185128b52ffd205ee50100b402010003\
e90100a0d88557341602056b6579203101016e0131097061796c6f61642031020003ea0204323232\
0600a004c481cba4ca9cc0410ed006";
