//! Answers that are large, encoded as they are read: the entries of a step are gone before the next step is read.

use bytes::{BufMut as _, Bytes, BytesMut};
use converge_ledger_core::Entry;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::pb::context::{GetResponse, SnapshotResponse};
use super::{convert, pb};

/// `WatchEvent.entry`, and `GetResponse.entries`.
const ENTRY: u32 = 1;
/// `SnapshotResponse.snapshot`.
const SNAPSHOT: u32 = 1;
/// gRPC's head of a message: not compressed, and its length.
const HEAD_BYTES: usize = 5;

/// The head of a message of so many bytes.
fn head(message_bytes: usize) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let length = u32::try_from(message_bytes).unwrap_or(u32::MAX);
    head[1..].copy_from_slice(&length.to_be_bytes());
    head
}

fn field_bytes(tag: u32, bytes: usize) -> usize {
    key_len(tag) + encoded_len_varint(bytes as u64) + bytes
}

fn put_entry(out: &mut BytesMut, entry: &pb::context::Entry) {
    encode_key(ENTRY, WireType::LengthDelimited, out);
    encode_varint(entry.encoded_len() as u64, out);
    entry.encode_raw(out);
}

/// An event of a watch, with its head: always the same bytes for the same entry.
pub(super) fn event(entry: Entry) -> Bytes {
    let entry = convert::entry(entry);
    let message = field_bytes(ENTRY, entry.encoded_len());
    let mut out = BytesMut::with_capacity(HEAD_BYTES + message);
    out.put_slice(&head(message));
    put_entry(&mut out, &entry);
    out.freeze()
}

/// A message of a stream, with its head.
pub(super) fn message(answer: &impl Message) -> Bytes {
    let message = answer.encoded_len();
    let mut out = BytesMut::with_capacity(HEAD_BYTES + message);
    out.put_slice(&head(message));
    answer.encode_raw(&mut out);
    out.freeze()
}

/// A part of the answer to a read.
pub(super) fn entries(step: Vec<Entry>) -> Bytes {
    let step: Vec<_> = step.into_iter().map(convert::entry).collect();
    let bytes = step.iter().map(|entry| field_bytes(ENTRY, entry.encoded_len())).sum();
    let mut out = BytesMut::with_capacity(bytes);
    step.iter().for_each(|entry| put_entry(&mut out, entry));
    out.freeze()
}

/// The answer to a read, from its parts.
pub(super) fn read(parts: Vec<Bytes>, latest_sequence: u64) -> Vec<Bytes> {
    let last = GetResponse { entries: Vec::new(), latest_sequence }.encode_to_vec();
    let message = parts.iter().map(Bytes::len).sum::<usize>() + last.len();
    // What is small goes together.
    let mut first = BytesMut::from(&head(message)[..]);
    let mut all = Vec::with_capacity(parts.len() + 2);
    match <[Bytes; 1]>::try_from(parts) {
        Ok([part]) if part.len() <= SMALL_BYTES => first.extend_from_slice(&part),
        Ok([part]) => all.push(part),
        Err(parts) => all.extend(parts),
    }
    if all.is_empty() {
        first.extend_from_slice(&last);
        return vec![first.freeze()];
    }
    all.insert(0, first.freeze());
    all.push(last.into());
    all
}

/// A read's answer up to this size is copied into one piece with its head.
const SMALL_BYTES: usize = 16 << 10;

/// The answer to a snapshot, without a copy of its blob.
pub(super) fn snapshot(mut answer: SnapshotResponse) -> Vec<Bytes> {
    let blob = std::mem::take(&mut answer.snapshot);
    let rest = answer.encode_to_vec();
    let message = field_bytes(SNAPSHOT, blob.len()) + rest.len();
    let mut first = BytesMut::from(&head(message)[..]);
    encode_key(SNAPSHOT, WireType::LengthDelimited, &mut first);
    encode_varint(blob.len() as u64, &mut first);
    vec![first.freeze(), blob, rest.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::grpc::pb::context::{SnapshotMetadata, WatchEvent};

    fn entry(n: u64, payload: usize) -> Entry {
        Entry {
            context_id: "c".into(),
            key: "k".into(),
            payload: vec![7; payload].into(),
            metadata: [("name".to_owned(), "value".to_owned())].into(),
            id: converge_ledger_core::EntryId([1; 16]),
            sequence: converge_ledger_core::Sequence(n),
            position: converge_ledger_core::Position(n),
            appended_at_ns: 5,
            lamport: converge_ledger_core::Lamport(n),
        }
    }

    fn framed(message: &impl prost::Message) -> Vec<u8> {
        [&head(message.encoded_len())[..], &message.encode_to_vec()].concat()
    }

    #[test]
    fn what_is_encoded_by_hand_is_what_the_library_encodes() {
        for payload in [0, 1, 200, 70_000] {
            let event = WatchEvent { entry: Some(convert::entry(entry(3, payload))) };
            assert_eq!(super::event(entry(3, payload)), framed(&event));
            for steps in [vec![], vec![vec![]], vec![vec![1]], vec![vec![1, 2], vec![3]], vec![vec![], vec![4]]] {
                let entries: Vec<_> = steps.iter().flatten().map(|n| convert::entry(entry(*n, payload))).collect();
                let whole = GetResponse { entries, latest_sequence: 9 };
                let parts = steps.iter().map(|step| super::entries(step.iter().map(|n| entry(*n, payload)).collect()));
                assert_eq!(read(parts.collect(), 9).concat(), framed(&whole));
            }
            let metadata = Some(SnapshotMetadata { created_at_ns: 1, entry_count: 2, version: 3 });
            let copy = SnapshotResponse { snapshot: vec![1; payload].into(), sequence: 7, metadata };
            if payload > 0 {
                assert_eq!(snapshot(copy.clone()).concat(), framed(&copy));
            }
        }
    }
}
