//! Streams of appends beside their sockets.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Poller, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::super::append_stream::{AppendStream, Ends};
use super::super::body::{Fed, RequestBody};
use super::super::call::CallKind;
use super::super::connection::Connection;
use super::super::pb::ledger::AppendStreamRequest;
use super::super::windows::Windows;
use super::super::{encode, names};
use super::{PATIENCE, call, node};

const ENTRY: &str = "root/ledger/entry";
const REPLICATION: &str = "root/ledger/replication";

/// The same message again and again, counted.
struct Endless {
    message: Bytes,
    given: Arc<AtomicUsize>,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.given.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.message.clone()))))
    }
}

/// Some messages, and the end.
struct Few(VecDeque<Bytes>);

impl Few {
    fn of(context: &str, count: usize) -> Few {
        let entry = AppendStreamRequest { context_id: context.to_owned(), ..AppendStreamRequest::default() };
        Few(vec![encode::message(&entry); count].into())
    }
}

impl Body for Few {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|message| Ok(Frame::data(message))))
    }
}

/// Reads the answers of a stream to its end.
async fn end_of(mut answers: mpsc::Receiver<Fed>) -> Status {
    loop {
        match tokio::time::timeout(PATIENCE, answers.recv()).await.unwrap() {
            Some(Fed::Bytes(..)) => {}
            Some(Fed::End(status)) => return status,
            None => panic!("it says nothing of its end"),
        }
    }
}

/// What its client sent to the end may be much. The group that is with the ledger is waited for.
#[tokio::test]
async fn a_stop_is_heard_when_all_of_a_stream_has_come() {
    let (node, _directory) = node().await;
    let ledger = node.ledger();
    let tree = ledger.inner.tree.get().unwrap();
    tree.suspend(REPLICATION).unwrap();
    let (call, drain) = (call(CallKind::AppendStream, &Connection::new(false)), CancellationToken::new());
    let body = RequestBody::new(Few::of("c", 3), None, 1 << 20, call.clone());
    let window = Windows::new(64 << 20).grant(&call);
    let ends = Ends::new(call, drain.clone(), None);
    let (sender, answers) = mpsc::channel(8);
    let mut stream = pin!(AppendStream::new(ledger.clone(), body, ends, window, PATIENCE).run(sender));
    let mut poll = Poller::from_waker(Waker::noop());
    // The first entry goes to the ledger; the others wait behind it, and then there is the end.
    for _ in 0..8 {
        assert!(stream.as_mut().poll(&mut poll).is_pending());
        tokio::task::yield_now().await;
    }
    drain.cancel();
    assert!(stream.as_mut().poll(&mut poll).is_pending(), "its group may be in the ledger");
    tree.resume(REPLICATION).unwrap();
    let ((), status) = tokio::join!(stream, end_of(answers));
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let said = |name| status.metadata().get(name).unwrap().to_str().unwrap();
    assert_eq!((said(names::ACKNOWLEDGED), said(names::STREAM_POSITION)), ("1", "2"));
    let page = ledger.read("c", crate::ReadOptions::default()).await.unwrap();
    assert_eq!(page.entries.len(), 1, "nothing more was appended");
    node.stop(PATIENCE).await.unwrap();
}

/// Pairs of metadata take little of a message, and a lot of memory.
#[tokio::test]
async fn what_waits_is_counted_by_what_it_takes_in_memory() {
    const PAIRS: usize = 64;
    const PAIR_BYTES: usize = 100;
    let (node, _directory) = node().await;
    let ledger = node.ledger();
    ledger.inner.tree.get().unwrap().suspend(ENTRY).unwrap();
    let metadata = (0..PAIRS).map(|number| (number.to_string(), String::new())).collect();
    let request = AppendStreamRequest { context_id: "c".into(), metadata, ..AppendStreamRequest::default() };
    let (message, given) = (encode::message(&request), Arc::new(AtomicUsize::new(0)));
    assert!(message.len() < PAIRS * PAIR_BYTES / 10);
    let call = call(CallKind::AppendStream, &Connection::new(false));
    let body = RequestBody::new(Endless { message, given: given.clone() }, None, 1 << 20, call.clone());
    let window = Windows::new(64 << 20).grant(&call);
    let bytes = window.bytes();
    let ends = Ends::new(call, CancellationToken::new(), None);
    let (sender, _receiver) = mpsc::channel(1);
    let mut stream = pin!(AppendStream::new(ledger.clone(), body, ends, window, PATIENCE).run(sender));
    let (mut poll, mut read) = (Poller::from_waker(Waker::noop()), usize::MAX);
    while std::mem::replace(&mut read, given.load(Ordering::Relaxed)) != read {
        assert!(stream.as_mut().poll(&mut poll).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(read > 2 && (read - 2) * PAIRS * PAIR_BYTES <= bytes, "{read} entries for a window of {bytes} bytes");
    ledger.inner.tree.get().unwrap().resume(ENTRY).unwrap();
    node.stop(PATIENCE).await.unwrap();
}
