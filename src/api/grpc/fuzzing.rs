//! Requests of strangers, see [`crate::fuzzing`].

mod append_stream;

use std::sync::OnceLock;
use std::time::Instant;

use bytes::Bytes;
use converge_actors::fuzzing::{Input, Seed};
use converge_ledger_core::{Append, Batch, Boot, Command, EntryId, Limits, NodeId};
use prost::Message;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

use super::metadata::{Arrived, consistency, expected_sequence, idempotency_key, time_left};
use super::pb::{admin, context, ledger};
use super::reflection::{Index, v1, v1alpha};
use super::status::from_error;
use super::transaction_fits::transaction_fits;
use super::whole::PREFIX_BYTES;
use super::{Settings, convert, names};
use crate::{Config, Error};

pub(crate) use self::append_stream::append_stream;

const HEADERS: [&str; 4] = [names::IDEMPOTENCY_KEY, names::EXPECTED_SEQUENCE, names::CONSISTENCY, "grpc-timeout"];
/// What the batch of one command may take beside a payload: names, metadata and the batch's own.
const BATCH_OVERHEAD_BYTES: usize = 128 << 10;

/// A request: its headers, and a message of one of the port's methods.
pub(crate) fn request(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let method = input.below(11);
    let headers = headers(&mut input);
    let body = Bytes::copy_from_slice(input.rest());
    match method {
        0 => decoded(body).is_some_and(|message| refusal(append(&headers, message))),
        1 => decoded(body).is_some_and(|message: context::GetRequest| {
            let named = convert::context_id(&message.context_id).and_then(|()| convert::key_filter(message.key));
            refusal(named.and_then(|_| beside(&headers)))
        }),
        2 => decoded(body)
            .is_some_and(|message: context::SnapshotRequest| refusal(convert::context_id(&message.context_id))),
        3 => decoded(body).is_some_and(|message: context::LoadRequest| {
            _ = converge_ledger_core::snapshot::decode(&message.snapshot, 1 << 20);
            refusal(convert::context_id(&message.context_id))
        }),
        4 => decoded(body).is_some_and(|message: context::WatchRequest| {
            let (from, key) = (message.from_sequence, message.key.clone());
            refusal(convert::watch_options(message).map(|options| {
                assert_eq!((options.from.get(), options.key.unwrap_or_default()), (from, key));
            }))
        }),
        5 => decoded::<admin::StatusRequest>(body).is_some(),
        6 => decoded::<admin::TreeRequest>(body).is_some(),
        7 => decoded::<tonic_health::pb::HealthCheckRequest>(body).is_some(),
        8 => decoded(body).is_some_and(|asked| v1::answer(index(), asked).message_response.is_some()),
        10 => transaction(body),
        _ => decoded(body).is_some_and(|asked| v1alpha::answer(index(), asked).message_response.is_some()),
    }
}

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| Index::new().expect("the descriptors of this build"))
}

fn headers(input: &mut Input<'_>) -> MetadataMap {
    let mut headers = MetadataMap::new();
    for _ in 0..input.below(4) {
        let name = HEADERS[input.below(HEADERS.len())];
        let length = input.below(64);
        if let Ok(value) = AsciiMetadataValue::try_from(input.slice(length)) {
            headers.append(name, value);
        }
    }
    headers
}

/// A message, read back from what it is written as.
fn decoded<M: Message + Default + PartialEq + std::fmt::Debug>(body: Bytes) -> Option<M> {
    let message = M::decode(body).ok()?;
    let again = M::decode(Bytes::from(message.encode_to_vec())).expect("a message of ours can be read");
    assert_eq!(message, again, "a message reads back as another");
    Some(message)
}

/// What goes beside any request.
fn beside(headers: &MetadataMap) -> Result<(), Status> {
    consistency(headers)?;
    let settings = Settings::from(&Config::default());
    let left = time_left(headers, Some(Arrived(Instant::now())), &settings)?;
    assert!(left <= settings.deadline_max, "a call gets {left:?}");
    Ok(())
}

/// All that an append passes through up to its batch.
fn append(headers: &MetadataMap, message: context::AppendRequest) -> Result<(), Status> {
    convert::context_id(&message.context_id)?;
    let (idempotency_key, expected_sequence) = (idempotency_key(headers)?, expected_sequence(headers)?);
    beside(headers)?;
    let limits = Limits { payload_bytes: 256, ..Limits::default() };
    let entry = convert::new_entry(message);
    let checked = limits.check(&entry);
    let checked = checked.and_then(|()| limits.check_idempotency_key(idempotency_key.as_deref().unwrap_or_default()));
    checked.map_err(|error| from_error(&Error::InvalidArgument(error.to_string())))?;
    assert!(!entry.context_id.is_empty() && entry.payload.len() <= limits.payload_bytes);
    let append = Append {
        counter: 1,
        id: EntryId([7; 16]),
        appended_at_ns: 1,
        idempotency_key,
        expected_sequence,
        fence_epoch: None,
        received_lamport: None,
        follows: false,
        entry,
    };
    let batch = Batch {
        origin: NodeId(1),
        boot: Boot(1),
        low_water: 1,
        low_staging: 1,
        commands: vec![Command::Append(append)],
    };
    let bytes = batch.encode();
    assert!(bytes.len() <= limits.payload_bytes + BATCH_OVERHEAD_BYTES, "an entry within its limits outgrows a batch");
    assert_eq!(Batch::decode(&bytes), Ok(batch), "what was let in cannot be read back");
    Ok(())
}

