//! What goes over the wire beside messages, and what errors look like there.

use std::pin::Pin;
use std::task::{Context as Poller, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use converge_ledger_core::Sequence;
use http_body::{Body, Frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

use super::body::{Fed, RequestBody, ResponseBody, Source};
use super::budget::{Budget, STEP_BYTES};
use super::call::{Call, Kind};
use super::connection::{Connection, Metered, Open};
use super::context::Context;
use super::metadata::*;
use super::pb::context::GetRequest;
use super::pb::context::context_service_server::ContextService as _;
use super::places::Pool;
use super::status::{from_error, overloaded};
use super::watch::Feed;
use super::*;
use crate::{Consistency, Error, Rejection, WatchOptions, Written};

fn with(name: &'static str, value: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert(name, MetadataValue::try_from(value).unwrap());
    metadata
}

fn settings() -> Settings {
    Settings::from(&Config::default())
}

#[test]
fn every_error_has_the_contract_s_code_and_outcome() {
    let cases = [
        (Error::PayloadTooLarge { bytes: 2, limit: 1 }, Code::ResourceExhausted),
        (Error::InvalidArgument("a".into()), Code::InvalidArgument),
        (Error::Overloaded { retry_after: Duration::from_millis(70) }, Code::ResourceExhausted),
        (Error::TooManyAttempts { limit: 9, retry_after: Duration::from_millis(70) }, Code::ResourceExhausted),
        (Error::Rejected(Rejection { reason: "a".into() }), Code::InvalidArgument),
        (Error::ExpectedSequence { actual: Sequence(7) }, Code::FailedPrecondition),
        (Error::IdempotencyMismatch { sequence: Sequence(7) }, Code::AlreadyExists),
        (Error::ContextExists { latest: Sequence(7) }, Code::AlreadyExists),
        (Error::LoadDiverges { latest: Sequence(7) }, Code::FailedPrecondition),
        (Error::InvalidSnapshot("a".into()), Code::InvalidArgument),
        (Error::ResponseTooLarge { limit: 1 }, Code::ResourceExhausted),
        (Error::Unavailable { reason: "a".into() }, Code::Unavailable),
        (Error::ReadTimeout, Code::DeadlineExceeded),
        (Error::DataLoss("a".into()), Code::DataLoss),
        (Error::Stopped, Code::Unavailable),
    ];
    for (error, code) in cases {
        let status = from_error(&error);
        assert_eq!(status.code(), code, "{error:?}");
        assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::REFUSED, "{error:?}");
        assert_eq!(status.message(), error.to_string());
    }
    let status = from_error(&Error::LoadUnknown);
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::UNKNOWN);
}

#[test]
fn programs_find_numbers_in_the_trailers() {
    let status = from_error(&Error::ExpectedSequence { actual: Sequence(7) });
    assert_eq!(status.metadata().get(names::ACTUAL_SEQUENCE).unwrap(), "7");
    assert!(status.message().contains('7'));
    let status = from_error(&Error::Overloaded { retry_after: Duration::from_millis(70) });
    assert_eq!(status.metadata().get(names::RETRY_AFTER_MS).unwrap(), "70");
    let status = overloaded("busy", Duration::MAX);
    assert!(status.metadata().get(names::RETRY_AFTER_MS).is_some());
    let too_large = from_error(&Error::PayloadTooLarge { bytes: 2, limit: 1 });
    assert!(too_large.metadata().get(names::RETRY_AFTER_MS).is_none(), "a retry would not help");
}

#[test]
fn idempotency_keys_are_bounded_and_never_empty() {
    const NAME: &str = names::IDEMPOTENCY_KEY;
    assert_eq!(idempotency_key(&MetadataMap::new()).unwrap(), None);
    assert_eq!(idempotency_key(&with(NAME, "a b")).unwrap().unwrap(), "a b");
    let longest = "k".repeat(1024);
    assert_eq!(idempotency_key(&with(NAME, &longest)).unwrap().unwrap(), longest);
    let mut twice = with(NAME, "a");
    twice.append(NAME, MetadataValue::from_static("a"));
    let mut bytes = MetadataMap::new().into_headers();
    bytes.insert(NAME, hyper::header::HeaderValue::from_bytes(b"\xff").unwrap());
    let bytes = MetadataMap::from_headers(bytes);
    for bad in [with(NAME, ""), with(NAME, &"k".repeat(1025)), twice, bytes] {
        let status = idempotency_key(&bad).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(NAME), "{}", status.message());
        assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
    }
}

