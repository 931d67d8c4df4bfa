//! Sockets of every sort that keeps a place and gives nothing for it.

use converge_ledger::api::grpc::pb::ledger::AppendStreamRequest;
use converge_ledger::api::grpc::pb::ledger::ledger_service_client::LedgerServiceClient;
use prost::Message as _;
use tonic::Status;
use tonic::transport::Channel;

use super::raw;
use super::{APPEND, GET, HEALTH_WATCH, REFLECTION, STREAM, WATCH, get, watch};

/// What a socket says before it falls silent.
pub(super) fn silent() -> Vec<(&'static str, Vec<u8>)> {
    let unread = |window| [raw::hello(window), raw::call(1, GET, &get("large"))].concat();
    vec![
        ("silent", Vec::new()),
        ("one byte", b"P".to_vec()),
        ("half a preface", raw::PREFACE[..12].to_vec()),
        ("preface only", raw::PREFACE.to_vec()),
        ("preface and settings", raw::hello(65_535)),
        ("headers without a body", [raw::hello(65_535), raw::headers(1, APPEND)].concat()),
        ("an answer that is not read", unread(65_535)),
        ("an answer whose window is one byte", unread(1)),
        ("a small answer whose window is one byte", [raw::hello(1), raw::call(1, GET, &get("none"))].concat()),
        ("a watch that is not read", [raw::hello(0), raw::call(1, WATCH, &watch("large"))].concat()),
        ("a watch that waits", [raw::hello(65_535), raw::call(1, WATCH, &watch("none"))].concat()),
        // Of these, nothing but the want of others ends any.
        ("a watch of health", [raw::hello(65_535), raw::call(1, HEALTH_WATCH, &())].concat()),
        ("reflection that is asked nothing", [raw::hello(65_535), raw::headers(1, REFLECTION)].concat()),
        ("a stream of appends that is silent", [raw::hello(65_535), raw::headers(1, STREAM)].concat()),
        ("a stream of appends that is not read", [raw::hello(0), raw::headers(1, STREAM), streamed(50)].concat()),
        ("TLS client hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("HTTP/1", b"GET / HTTP/1.1\r\nHost: ledger\r\n\r\n".to_vec()),
    ]
}

/// Entries of a stream.
fn streamed(count: usize) -> Vec<u8> {
    let message = AppendStreamRequest { context_id: "streamed".into(), ..Default::default() }.encode_to_vec();
    let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    body.extend(message);
    raw::data(1, &body.repeat(count))
}

/// One entry over a stream of its own.
pub(super) async fn stream_once(channel: &Channel) -> Result<(), Status> {
    let one = AppendStreamRequest { context_id: "c".into(), ..Default::default() };
    let mut client = LedgerServiceClient::new(channel.clone());
    let mut answers = client.append_stream(tokio_stream::iter([one])).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        if answer.acknowledged == 1 {
            return Ok(());
        }
    }
    Err(Status::internal("it was not acknowledged"))
}

/// A name, what a socket says, and what it then says again and again.
pub(super) type Sort = (&'static str, Vec<u8>, Vec<Vec<u8>>);

/// What a socket says, and then says bit by bit without ever falling silent or coming to an end.
pub(super) fn slow() -> Vec<Sort> {
    let with = |more: &[u8]| [&raw::hello(65_535), more].concat();
    // Longer than it may take.
    let preface = raw::PREFACE.iter().flat_map(|byte| [vec![*byte], Vec::new(), Vec::new()]).collect();
    let called = |more: &[u8]| with(&[&raw::headers(1, APPEND), more].concat());
    vec![
        ("a slow preface", Vec::new(), preface),
        ("slow headers", with(&raw::endless_headers(1, APPEND)), vec![b"v".to_vec()]),
        ("a slow frame", called(&raw::data_head(1)), vec![vec![7]]),
        ("a slow body", called(&raw::data(1, &[0, 0, 0, 3, 232])), vec![raw::data(1, &[7])]),
    ]
}

/// Every sort of socket there is.
pub(super) fn sorts() -> Vec<Sort> {
    let pings = ("pings", raw::hello(65_535), vec![raw::ping()]);
    let silent = silent().into_iter().map(|(sort, said)| (sort, said, Vec::new()));
    let slow_stream = [raw::hello(65_535), raw::headers(1, STREAM), raw::data(1, &[0, 0, 0, 3, 232])].concat();
    let slow_stream = ("a slow stream of appends", slow_stream, vec![raw::data(1, &[7])]);
    let unread = [raw::hello(0), raw::headers(1, STREAM)].concat();
    let sending = ("a stream of appends that sends and never reads", unread, vec![streamed(1)]);
    silent.chain(slow()).chain([pings, slow_stream, sending]).collect()
}