/// All that a transaction passes through up to the ledger.
fn transaction(body: Bytes) -> bool {
    let fits = transaction_fits(&[&[0; PREFIX_BYTES], &body[..]].concat());
    if fits.is_err() {
        return refusal(fits);
    }
    decoded(body).is_some_and(|message: ledger::AppendBatchRequest| {
        let (transaction, limits) = (convert::transaction(message), Limits::default());
        let (entries, conditions) = (transaction.entries.len(), &transaction.conditions);
        let counts = [entries <= limits.transaction_entries, conditions.len() <= limits.transaction_conditions];
        assert_eq!(counts, [true; 2], "more is decoded than a transaction may have");
        let checked = limits.check_transaction(conditions, entries, 0);
        refusal(checked.map_err(|error| from_error(&Error::InvalidArgument(error.to_string()))))
    })
}

/// Whether the request was taken. A refusal says that nothing was written, and is the client's to mend.
fn refusal(result: Result<(), Status>) -> bool {
    let Err(status) = result else { return true };
    assert!(matches!(status.code(), Code::InvalidArgument | Code::DeadlineExceeded), "{status:?}");
    assert_eq!(status.metadata().get(names::OUTCOME).map(AsciiMetadataValue::as_bytes), Some(&b"refused"[..]));
    assert!(!status.message().is_empty());
    false
}

/// A sound request for every method.
pub(crate) fn seeds() -> Vec<Seed> {
    let context_id = || "context".to_owned();
    let metadata = [("name".to_owned(), "value".to_owned())].into();
    let append =
        context::AppendRequest { context_id: context_id(), key: "key".into(), payload: "payload".into(), metadata };
    let batch = ledger::AppendBatchRequest {
        entries: vec![ledger::NewEntry { context_id: context_id(), ..ledger::NewEntry::default() }; 2],
        conditions: vec![ledger::Condition { context_id: context_id(), sequence: Some(3), fence_epoch: Some(1) }],
        idempotency_key: "once".to_owned(),
    };
    let get = context::GetRequest { context_id: context_id(), key: "key".into(), after_sequence: 3, limit: 100 };
    let entries = converge_ledger_core::snapshot::encode("context", &[], 1);
    let load = context::LoadRequest { context_id: context_id(), snapshot: entries.into(), fail_if_exists: true };
    let watch = context::WatchRequest { context_id: context_id(), key: String::new(), from_sequence: 7 };
    let snapshot = context::SnapshotRequest { context_id: context_id() };
    let health = tonic_health::pb::HealthCheckRequest { service: super::CONTEXT_SERVICE.into() };
    let symbol = "converge.context.v1.Entry.payload".to_owned();
    let first = {
        use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};
        let asked = Some(MessageRequest::FileContainingSymbol(symbol));
        ServerReflectionRequest { host: "host".into(), message_request: asked }
    };
    let second = {
        use tonic_reflection::pb::v1alpha::{ServerReflectionRequest, server_reflection_request::MessageRequest};
        let asked = Some(MessageRequest::ListServices(String::new()));
        ServerReflectionRequest { host: "host".into(), message_request: asked }
    };
    let headers = b"\x03\x00\x04once\x01\x0242\x03\x025S";
    let fresh = b"\x01\x02\x05stale";
    let seed = |name: &str, method: u8, headers: &[u8], message: Vec<u8>| {
        Seed::new("grpc", name, &[&[method], headers, &message])
    };
    let mut seeds = vec![
        seed("append", 0, &[0], append.encode_to_vec()),
        seed("append_headers", 0, headers, append.encode_to_vec()),
        seed("append_without_a_name", 0, &[0], Vec::new()),
        seed("get", 1, fresh, get.encode_to_vec()),
        seed("snapshot", 2, &[0], snapshot.encode_to_vec()),
        seed("load", 3, &[0], load.encode_to_vec()),
        seed("watch", 4, &[0], watch.encode_to_vec()),
        seed("status", 5, &[0], admin::StatusRequest {}.encode_to_vec()),
        seed("tree", 6, &[0], admin::TreeRequest {}.encode_to_vec()),
        seed("health", 7, &[0], health.encode_to_vec()),
        seed("reflection_v1", 8, &[0], first.encode_to_vec()),
        seed("reflection_v1alpha", 9, &[0], second.encode_to_vec()),
        seed("transaction", 10, &[0], batch.encode_to_vec()),
    ];
    seeds.extend(append_stream::seeds());
    seeds
}
