//! Streams of appends beside their sockets.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Poller, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::super::append_stream::{AppendStream, Ends};
use super::super::body::RequestBody;
use super::super::call::CallKind;
use super::super::connection::Connection;
use super::super::encode;
use super::super::pb::ledger::AppendStreamRequest;
use super::super::windows::Windows;
use super::{PATIENCE, call, node};

const ENTRY: &str = "root/ledger/entry";

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
