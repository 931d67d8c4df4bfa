//! A snapshot comes back whole or not at all.

use bytes::Bytes;
use converge_ledger_core::snapshot::{Decoded, Packer, SnapshotError, VERSION, chain, decode, encode, root};
use converge_ledger_core::{EMPTY_CHAIN, Entry, Sequence};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::sample::{any_append, history};

const LIMIT: usize = 1 << 20;
const CREATED: u64 = 1_700_000_000_000_000_000;

fn unpacked(decoded: &Decoded) -> Vec<Entry> {
    decoded.entries(&decoded.context_id, 0..decoded.count()).collect()
}

fn any_history() -> impl Strategy<Value = Vec<Entry>> {
    vec(any_append(), 0..8).prop_map(|appends| {
        let mut entries = history("orders", appends.len() as u64);
        for (entry, append) in entries.iter_mut().zip(appends) {
            entry.key = append.entry.key;
            entry.payload = append.entry.payload;
            entry.metadata = append.entry.metadata;
            entry.id = append.id;
            entry.appended_at_ns = append.appended_at_ns;
        }
        entries
    })
}

proptest! {
    #[test]
    fn a_snapshot_comes_back(entries in any_history(), created in any::<u64>()) {
        let decoded = decode(&encode("orders", &entries, created), LIMIT).unwrap();
        prop_assert_eq!(&decoded.context_id, "orders");
        prop_assert_eq!(decoded.created_at_ns, created);
        prop_assert_eq!(unpacked(&decoded), entries);
    }

    #[test]
    fn a_cut_snapshot_is_truncated(entries in any_history(), at in any::<Index>()) {
        let blob = encode("orders", &entries, CREATED);
        let cut = &blob[..at.index(blob.len())];
        prop_assert_eq!(decode(cut, LIMIT), Err(SnapshotError::Truncated));
    }

    #[test]
    fn bytes_behind_a_snapshot_are_named(entries in any_history(), more in vec(any::<u8>(), 1..9)) {
        let bytes = more.len();
        let blob = [encode("orders", &entries, CREATED), more].concat();
        prop_assert_eq!(decode(&blob, LIMIT), Err(SnapshotError::Trailing { bytes }));
    }

    /// Not every bit of a compressed frame means something; what is returned is right, or nothing.
    #[test]
    fn a_damaged_snapshot_is_right_or_refused(
        entries in any_history(),
        at in any::<Index>(),
        by in 1u8..,
    ) {
        let mut blob = encode("orders", &entries, CREATED);
        let at = at.index(blob.len());
        blob[at] ^= by;
        if let Ok(decoded) = decode(&blob, LIMIT) {
            prop_assert_eq!(unpacked(&decoded), entries);
            prop_assert_eq!(decoded.created_at_ns, CREATED);
        }
    }

    #[test]
    fn garbage_does_no_harm(data in vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&data, LIMIT).is_err());
        let preamble = encode("", &[], 0)[..12].to_vec();
        prop_assert!(decode(&[preamble, data].concat(), LIMIT).is_err());
    }
}

/// A blob with this content, as a forger makes one: all sums right, but for what is tested.
fn forged(count: u64, content: &[u8], content_bytes: u64, root: [u8; 32]) -> Vec<u8> {
    let mut blob = encode("", &[], 0)[..12].to_vec();
    let header = postcard::to_allocvec(&("orders", CREATED, count, content_bytes, root)).unwrap();
    blob.extend_from_slice(&header);
    let checksum = crc32c::crc32c(&blob);
    blob.extend_from_slice(&checksum.to_le_bytes());
    blob.extend_from_slice(&zstd::bulk::compress(content, 3).unwrap());
    blob
}

/// The uncompressed content of these entries, in this order.
fn content(entries: &[Entry]) -> Vec<u8> {
    let one = |entry: &Entry| {
        let time = entry.appended_at_ns.to_le_bytes();
        let head = (entry.sequence, entry.id, time, entry.lamport, &entry.key);
        let tail = (&entry.metadata, entry.payload.len());
        let fields = postcard::to_allocvec(&(head, tail)).unwrap();
        [fields, entry.payload.to_vec()].concat()
    };
    entries.iter().flat_map(one).collect()
}

