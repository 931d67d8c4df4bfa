//! Requests as they come: what is charged for them, and when they are decoded.

use std::pin::Pin;
use std::task::{Context as Poller, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::{Code, Status};

use super::super::body::{MESSAGE_TIME, RequestBody};
use super::super::budget::Budget;
use super::super::call::CallKind;
use super::super::connection::{self, Connection};
use super::super::crowd::Rule;
use super::super::transport::{Received, message_bytes_max};
use super::super::{Settings, names};
use super::{PATIENCE, call, is_over, node, settings};

/// A request that comes byte by byte: messages of so many bytes, one after the other, without an end, or one and its end.
struct Drip {
    message_bytes: u32,
    at: usize,
    ends: bool,
    /// Nothing comes for a while before each byte.
    pauses: bool,
    paused: bool,
}

impl Drip {
    fn new(message_bytes: u32, pauses: bool) -> Drip {
        Drip { message_bytes, at: 0, ends: false, pauses, paused: false }
    }

    fn one(message_bytes: u32) -> Drip {
        Drip { ends: true, ..Drip::new(message_bytes, false) }
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
        if self.ends && self.at == 5 + self.message_bytes as usize {
            return Poll::Ready(None);
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
        _ => panic!("neither a piece nor an error"),
    };
    // What is announced is neither charged nor given to the decoder: only what came is there.
    let budget = Budget::new("a test", 10 << 10, Rule::Still, &node.ledger());
    let append = || call(CallKind::Append, &Connection::new(false));
    let of = |drip| RequestBody::new(drip, Some(budget.clone()), LIMIT, append());
    let mut body = of(Drip::new(1 << 20, false));
    assert_eq!(next(&mut body).unwrap_err().code(), Code::ResourceExhausted, "all of the budget came, and no message");
    drop(body);
    assert!(budget.hold(10 << 10).is_some());
    let mut body = of(Drip::one(9_000));
    let mut came = 0;
    while came < 9_005 {
        came += next(&mut body).unwrap().len();
    }
    assert!(came == 9_005 && budget.hold(2 << 10).is_none(), "charged until it is decoded");
    drop(body);
    let mut body = RequestBody::new(Drip::new(101, false), Some(budget.clone()), 100, append());
    assert_eq!(next(&mut body).unwrap_err().code(), Code::ResourceExhausted, "longer than a message may be");
    drop(body);
    let mut body = of(Drip::new(100, false));
    assert_eq!(next(&mut body).unwrap_err().code(), Code::InvalidArgument, "one message, and no part of a second");
    drop(body);
    assert!(budget.hold(10 << 10).is_some());
    // A conversation has no end, and no message is kept.
    let mut body = RequestBody::new(Drip::new(1, false), None, LIMIT, call(CallKind::Other, &Connection::new(false)));
    assert!((0..100_000).all(|_| next(&mut body).is_ok()));
    node.stop(PATIENCE).await.unwrap();
}

/// Bytes that come bit by bit are no reason to stay: only a message that is whole, once, or much of one.
#[tokio::test]
async fn a_request_that_drips_does_not_keep_its_connection() {
    let (node, _directory) = node().await;
    let budget = Budget::new("a test", 1 << 20, Rule::Still, &node.ledger());
    let open = connection::Open::default();
    let of = |message_bytes: u32| {
        let connection = Connection::new(false);
        let call = call(CallKind::Append, &connection);
        let body = RequestBody::new(Drip::new(message_bytes, true), Some(budget.clone()), 1 << 20, call);
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
async fn a_request_that_makes_room_for_others_is_told_so() {
    let (node, _directory) = node().await;
    let budget = Budget::new("a test", 1 << 20, Rule::Still, &node.ledger());
    let call = call(CallKind::Append, &Connection::new(false));
    let mut body = RequestBody::new(Drip::new(100, true), Some(budget), 1 << 20, call.clone());
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

/// A whole message, and an end that comes when it is let.
struct OpenBody {
    message: Option<Bytes>,
    ends: bool,
}

impl Body for OpenBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.message.take() {
            Some(message) => Poll::Ready(Some(Ok(Frame::data(message)))),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// A few bytes can unpack to a thousand times as much, which nobody is charged for.
#[tokio::test]
async fn nothing_is_decoded_for_a_client_that_may_still_send() {
    const MESSAGE: &[u8] = &[1, 0, 0, 0, 2, 7, 7];
    for kind in [
        CallKind::Append,
        CallKind::Load,
        CallKind::Read,
        CallKind::Watch,
        CallKind::Health,
        CallKind::Admin,
        CallKind::HealthWatch,
    ] {
        let call = call(kind, &Connection::new(false));
        let open = OpenBody { message: Some(Bytes::from_static(MESSAGE)), ends: false };
        let mut body = RequestBody::new(open, None, 1 << 10, call.clone());
        let mut poll = Poller::from_waker(Waker::noop());
        let mut next = |body: &mut RequestBody<OpenBody>| Pin::new(body).poll_frame(&mut poll);
        assert!(next(&mut body).is_pending() && !body.is_end_stream(), "{kind:?}");
        assert!(call.waits_ms().is_some(), "{kind:?}: its client is waited for");
        body.inner.ends = true;
        let Poll::Ready(Some(Ok(piece))) = next(&mut body) else { panic!("{kind:?}: no message") };
        assert_eq!(piece.into_data().unwrap(), MESSAGE);
        assert!(matches!(next(&mut body), Poll::Ready(None)));
    }
}

/// Its bytes may come one by one, and the node may let it wait: what counts is how long the node waits for it.
#[tokio::test(start_paused = true)]
async fn a_message_of_a_conversation_has_its_time_and_no_more() {
    const BYTES: u32 = 105;
    let stream = || call(CallKind::AppendStream, &Connection::new(false));
    let mut poll = Poller::from_waker(Waker::noop());
    let mut dripping = RequestBody::new(Drip::new(BYTES - 5, true), None, 1 << 10, stream());
    for (pause, whole) in [(MESSAGE_TIME / (BYTES + 10), true), (MESSAGE_TIME / (BYTES / 2), false)] {
        let begun = tokio::time::Instant::now();
        let came = loop {
            match Pin::new(&mut dripping).poll_frame(&mut poll) {
                Poll::Pending => tokio::time::advance(pause).await,
                Poll::Ready(came) => break came.expect("it has no end"),
            }
        };
        let Err(error) = came else {
            assert!(whole, "{pause:?} for each byte is too long");
            continue;
        };
        let status = error.downcast::<Status>().unwrap();
        let in_time = begun.elapsed() <= MESSAGE_TIME + 3 * pause;
        assert!(!whole && in_time && status.code() == Code::DeadlineExceeded, "{status:?} after {:?}", begun.elapsed());
    }
    let begun = [0, 0, 0, 0, 1, 7, 0, 0, 0];
    let open = OpenBody { message: Some(Bytes::copy_from_slice(&begun)), ends: false };
    let mut body = RequestBody::new(open, None, 1 << 10, stream());
    assert!(Pin::new(&mut body).poll_frame(&mut poll).is_ready(), "the first message");
    tokio::time::advance(2 * MESSAGE_TIME).await;
    assert!(Pin::new(&mut body).poll_frame(&mut poll).is_pending(), "nobody waited for the second");
    tokio::time::advance(MESSAGE_TIME).await;
    assert!(Pin::new(&mut body).poll_frame(&mut poll).is_ready());
}

/// Half a dozen of loads that come slowly are no reason to refuse an append, nor a check of health.
#[tokio::test]
async fn requests_of_one_kind_take_no_room_from_others() {
    let (node, _directory) = node().await;
    let settings = Settings { request_bytes: 64 << 20, snapshot_bytes: 8 << 20, ..settings() };
    let received = Received::new(&settings, &node.ledger());
    let kinds = [CallKind::Load, CallKind::Append, CallKind::Read];
    for full in kinds {
        let budget = received.of(full).unwrap();
        let all: Vec<_> = std::iter::from_fn(|| budget.hold(1 << 20)).collect();
        assert!(all.len() < 64, "one kind has no more than there is");
        for other in kinds.into_iter().filter(|kind| *kind != full) {
            let bytes = message_bytes_max(other, &settings);
            assert!(received.of(other).unwrap().hold(bytes).is_some(), "{other:?} beside {full:?}");
        }
        assert!(received.of(CallKind::Snapshot).is_some() && received.of(CallKind::Watch).is_some());
    }
    // The least that the settings may be.
    let settings = Settings { request_bytes: settings.snapshot_bytes + (128 << 10), ..settings };
    let received = Received::new(&settings, &node.ledger());
    for kind in kinds {
        // With the head that each has.
        assert!(received.of(kind).unwrap().hold(message_bytes_max(kind, &settings) + 5).is_some(), "{kind:?}");
    }
    node.stop(PATIENCE).await.unwrap();
}