#[test]
fn expected_sequences_are_numbers() {
    const NAME: &str = names::EXPECTED_SEQUENCE;
    assert_eq!(expected_sequence(&MetadataMap::new()).unwrap(), None);
    for (text, number) in [("0", 0), ("7", 7), ("18446744073709551615", u64::MAX)] {
        assert_eq!(expected_sequence(&with(NAME, text)).unwrap(), Some(Sequence(number)));
    }
    for bad in ["", "-1", "+1", "1.0", "0x1", "18446744073709551616", "seven", " 7"] {
        let status = expected_sequence(&with(NAME, bad)).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}");
        assert!(status.message().contains(NAME));
    }
}

#[test]
fn consistency_has_three_names() {
    const NAME: &str = names::CONSISTENCY;
    assert_eq!(consistency(&MetadataMap::new()).unwrap(), Consistency::Linearizable);
    assert_eq!(consistency(&with(NAME, "linearizable")).unwrap(), Consistency::Linearizable);
    assert_eq!(consistency(&with(NAME, "lease")).unwrap(), Consistency::Lease);
    assert_eq!(consistency(&with(NAME, "stale")).unwrap(), Consistency::Stale);
    for bad in ["", "Stale", "eventual"] {
        assert!(consistency(&with(NAME, bad)).unwrap_err().message().contains(NAME), "{bad}");
    }
}

#[test]
fn grpc_timeouts_are_parsed_as_the_protocol_says() {
    for (text, time) in [
        ("1H", Duration::from_secs(3600)),
        ("2M", Duration::from_secs(120)),
        ("3S", Duration::from_secs(3)),
        ("4m", Duration::from_millis(4)),
        ("5u", Duration::from_micros(5)),
        ("6n", Duration::from_nanos(6)),
        ("99999999H", Duration::from_secs(99_999_999 * 3600)),
    ] {
        assert_eq!(grpc_timeout(text), Some(time), "{text}");
    }
    for bad in ["", "1", "S", "-1S", "123456789S", "1X", "1 S", "1SS", "1é"] {
        assert_eq!(grpc_timeout(bad), None, "{bad}");
    }
}

#[test]
fn the_ledger_gets_a_little_less_than_the_client() {
    let settings = settings();
    let left = |value: &str| time_left(&with("grpc-timeout", value), None, &settings);
    let ten = left("10S").unwrap();
    assert!(ten < Duration::from_secs(10) && ten >= Duration::from_millis(9_800), "{ten:?}");
    let short = left("20m").unwrap();
    assert!(short < Duration::from_millis(20) && short >= Duration::from_millis(18), "{short:?}");
    assert!(left("99999999H").unwrap() < settings.deadline_max);
    let none = time_left(&MetadataMap::new(), None, &settings).unwrap();
    assert!(none <= settings.deadline_default && none > settings.deadline_default / 2);
    for expired in ["0n", "1n", "1m"] {
        let status = left(expired).unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{expired}");
        assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
    }
    assert_eq!(left("soon").unwrap_err().code(), Code::InvalidArgument);
    let long_ago = Instant::now().checked_sub(Duration::from_secs(11)).unwrap();
    let spent = time_left(&with("grpc-timeout", "10S"), Some(Arrived(long_ago)), &settings);
    assert_eq!(spent.unwrap_err().code(), Code::DeadlineExceeded, "the body took all the time");
}

#[test]
fn contexts_have_names_of_bounded_length() {
    assert!(convert::context_id("a").is_ok());
    assert!(convert::context_id(&"a".repeat(1024)).is_ok());
    for bad in [String::new(), "a".repeat(1025)] {
        let status = convert::context_id(&bad).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("context_id"));
    }
}