fn forge(count: u64, entries: &[Entry], root: [u8; 32]) -> Vec<u8> {
    let content = content(entries);
    forged(count, &content, content.len() as u64, root)
}

#[test]
fn the_format_is_as_documented() {
    let entries = history("orders", 5);
    assert_eq!(forge(5, &entries, root(&entries)), encode("orders", &entries, CREATED));
}

#[test]
fn an_empty_context_has_a_snapshot() {
    let decoded = decode(&encode("orders", &[], CREATED), LIMIT).unwrap();
    assert_eq!(decoded.context_id, "orders");
    assert_eq!(unpacked(&decoded), []);
}

#[test]
fn reordered_entries_are_named() {
    let mut entries = history("orders", 4);
    let whole = root(&entries);
    entries.swap(1, 2);
    let order = SnapshotError::Order { expected: Sequence(2), found: Sequence(3) };
    assert_eq!(decode(&forge(4, &entries, whole), LIMIT), Err(order.clone()));
    assert_eq!(decode(&forge(4, &entries, root(&entries)), LIMIT), Err(order));
    let tail = &history("orders", 3)[1..];
    let order = SnapshotError::Order { expected: Sequence(1), found: Sequence(2) };
    assert_eq!(decode(&forge(2, tail, root(tail)), LIMIT), Err(order));
}

#[test]
fn every_field_is_under_the_root() {
    let entries = history("orders", 3);
    let whole = root(&entries);
    let alter: [fn(&mut Entry); 6] = [
        |entry| entry.key.push('!'),
        |entry| entry.payload = Bytes::from_static(b"forged"),
        |entry| drop(entry.metadata.insert("forged".to_owned(), String::new())),
        |entry| entry.id.0[3] ^= 1,
        |entry| entry.appended_at_ns += 1,
        |entry| entry.lamport = entry.lamport.next(),
    ];
    for (n, alter) in alter.into_iter().enumerate() {
        let mut forgery = entries.clone();
        alter(&mut forgery[1]);
        let blob = forge(3, &forgery, whole);
        assert_eq!(decode(&blob, LIMIT), Err(SnapshotError::Root), "alteration {n}");
    }
    let mut renamed = entries.clone();
    renamed.iter_mut().for_each(|entry| entry.context_id = "other".to_owned());
    assert_ne!(root(&renamed), whole);
}

#[test]
fn no_two_lengths_share_a_root() {
    let entries = history("orders", 9);
    let roots: std::collections::BTreeSet<_> = (0..=9).map(|n| root(&entries[..n])).collect();
    assert_eq!(roots.len(), 10);
}

#[test]
fn a_count_that_is_not_so_is_refused() {
    let entries = history("orders", 3);
    for count in [0, 2, 4, 100] {
        let refused = decode(&forge(count, &entries, root(&entries)), LIMIT);
        assert!(matches!(refused, Err(SnapshotError::Malformed(_))), "{count}: {refused:?}");
    }
}

#[test]
fn a_newer_version_and_a_stranger_are_named() {
    let mut blob = encode("orders", &history("orders", 2), CREATED);
    blob[8] = 2;
    let newer = SnapshotError::Version { found: 2, known: VERSION };
    assert_eq!(decode(&blob, LIMIT), Err(newer));
    blob[0] ^= 1;
    assert_eq!(decode(&blob, LIMIT), Err(SnapshotError::Foreign));
    assert_eq!(decode(b"{\"json\": true}", LIMIT), Err(SnapshotError::Foreign));
}

#[test]
fn a_damaged_header_is_named() {
    let mut blob = encode("orders", &history("orders", 2), CREATED);
    blob[14] ^= 1;
    assert_eq!(decode(&blob, LIMIT), Err(SnapshotError::Checksum));
}

#[test]
fn what_does_not_fit_is_refused() {
    let entries = history("orders", 100);
    let blob = encode("orders", &entries, CREATED);
    assert!(decode(&blob, 100_000).is_ok());
    let refused = Err(SnapshotError::TooLarge { limit: 8000 });
    assert_eq!(decode(&blob, 8000), refused);
}

/// The least limit with which this works.
fn least(works: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, LIMIT);
    assert!(works(high));
    while low + 1 < high {
        let middle = low.midpoint(high);
        *if works(middle) { &mut high } else { &mut low } = middle;
    }
    high
}

