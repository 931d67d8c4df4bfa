//! Bodies that count: what is being received and sent stays within budgets.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use super::status::overloaded;
use super::transport::Places;

/// When to come back after a shed request.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// A number of bytes that may be held at once. It sheds: waiting for room with
/// half a request in hand could wait for ever.
#[derive(Clone)]
pub(super) struct Budget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        let used = Arc::default();
        Budget { used, bytes_max }
    }

    /// Room for `bytes`, until the guard and its clones are dropped.
    pub(super) fn hold(&self, bytes: usize) -> Option<Held> {
        let mut share = Share::new(self.clone());
        share.grow(bytes).then(|| Held(Arc::new(share)))
    }
}

/// Room in a budget. Clones share it, as a response's extensions must be.
#[derive(Clone)]
pub(super) struct Held(#[allow(dead_code, reason = "held for its drop")] Arc<Share>);

/// What one holder uses of a budget.
struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    fn new(budget: Budget) -> Self {
        Share { budget, bytes: 0 }
    }

    /// Takes more; false where there is no room.
    fn grow(&mut self, bytes: usize) -> bool {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.bytes_max {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A request's body; what arrived of it counts until it was decoded.
pub(super) struct RequestBody<B> {
    inner: B,
    share: Share,
}

impl<B> RequestBody<B> {
    pub(super) fn new(inner: B, budget: Budget) -> Self {
        let share = Share::new(budget);
        RequestBody { inner, share }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if this.share.grow(bytes) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let message = "the node is receiving as many bytes as it may: try again";
        let status = overloaded(message, RETRY_AFTER);
        Poll::Ready(Some(Err(status.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body; its call counts as open until it was sent.
pub(super) struct ResponseBody {
    inner: tonic::body::Body,
    _call: Option<Places>,
    _held: Option<Held>,
}

impl ResponseBody {
    pub(super) fn new(inner: tonic::body::Body, call: Option<Places>, held: Option<Held>) -> Self {
        ResponseBody { inner, _call: call, _held: held }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.get_mut().inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