#[test]
fn errors_from_in_front_of_the_handlers_are_marked() {
    let headers = |code: &'static str| {
        let mut headers = hyper::HeaderMap::new();
        headers.insert("grpc-status", hyper::header::HeaderValue::from_static(code));
        headers
    };
    let mut too_large = headers("11");
    transport::mark_outcome(&mut too_large, Written::Nothing);
    assert_eq!(too_large["grpc-status"], "8", "tonic's out of range is the contract's exhausted");
    assert_eq!(too_large[names::OUTCOME], names::REFUSED);
    let mut undecodable = headers("13");
    transport::mark_outcome(&mut undecodable, Written::Nothing);
    assert_eq!(undecodable["grpc-status"], "3", "bytes that are no message are the client's mistake");
    assert_eq!(undecodable[names::OUTCOME], names::REFUSED);
    let mut unimplemented = headers("12");
    transport::mark_outcome(&mut unimplemented, Written::Nothing);
    assert_eq!(unimplemented["grpc-status"], "12");
    assert_eq!(unimplemented[names::OUTCOME], names::REFUSED);
    let mut unknown = headers("4");
    unknown.insert(names::OUTCOME, hyper::header::HeaderValue::from_static(names::UNKNOWN));
    transport::mark_outcome(&mut unknown, Written::Nothing);
    assert_eq!(unknown[names::OUTCOME], names::UNKNOWN, "the handler's word stands");
    let begun = Begun::default();
    assert_eq!(begun.written(), Written::Nothing);
    let extensions = {
        let mut extensions = tonic::Extensions::default();
        extensions.insert(begun.clone());
        extensions
    };
    Begun::set(&extensions);
    let mut torn_off = headers("4");
    transport::mark_outcome(&mut torn_off, begun.written());
    assert_eq!(torn_off[names::OUTCOME], names::UNKNOWN, "the ledger has it, and nobody knows more");
    let mut ok = hyper::HeaderMap::new();
    transport::mark_outcome(&mut ok, Written::Nothing);
    assert!(ok.is_empty());
}

/// A node without a client port, for what is called beside it.
async fn node() -> (crate::Node, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.data_dir = directory.path().join("data");
    config.listen.grpc = "off".into();
    (crate::Node::start(config).await.unwrap(), directory)
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_budget_is_waited_for_in_line_and_by_nobody_who_holds_some() {
    let (node, _directory) = node().await;
    let budget = Budget::new("a test", 10 << 10, &node.ledger());
    let mut held = budget.hold(6 << 10).unwrap();
    assert!(budget.hold(5 << 10).is_none(), "a refusal takes nothing");
    assert!(held.grow_to(&budget, 10 << 10) && !held.grow_to(&budget, (10 << 10) + 1));
    held.shrink(6 << 10);
    assert!(budget.hold(4 << 10).is_some() && budget.hold(5 << 10).is_none(), "what is not needed is given back");
    let (mut whole, mut part) = (Box::pin(budget.wait(usize::MAX)), Box::pin(budget.wait(1)));
    let mut poll = Poller::from_waker(Waker::noop());
    assert!(whole.as_mut().poll(&mut poll).is_pending() && budget.is_contended());
    assert!(part.as_mut().poll(&mut poll).is_pending(), "who came first is first, also for more");
    assert!(!held.grow_to(&budget, 7 << 10), "and before those who hold some");
    drop(held);
    drop(tokio::time::timeout(PATIENCE, whole).await.unwrap());
    drop(tokio::time::timeout(PATIENCE, part).await.unwrap());
    assert!(!budget.is_contended());
    assert!(node.ledger().status().alarms.iter().any(|alarm| alarm.contains("a test")), "a refusal is an alarm");
    node.stop(PATIENCE).await.unwrap();
}

/// Keys and metadata take room as payloads do: here the answer has nothing else.
#[tokio::test]
async fn what_is_being_sent_is_bounded_whatever_it_is_made_of() {
    let (node, _directory) = node().await;
    let metadata: std::collections::BTreeMap<_, _> = [("name".to_owned(), "v".repeat(60 << 10))].into();
    for _ in 0..16 {
        let metadata = metadata.clone();
        let entry = crate::NewEntry { context_id: "c".into(), metadata, ..crate::NewEntry::default() };
        node.ledger().append(entry, crate::AppendOptions::default()).await.unwrap();
    }
    // Two thirds are for reads: room for the most that one can need, and for some answers of 960 KiB.
    let settings = Settings { response_bytes: 4 << 20, answer_bytes: 30 << 20, ..settings() };
    let service = Context::new(node.ledger(), settings, Default::default());
    let get = || {
        let mut request = Request::new(GetRequest { context_id: "c".into(), ..GetRequest::default() });
        request.metadata_mut().insert("grpc-timeout", MetadataValue::from_static("1S"));
        service.get(request)
    };
    let mut sent = Vec::new();
    let refused = loop {
        match get().await {
            Ok(answer) => sent.push(answer),
            Err(status) => break status,
        }
        assert!(sent.len() <= 20, "nothing bounds what is being sent");
    };
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert_eq!(refused.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
    assert!(sent.len() > 8, "{} answers", sent.len());
    sent.truncate(8);
    assert!(get().await.is_ok(), "what was sent makes room");
    node.stop(PATIENCE).await.unwrap();
}

fn call(kind: Kind, connection: &std::sync::Arc<Connection>) -> std::sync::Arc<Call> {
    Call::new(kind, &hyper::HeaderMap::new(), connection, &settings(), &Default::default())
}

/// A request that comes byte by byte: messages of so many bytes, one after the other, without an end.
struct Drip {
    message_bytes: u32,
    at: usize,
    /// Nothing comes for a while before each byte.
    pauses: bool,
    paused: bool,
}

impl Drip {
    fn new(message_bytes: u32, pauses: bool) -> Drip {
        Drip { message_bytes, at: 0, pauses, paused: false }
    }
}

impl Body for Drip {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.paused = self.pauses && !self.paused;
        if self.paused {
            return Poll::Pending;
        }
        let [a, b, c, d] = self.message_bytes.to_be_bytes();
        let byte = [0, a, b, c, d].get(self.at % (5 + self.message_bytes as usize)).copied().unwrap_or(7);
        self.at += 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&[byte])))))
    }
}