#[test]
fn what_cannot_be_unpacked_is_not_packed() {
    let packed = |entries: &[Entry], limit| {
        let mut packer = Packer::new("orders", limit);
        entries.iter().all(|entry| packer.push(entry).is_ok())
    };
    for count in [1, 2, 300] {
        let mut entries = history("orders", count);
        entries[0].metadata.extend((0..40).map(|n| (format!("name {n}"), "v".repeat(n))));
        let blob = encode("orders", &entries, CREATED);
        let pack = least(|limit| packed(&entries, limit));
        assert_eq!(pack, least(|limit| decode(&blob, limit).is_ok()), "{count} entries");
        assert!(pack >= content(&entries).len() + entries.len() * 40, "{count} entries are charged {pack} bytes");
    }
}

/// In several pieces, none of which stays.
#[test]
fn a_snapshot_of_many_pieces_comes_back() {
    let mut entries = history("orders", 40);
    let noise = |n: usize| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7];
    entries.iter_mut().for_each(|entry| entry.payload = (0..100_000).map(noise).collect());
    entries[30].payload = vec![7; 3 << 20].into();
    let blob = encode("orders", &entries, CREATED);
    assert_eq!(unpacked(&decode(&blob, 16 << 20).unwrap()), entries);
}

/// It would be hashed for every entry.
#[test]
fn a_name_that_no_context_has_is_refused() {
    let mut blob = encode("", &[], 0)[..12].to_vec();
    let header = postcard::to_allocvec(&("n".repeat(1025), CREATED, 0u64, 0u64, root(&[]))).unwrap();
    blob.extend_from_slice(&header);
    blob.extend_from_slice(&crc32c::crc32c(&blob).to_le_bytes());
    blob.extend_from_slice(&zstd::bulk::compress(&[], 3).unwrap());
    let refused = decode(&blob, LIMIT);
    assert!(matches!(refused, Err(SnapshotError::Malformed(_))), "{refused:?}");
}

#[test]
fn bombs_do_not_go_off() {
    let limit = 100_000;
    let refused = Err(SnapshotError::TooLarge { limit });
    let zeros = vec![0; 64 << 20];
    let honest = forged(1, &zeros, zeros.len() as u64, [0; 32]);
    assert!(honest.len() < 10_000);
    assert_eq!(decode(&honest, limit), refused);
    let lying = forged(1, &zeros, 1000, [0; 32]);
    assert!(matches!(decode(&lying, limit), Err(SnapshotError::Malformed(_))));
    let many = forged(u64::MAX, &[], 0, [0; 32]);
    assert_eq!(decode(&many, limit), refused);

    // One entry with more pairs than its memory allows, of names that take little space.
    let mut entry = history("orders", 1).remove(0);
    entry.metadata = (0..5000).map(|n| (format!("{n:x}"), String::new())).collect();
    assert_eq!(decode(&forge(1, &[entry.clone()], root(&[entry])), limit), refused);
}

#[test]
fn a_window_that_takes_too_much_memory_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &[7; 100]).unwrap();
    let frame = encoder.finish().unwrap();
    let mut blob = forged(1, &[], 100, [0; 32]);
    blob.truncate(blob.len() - zstd::bulk::compress(&[], 3).unwrap().len());
    blob.extend_from_slice(&frame);
    let refused = decode(&blob, LIMIT);
    assert!(matches!(refused, Err(SnapshotError::Compression(_))), "{refused:?}");
}

#[test]
fn a_chain_links_every_entry_to_those_before() {
    let entries = history("orders", 4);
    let whole = chain(&entries);
    assert_eq!(whole.len(), 4);
    assert_eq!(whole[0], entries[0].chain(&EMPTY_CHAIN));
    assert_eq!(chain(&entries[..2]), whole[..2]);
    let mut other = entries.clone();
    other[1].key.push('!');
    let forked = chain(&other);
    assert_eq!(forked[0], whole[0]);
    assert!((1..4).all(|n| forked[n] != whole[n]));
}

#[test]
#[should_panic(expected = "from its start")]
fn a_snapshot_of_a_tail_is_a_mistake() {
    let _ = encode("orders", &history("orders", 3)[1..], CREATED);
}
