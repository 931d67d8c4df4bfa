//! A subscription, or a stream of what is there, as a gRPC stream: reads for a client that reads.
//!
//! A task of its own per watch. It holds nothing while it waits for entries or for room; what it read it hands over in
//! small pieces, the next when the last one was taken. Where a client does not take it and others wait for the room, it
//! lets go of what it read: entries never change, so it reads and encodes the same again later, and goes on in the
//! middle of one. So a watch that nobody reads holds one piece, which its place is charged for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use converge_actors::storage::Ordinal;
use converge_actors::watch::Taken;
use converge_ledger_core::Entry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::body::Fed;
use super::budget::{Budget, Held, PageRoom};
use super::crowd::READ_MS;
use super::pb::ledger::{ReadStreamResponse, WatchAllEvent};
use super::status::{from_error, refused};
use super::{convert, encode, names};
use crate::ledger::size;
use crate::{Error, Stream, Watch};

/// The largest piece: what a watch that nobody reads may hold.
const PIECE_BYTES: usize = 16 << 10;
/// A piece that was not taken for so long: what waits behind it is let go if others want the room.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same for a watch that was read on after it had let go: each time costs a read of a whole page or entry.
const PATIENCE_AGAIN: Duration = Duration::from_secs(1);
/// Longer than this nobody holds room that others want, however slowly it is read.
const HELD_MAX: Duration = Duration::from_millis(READ_MS);

/// What is sent.
pub(super) enum Feeding {
    /// A context, as it grows.
    Context(Watch),
    /// The ledger, as it grows.
    All(Watch),
    /// What is there when it begins.
    Stream(Box<Stream>),
}

impl Feeding {
    async fn page(&mut self, room: &PageRoom) -> Option<Result<Taken<PageRoom>, Error>> {
        match self {
            Feeding::Context(watch) | Feeding::All(watch) => watch.page(room).await,
            Feeding::Stream(stream) => stream.taken(room).await,
        }
    }

    fn rewind(&mut self, last: Ordinal) {
        match self {
            Feeding::Context(watch) | Feeding::All(watch) => watch.rewind(last),
            Feeding::Stream(stream) => stream.rewind(last),
        }
    }

    /// Where an entry is, and the message with it: always the same bytes for the same entry.
    fn message(&self, entry: Entry) -> (Ordinal, Bytes) {
        match self {
            Feeding::Context(_) => (Ordinal(entry.sequence.get()), encode::event(entry)),
            Feeding::All(_) => {
                let at = Ordinal(entry.position.get());
                (at, encode::message(&WatchAllEvent { entry: Some(convert::placed_entry(entry)) }))
            }
            Feeding::Stream(stream) => {
                let at = stream.place_of(&entry);
                let (entries, next) = (vec![convert::placed_entry(entry)], stream.behind(at));
                (at, encode::message(&ReadStreamResponse { entries, next, ..ReadStreamResponse::default() }))
            }
        }
    }

    /// What comes before the first entry.
    fn head(&self) -> Option<Bytes> {
        let Feeding::Stream(stream) = self else { return None };
        let (last, position, term) = (stream.last(), stream.position().get(), stream.term().get());
        let next = stream.first();
        Some(encode::message(&ReadStreamResponse { next, last, position, term, ..ReadStreamResponse::default() }))
    }

    /// What comes after the last, which this one is.
    fn end(&self, last: Ordinal) -> Option<Bytes> {
        let Feeding::Stream(stream) = self else { return None };
        let next = if stream.is_cut() { stream.behind(last) } else { 0 };
        Some(encode::message(&ReadStreamResponse { next, end: true, ..ReadStreamResponse::default() }))
    }

    /// The trailer that says where to go on.
    fn trailer(&self) -> Option<&'static str> {
        match self {
            Feeding::Context(_) => Some(names::LAST_SEQUENCE),
            Feeding::All(_) => Some(names::LAST_POSITION),
            Feeding::Stream(_) => None,
        }
    }
}

/// A subscription or a stream, and what ends it.
pub(super) struct Feed {
    feeding: Feeding,
    room: PageRoom,
    drain: CancellationToken,
    deadline: Option<Instant>,
    page: VecDeque<Entry>,
    /// The entry that is being sent, as the client gets it, and how much of it was.
    current: Option<(Ordinal, Bytes, usize)>,
    /// For the page and for the current entry.
    held: Option<Held>,
    /// Since when.
    since: Instant,
    patience: Duration,
    /// The last entry that the client got all of, or where it began.
    last: Ordinal,
    /// So much of the next entry was sent before it was let go.
    skip: usize,
}

/// A feed in a response's extensions, on its way to whoever runs it.
#[derive(Clone)]
pub(super) struct FeedSlot(Arc<Mutex<Option<Feed>>>);

impl FeedSlot {
    pub(super) fn new(feed: Feed) -> FeedSlot {
        FeedSlot(Arc::new(Mutex::new(Some(feed))))
    }

