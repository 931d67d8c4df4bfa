//! Snapshots: strangers' blobs, and our own after damage.

use std::collections::BTreeMap;

use bytes::Bytes;
use converge_ledger_core::checksum::crc32c;
use converge_ledger_core::snapshot::{VERSION, chain, decode, encode, root};
use converge_ledger_core::{Entry, EntryId, Lamport, Position, Sequence};

use super::Input;

/// What a blob may take unpacked. Small, so that one that takes more is soon found.
const LIMIT_BYTES: usize = 1 << 20;
const CONTEXT: &str = "context";

/// A blob: as it is, with a right header in front of a stranger's zstd frame, with right header and frame around a
/// stranger's entries, or one of ours with a byte changed.
pub fn snapshot(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    match input.below(4) {
        0 => stranger(input.rest()),
        1 => {
            let (count, content_bytes) = (input.number(), input.number());
            stranger(&sealed(count, content_bytes, input.rest()))
        }
        2 => {
            let count = input.number();
            let content = input.rest();
            stranger(&sealed(count, content.len() as u64, &stored(content)))
        }
        _ => damaged(&mut input),
    }
}

fn stranger(blob: &[u8]) -> bool {
    let Ok(decoded) = decode(blob, LIMIT_BYTES) else { return false };
    let entries: Vec<Entry> = decoded.entries(&decoded.context_id, 0..decoded.count()).collect();
    assert!((1..).zip(&entries).all(|(n, entry)| entry.sequence.get() == n), "a gap in a sound snapshot");
    assert_eq!(chain(&entries).len(), entries.len());
    let again = encode(&decoded.context_id, &entries, decoded.created_at_ns);
    assert_eq!(decode(&again, LIMIT_BYTES).as_ref(), Ok(&decoded), "a snapshot reads back as another");
    true
}

fn damaged(input: &mut Input<'_>) -> bool {
    let (at, to) = (usize::from(input.byte()) << 8 | usize::from(input.byte()), input.byte());
    let entries: Vec<Entry> = (1..).take(input.below(32)).map(|n| entry(n, input)).collect();
    let created_at_ns = input.number();
    let mut blob = encode(CONTEXT, &entries, created_at_ns);
    let sound = decode(&blob, LIMIT_BYTES).expect("what was just packed");
    assert!(sound.entries(CONTEXT, 0..sound.count()).eq(entries), "a snapshot unpacks as another");
    assert_eq!(sound.created_at_ns, created_at_ns);
    let at = at % blob.len();
    blob[at] ^= to;
    match decode(&blob, LIMIT_BYTES) {
        // Not every bit of a zstd frame means something.
        Ok(decoded) => assert_eq!(decoded, sound, "damage at {at} goes unnoticed"),
        Err(_) => assert!(to != 0, "an undamaged snapshot is refused"),
    }
    true
}

fn entry(n: u64, input: &mut Input<'_>) -> Entry {
    let length = input.below(32);
    Entry {
        context_id: CONTEXT.to_owned(),
        key: "key".to_owned(),
        payload: Bytes::copy_from_slice(input.slice(length)),
        metadata: (0..input.below(3)).map(|n| (n.to_string(), "value".to_owned())).collect::<BTreeMap<_, _>>(),
        id: EntryId(u128::from(n).to_be_bytes()),
        sequence: Sequence(n),
        position: Position(0),
        appended_at_ns: input.number(),
        lamport: Lamport(input.number()),
    }
}

/// A header with its checksum, and this frame behind it. Its root is that of no entries.
fn sealed(count: u64, content_bytes: u64, frame: &[u8]) -> Vec<u8> {
    let mut out = b"CVLEDSNP".to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    let header = (CONTEXT, 7u64, count, content_bytes, root(&[]));
    out.extend(postcard::to_stdvec(&header).expect("a header has a postcard form"));
    let checksum = crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(frame);
    out
}

/// A zstd frame (RFC 8878, section 3.1.1) that holds this content as it is.
fn stored(content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    out.extend_from_slice(&u32::try_from(content.len()).expect("a fuzzer's input is small").to_le_bytes());
    let blocks = content.len().div_ceil(BLOCK).max(1);
    for n in 0..blocks {
        let block = &content[n * BLOCK..content.len().min((n + 1) * BLOCK)];
        let last = u32::from(n + 1 == blocks);
        let head = last | u32::try_from(block.len()).expect("a block is small") << 3;
        out.extend_from_slice(&head.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
}