#[tokio::test]
async fn a_request_is_charged_for_its_bytes_however_they_come() {
    const LIMIT: usize = 1 << 20;
    let (node, _directory) = node().await;
    let mut poll = Poller::from_waker(Waker::noop());
    let mut next = |body: &mut RequestBody<Drip>| match Pin::new(body).poll_frame(&mut poll) {
        Poll::Ready(Some(Ok(frame))) => Ok(frame.into_data().unwrap()),
        Poll::Ready(Some(Err(error))) => Err(*error.downcast::<Status>().unwrap()),
        _ => panic!("a drip has no end"),
    };
    // What is announced is neither charged nor given to the decoder: only what came is there.
    let budget = Budget::new("a test", 10 << 10, &node.ledger());
    let drip = Drip::new(1 << 20, false);
    let append = || call(Kind::Append, &Connection::new(false));
    let mut body = RequestBody::new(drip, budget.clone(), LIMIT, append());
    assert_eq!(next(&mut body).unwrap_err().code(), Code::ResourceExhausted, "all of the budget came, and no message");
    drop(body);
    assert!(budget.hold(10 << 10).is_some());
    let drip = Drip::new(9_000, false);
    let mut body = RequestBody::new(drip, budget.clone(), LIMIT, append());
    let pieces: Vec<Bytes> = std::iter::from_fn(|| next(&mut body).ok()).collect();
    assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), 9_005, "one message, and no part of the second");
    drop(body);
    let mut body = RequestBody::new(Drip::new(101, false), budget.clone(), 100, append());
    assert_eq!(next(&mut body).unwrap_err().code(), Code::ResourceExhausted, "longer than a message may be");
    drop(body);
    // A conversation has no end: it is charged for one question.
    let budget = Budget::new("a test", 64 << 10, &node.ledger());
    let drip = Drip::new(1, false);
    let mut body = RequestBody::new(drip, budget.clone(), LIMIT, call(Kind::Other, &Connection::new(false)));
    assert!((0..100_000).all(|_| next(&mut body).is_ok()));
    assert!(budget.hold(1).is_none(), "and for all of that");
    node.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_connection_whose_calls_only_watch_health_or_may_ask_goes_for_others() {
    let open = Open::default();
    let with = |kind: Option<Kind>| {
        let connection = Connection::new(false);
        let call = kind.map(|kind| call(kind, &connection));
        (open.list(connection.clone()), connection, call)
    };
    let go = [None, Some(Kind::HealthWatch), Some(Kind::Other)].map(with);
    let stay = [Kind::Append, Kind::Read, Kind::Watch, Kind::Admin, Kind::Health].map(|kind| with(Some(kind)));
    for call in [&stay[2].2, &go[1].2, &go[2].2].into_iter().flatten() {
        // The answer so far was read.
        call.piece_waits();
        call.piece_taken();
    }
    let gone = async {
        while !go.iter().all(|(_, connection, _)| connection.leave.is_cancelled()) {
            open.evict();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    open.evict();
    assert!(!stay.iter().any(|(_, connection, _)| connection.leave.is_cancelled()));
}

#[tokio::test]
async fn the_time_of_a_call_counts_from_its_first_byte() {
    const SLOW: Duration = Duration::from_millis(50);
    const HEADERS: &[u8] = b"\x00\x00\x02\x01\x04\x00\x00\x00\x01\x83\x86";
    let connection = Connection::new(false);
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let mut server = Metered::new(server, connection.clone());
    let mut came = [0; 64];
    for part in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &HEADERS[..4], &HEADERS[4..]] {
        client.write_all(part).await.unwrap();
        assert_eq!(server.read(&mut came).await.unwrap(), part.len());
        tokio::time::sleep(SLOW).await;
    }
    let now = tokio::time::Instant::now();
    let (slow, next) = (call(Kind::Append, &connection), call(Kind::Append, &connection));
    let after = tokio::time::Instant::now();
    assert!(slow.arrived + SLOW <= after && slow.arrived + settings().deadline_default == slow.request_until);
    assert!(next.arrived >= now, "the next call is not late for it");
}

/// Bytes that come bit by bit are no reason to stay: only a message that is whole, once, or much of one.
#[tokio::test]
async fn a_request_that_drips_does_not_keep_its_connection() {
    let (node, _directory) = node().await;
    let budget = Budget::new("a test", 1 << 20, &node.ledger());
    let open = Open::default();
    let of = |message_bytes: u32| {
        let connection = Connection::new(false);
        let call = call(Kind::Append, &connection);
        let body = RequestBody::new(Drip::new(message_bytes, true), budget.clone(), 1 << 20, call);
        (open.list(connection.clone()), connection, body)
    };
    let mut drips = [of(1 << 20), of(0)];
    let mut poll = Poller::from_waker(Waker::noop());
    let gone = async {
        while !drips.iter().all(|(_, connection, _)| connection.leave.is_cancelled()) {
            for (_, _, body) in &mut drips {
                let _ = Pin::new(body).poll_frame(&mut poll);
            }
            open.evict();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    node.stop(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn calls_that_wait_for_their_clients_go_when_others_want_their_places() {
    let (pool, connection) = (Pool::new(3), Connection::new(false));
    let [works, waits, is_unread, next] = [Kind::Append; 4].map(|kind| call(kind, &connection));
    let _places = [&works, &waits, &is_unread].map(|call| pool.take(call).unwrap());
    waits.set_at_work(false);
    is_unread.piece_waits();
    let crowd = async {
        loop {
            assert!(pool.take(&next).is_none() && pool.count() == 3, "their places are free when they are gone");
            // Others on the same connection keep none of them.
            connection.moved();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = crowd => {}
        both = tokio::time::timeout(PATIENCE, async { tokio::join!(waits.over(), is_unread.over()) }) => drop(both.unwrap()),
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), works.over()).await.is_err());
}

/// Whether a call has to be over now.
async fn is_over(call: &Call) -> bool {
    tokio::time::timeout(Duration::ZERO, call.over()).await.is_ok()
}

/// What the node makes its client wait for is no fault of the client: it is waited for only from when there is something.
#[tokio::test(start_paused = true)]
async fn a_client_is_waited_for_from_when_there_is_something_to_take() {
    let (pool, open) = (Pool::new(2), Open::default());
    let with = |kind| {
        let connection = Connection::new(false);
        let call = call(kind, &connection);
        (pool.take(&call).unwrap(), open.list(connection.clone()), connection, call)
    };
    // The watch is quiet for an hour; then comes the read, whose answer is not read.
    let (_place, _listed, watching, watch) = with(Kind::Watch);
    tokio::time::advance(Duration::from_secs(3600)).await;
    let (_place, _listed, reading, read) = with(Kind::Read);
    read.piece_waits();
    tokio::time::advance(Duration::from_secs(5)).await;
    // An entry comes.
    watch.piece_waits();
    pool.crowd_out();
    open.evict();
    assert!(is_over(&read).await && !is_over(&watch).await);
    assert!(reading.leave.is_cancelled() && !watching.leave.is_cancelled());
    tokio::time::advance(Duration::from_secs(5)).await;
    pool.crowd_out();
    open.evict();
    assert!(is_over(&watch).await && watching.leave.is_cancelled(), "it does not read");
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_of_health_goes_when_others_want_its_place_the_oldest_first() {
    let (pool, connection) = (Pool::new(2), Connection::new(false));
    let [old, young, next] = [Kind::HealthWatch; 3].map(|kind| call(kind, &connection));
    let places = [&old, &young].map(|call| pool.take(call).unwrap());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(pool.take(&next).is_none());
    assert!(is_over(&old).await && !is_over(&young).await);
    drop(places);
    assert!(pool.take(&next).is_some());
}

/// An answer of which nothing more comes.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Pending
    }
}

#[test]
fn a_watch_of_health_that_makes_room_for_others_is_told_so() {
    let call = call(Kind::HealthWatch, &Connection::new(false));
    let mut body = ResponseBody::new(Source::Tonic(tonic::body::Body::new(Never)), call.clone(), None, None);
    let mut poll = Poller::from_waker(Waker::noop());
    assert!(Pin::new(&mut body).poll_frame(&mut poll).is_pending() && !body.is_end_stream());
    call.crowd_out();
    let Poll::Ready(Some(Ok(end))) = Pin::new(&mut body).poll_frame(&mut poll) else { panic!("no end") };
    let trailers = end.into_trailers().ok().expect("nothing but an end");
    assert_eq!(trailers["grpc-status"], "8");
    assert!(trailers.contains_key(names::RETRY_AFTER_MS) && body.is_end_stream());
}

/// While a node is stopped, by a signal or with its machine, what its clients send waits in its sockets.
#[tokio::test(start_paused = true)]
async fn a_pause_of_the_node_is_not_held_against_its_clients() {
    const PAUSE: Duration = Duration::from_secs(3600);
    const RUN: Duration = Duration::from_secs(60);
    const SAID: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x06";
    let connection = Connection::new(false);
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let mut server = Metered::new(server, connection.clone());
    let mut come = async |bytes: &'static [u8]| {
        client.write_all(bytes).await.unwrap();
        assert_eq!(server.read(&mut [0; 64]).await.unwrap(), bytes.len());
    };
    let mut outstays = std::pin::pin!(connection.outstays());
    let mut goes = async |after| tokio::time::timeout(after, outstays.as_mut()).await.ok();
    // Before the preface, then within a frame, then before an answer is in the socket.
    assert_eq!(goes(Duration::from_secs(3)).await, None);
    tokio::time::advance(PAUSE).await;
    assert_eq!(goes(Duration::ZERO).await, None);
    come(SAID).await;
    assert_eq!(goes(Duration::from_secs(3)).await, None);
    tokio::time::advance(PAUSE).await;
    assert_eq!(goes(Duration::ZERO).await, None);
    come(&[0; 13]).await;
    assert_eq!(goes(RUN).await, None);
    let turn = connection.unread();
    for _ in 0..3 {
        tokio::time::advance(PAUSE).await;
        assert_eq!(goes(Duration::ZERO).await, None);
    }
    connection.read(turn);
    assert_eq!(goes(RUN).await, None);
    come(&SAID[24..30]).await;
    assert!(goes(RUN).await.is_some_and(|why| why.contains("a frame")), "while it runs, time counts");
}

#[tokio::test]
async fn a_request_that_makes_room_for_others_is_told_so() {
    let (node, _directory) = node().await;
    let budget = Budget::new("a test", 1 << 20, &node.ledger());
    let call = call(Kind::Append, &Connection::new(false));
    let mut body = RequestBody::new(Drip::new(100, true), budget, 1 << 20, call.clone());
    let mut poll = Poller::from_waker(Waker::noop());
    assert!(Pin::new(&mut body).poll_frame(&mut poll).is_pending());
    call.crowd_out();
    let Poll::Ready(Some(Err(error))) = Pin::new(&mut body).poll_frame(&mut poll) else { panic!("no answer") };
    let status = error.downcast::<Status>().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
    assert!(status.metadata().get(names::RETRY_AFTER_MS).is_some());
    // What was still to come has come meanwhile.
    call.set_at_work(true);
    assert!(!is_over(&call).await);
    call.set_at_work(false);
    assert!(!is_over(&call).await, "it moved, and is looked at anew");
    node.stop(PATIENCE).await.unwrap();
}

/// Else unread answers would take all the room, and the reads that wait for it all the connections.
#[tokio::test]
async fn a_read_that_waits_for_room_keeps_no_place_from_others() {
    let (node, _directory) = node().await;
    let entry = crate::NewEntry { context_id: "c".into(), payload: vec![7; 4 << 20].into(), ..Default::default() };
    node.ledger().append(entry, crate::AppendOptions::default()).await.unwrap();
    // Room for two answers that are not taken, and not for the reading of a third.
    let settings = Settings { answer_bytes: 1, response_bytes: 1, ..settings() };
    let context = Context::new(node.ledger(), settings, Default::default());
    let get = |call: &std::sync::Arc<Call>| {
        let mut request = Request::new(GetRequest { context_id: "c".into(), ..Default::default() });
        request.extensions_mut().insert(call.clone());
        context.get(request)
    };
    let [served, more, waits] = [Kind::Read; 3].map(|kind| call(kind, &Connection::new(false)));
    let unread = [get(&served).await.unwrap(), get(&more).await.unwrap()];
    let mut waiting = get(&waits);
    let is_waiting = async {
        while waits.waits_ms().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut waiting => panic!("it counted as the node's work until it ended, or there was room for it"),
        () = is_waiting => {}
        () = tokio::time::sleep(PATIENCE) => panic!("it counts as the node's work"),
    }
    drop(unread);
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(waits.waits_ms(), None, "there is something to do for it");
    node.stop(PATIENCE).await.unwrap();
}

#[test]
fn a_connection_takes_one_place_for_all_its_watches() {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let (one, other) = (Connection::new(false), Connection::new(false));
    let (first, second) = (one.watch(&places), one.watch(&places));
    assert!(first.is_some() && second.is_some());
    assert!(other.watch(&places).is_none());
    drop(first);
    assert!(other.watch(&places).is_none(), "it still has one");
    drop(second);
    assert!(other.watch(&places).is_some());
}

/// A piece of a watch, and what says that it was taken.
async fn piece(fed: &mut mpsc::Receiver<Fed>) -> (Bytes, oneshot::Sender<()>) {
    match tokio::time::timeout(PATIENCE, fed.recv()).await.unwrap() {
        Some(Fed::Bytes(bytes, taken)) => (bytes, taken),
        _ => panic!("the watch ended"),
    }
}

#[tokio::test]
async fn a_watch_that_is_read_slowly_is_not_read_for_anew_with_each_piece() {
    let (node, _directory) = node().await;
    let entry = crate::NewEntry { context_id: "c".into(), payload: vec![7; 1 << 20].into(), ..Default::default() };
    node.ledger().append(entry, crate::AppendOptions::default()).await.unwrap();
    let budget = Budget::new("a test", STEP_BYTES, &node.ledger());
    let watch = node.ledger().watch("c", WatchOptions::default());
    let feed = Feed::new(watch, Sequence(0), budget.clone(), Default::default(), None);
    let (sender, mut fed) = mpsc::channel(1);
    let feed = tokio::spawn(feed.run(sender));
    let all_the_room = || tokio::time::timeout(PATIENCE, budget.wait(usize::MAX));
    let (first, taken) = piece(&mut fed).await;
    drop(all_the_room().await.expect("nobody reads on, and others get the room"));
    let start = Instant::now();
    drop(taken);
    let (second, taken) = piece(&mut fed).await;
    assert!(first.len() == second.len() && first.len() < 1 << 16, "{}, {}", first.len(), second.len());
    drop(all_the_room().await.expect("nobody reads on, and others get the room again"));
    assert!(start.elapsed() >= Duration::from_millis(900), "but not so soon: {:?}", start.elapsed());
    drop(taken);
    feed.abort();
    node.stop(PATIENCE).await.unwrap();
}