    pub(super) fn take(&self) -> Option<Feed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Why a feed ends.
enum FeedEnd {
    /// The client left.
    Gone,
    /// All was sent.
    Done,
    Status(Status),
}

impl Feed {
    /// Feeds until the client leaves, the deadline that it gave passes, or the node drains.
    pub(super) fn new(
        feeding: Feeding,
        from: Ordinal,
        budget: Budget,
        drain: CancellationToken,
        timeout: Option<Duration>,
    ) -> Feed {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        Feed {
            feeding,
            room: PageRoom(budget),
            drain,
            deadline,
            page: VecDeque::new(),
            current: None,
            held: None,
            since: Instant::now(),
            patience: PATIENCE,
            last: from,
            skip: 0,
        }
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self, to: mpsc::Sender<Fed>) {
        let end = match self.feeding.head() {
            Some(head) => self.hand_over(head, &to).await.err(),
            None => None,
        };
        let end = match end {
            Some(end) => end,
            None => loop {
                if let Err(end) = self.step(&to).await {
                    break end;
                }
            },
        };
        let mut status = match end {
            FeedEnd::Gone => return,
            FeedEnd::Status(status) => status,
            FeedEnd::Done => {
                if let Some(end) = self.feeding.end(self.last)
                    && self.hand_over(end, &to).await.is_err()
                {
                    return;
                }
                Status::new(Code::Ok, "")
            }
        };
        if let Some(trailer) = self.feeding.trailer() {
            status.metadata_mut().insert(trailer, self.last.0.into());
        }
        let _ = to.send(Fed::End(status)).await;
    }

    /// Hands over some bytes, and returns when they were taken.
    async fn hand_over(&mut self, bytes: Bytes, to: &mpsc::Sender<Fed>) -> Result<(), FeedEnd> {
        let (sender, taken) = oneshot::channel();
        to.send(Fed::Bytes(bytes, sender)).await.map_err(|_| FeedEnd::Gone)?;
        self.taken(taken).await;
        Ok(())
    }

    /// Hands over the next piece, and returns when it was taken.
    async fn step(&mut self, to: &mpsc::Sender<Fed>) -> Result<(), FeedEnd> {
        if self.current.is_none() {
            self.at_an_end()?;
        }
        if self.current.is_none() && self.page.is_empty() {
            self.fill(to).await?;
        }
        let piece = self.piece();
        self.hand_over(piece, to).await
    }

    /// Between two entries: whether it is over.
    fn at_an_end(&self) -> Result<(), FeedEnd> {
        if self.skip > 0 {
            return Ok(());
        }
        if self.drain.is_cancelled() {
            return Err(FeedEnd::Status(stopping()));
        }
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(FeedEnd::Status(too_late())),
            _ => Ok(()),
        }
    }

    /// Reads the next entries, with room for them.
    async fn fill(&mut self, to: &mpsc::Sender<Fed>) -> Result<(), FeedEnd> {
        self.held = None;
        let between = self.skip == 0;
        let deadline = self.deadline.filter(|_| between);
        let (page, held) = tokio::select! {
            biased;
            () = self.drain.cancelled(), if between => return Err(FeedEnd::Status(stopping())),
            () = until(deadline) => return Err(FeedEnd::Status(too_late())),
            () = to.closed() => return Err(FeedEnd::Gone),
            page = self.feeding.page(&self.room) => match page {
                Some(Ok(page)) => page,
                Some(Err(error)) => return Err(FeedEnd::Status(from_error(&error))),
                None if matches!(self.feeding, Feeding::Stream(_)) => return Err(FeedEnd::Done),
                None => return Err(FeedEnd::Status(stopping())),
            },
        };
        self.page = page;
        self.held = Some(held);
        self.since = Instant::now();
        self.settle();
        Ok(())
    }

    /// Keeps room for what is left only, and for encoding one of it.
    fn settle(&mut self) {
        let page: usize = self.page.iter().map(size).sum();
        let next = self.page.front().map_or(0, size);
        let current = self.current.as_ref().map_or(0, |(_, event, _)| event.len());
        if let Some(held) = &mut self.held {
            held.shrink(page + current.max(next));
        }
    }

    /// Bytes for the client, not more than a piece holds.
    fn piece(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        while out.len() < PIECE_BYTES {
            if self.current.is_none() {
                let Some(entry) = self.page.pop_front() else { break };
                let (place, event) = self.feeding.message(entry);
                self.current = Some((place, event, std::mem::take(&mut self.skip)));
            }
            let Some((place, event, at)) = &mut self.current else { break };
            let count = (PIECE_BYTES - out.len()).min(event.len() - *at);
            out.extend_from_slice(&event[*at..*at + count]);
            *at += count;
            if *at == event.len() {
                self.last = *place;
                self.current = None;
            }
        }
        self.settle();
        out.freeze()
    }

    /// Waits until the last piece was taken; lets go of what is behind it when others want the room.
    async fn taken(&mut self, mut taken: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                biased;
                _ = &mut taken => break,
                () = tokio::time::sleep(self.patience), if self.held.is_some() => {}
            }
            if self.room.0.is_contended() {
                self.let_go();
            }
        }
        if self.since.elapsed() > HELD_MAX && self.room.0.is_contended() {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        self.held = None;
        if self.current.is_none() && self.page.is_empty() {
            return;
        }
        if let Some((_, _, at)) = self.current.take() {
            self.skip = at;
        }
        self.page = VecDeque::new();
        self.feeding.rewind(self.last);
        self.patience = PATIENCE_AGAIN;
    }
}

fn too_late() -> Status {
    refused(Code::DeadlineExceeded, "the deadline passed: go on behind what arrived last")
}

fn stopping() -> Status {
    refused(Code::Unavailable, "the node is stopping: go on behind what arrived last, on another node")
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
