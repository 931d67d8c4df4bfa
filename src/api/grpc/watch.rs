//! A subscription as a gRPC stream.
//!
//! Holds one entry at a time: the next one is asked for only when the
//! connection has taken the last, so a slow client costs no memory here.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};
use tonic::{Code, Status};

use super::convert;
use super::pb::context::WatchEvent;
use super::status::{from_error, refused};
use crate::Watch;

/// What one step of a subscription gave, and the subscription where it goes on.
type Step = (Option<Source>, Option<Result<WatchEvent, Status>>);

/// The subscription and what ends it.
struct Source {
    watch: Watch,
    drain: CancellationToken,
    deadline: Option<Instant>,
}

/// See the module.
pub(super) struct WatchStream {
    step: ReusableBoxFuture<'static, Step>,
    ended: bool,
}

impl WatchStream {
    /// Serves `watch` until the client leaves, the deadline it gave passes, or
    /// the node drains.
    pub(super) fn new(watch: Watch, drain: CancellationToken, timeout: Option<Duration>) -> Self {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let source = Source { watch, drain, deadline };
        WatchStream { step: ReusableBoxFuture::new(source.step()), ended: false }
    }
}

impl Source {
    async fn step(mut self) -> Step {
        let event = tokio::select! {
            biased;
            () = self.drain.cancelled() => Some(Err(stopping())),
            () = until(self.deadline) => Some(Err(refused(
                Code::DeadlineExceeded,
                "the deadline passed: watch again from the last sequence that arrived",
            ))),
            event = self.watch.next() => event.map(|event| match event {
                Ok(entry) => Ok(WatchEvent { entry: Some(convert::entry(entry)) }),
                Err(error) => Err(from_error(&error)),
            }),
        };
        match event {
            Some(Ok(event)) => (Some(self), Some(Ok(event))),
            Some(Err(status)) => (None, Some(Err(status))),
            None => (None, Some(Err(stopping()))),
        }
    }
}

fn stopping() -> Status {
    refused(Code::Unavailable, "the node is stopping: watch from the last sequence that arrived, on another node")
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchEvent, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let (source, event) = ready!(this.step.poll(cx));
        match source {
            Some(source) => this.step.set(source.step()),
            None => this.ended = true,
        }
        Poll::Ready(event)
    }
}
