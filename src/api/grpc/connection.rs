//! One connection, as those see it who decide whether it may stay.
//!
//! At the limit of connections the one goes that was quiet for the longest, of those for which the node has nothing to
//! do: nobody's call is at work there. It waits for its client: for a preface, a call, the rest of a request, or for
//! an answer to be read; or its calls only watch the node's health, or ask what it serves. A client that was served and owes
//! nothing may only think before its next call: such a connection goes only where no other does, and after a longer
//! quiet. Bytes alone are no sign of life:
//! a client may send one now and then for as long as it likes. A connection moves when a call begins, when its request is
//! whole, or much of it has come, and when an answer is there and when it is read: the client is waited for from when there
//! is something to take. What a client begins to say it has to end in time, see [`super::frames`].
//!
//! A watch of the contract may stay as long as it likes, and its connection with it. So there are fewer places for
//! connections with watches than for connections.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use converge_ledger_core::planted::{self, Bug};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::{Call, STALLED};
use super::frames::Frames;
use super::streams::{Followed, Streams};

/// A connection has this long for the HTTP/2 preface and the frame that has to follow.
const HELLO: Duration = Duration::from_secs(5);
/// The preface, and the head of the frame.
const HELLO_BYTES: u64 = 24 + 9;
/// The end of a small answer, which its call does not wait for, is read within twice this.
const UNREAD: Duration = Duration::from_secs(10);
/// What a client begins to say is whole within this: a frame, and a block of headers whatever its frames are.
const WHOLE: Duration = STALLED;
/// How often that is looked at. Times count in looks: they do not go on while the node is stopped.
const LOOK: Duration = Duration::from_secs(1);
/// A connection that moved within this time is not closed in favour of another.
const QUIET_MIN: Duration = Duration::from_millis(250);
/// Nor within this time one whose client was served, and owes nothing: clients do something else between two calls.
const SETTLED_MIN: Duration = Duration::from_secs(2);
/// Nor within this much more one that got a part of a request: a slow link delivers by fits and starts.
const SENDING: Duration = Duration::from_millis(750);
/// A connection that goes in favour of another may say so for this long.
const LEAVE: Duration = Duration::from_millis(100);
/// And answer calls that came meanwhile for this long.
const LEAVE_AT_WORK: Duration = Duration::from_secs(2);
/// This part of all connections, or of all calls of a kind, is ended at once, so that a crowd is not worked off one by one.
pub(super) const EVICTED_PART: usize = 8;

/// No time on the clock of this process.
pub(super) const NEVER: u64 = u64::MAX;

static START: LazyLock<Instant> = LazyLock::new(|| std::time::Instant::now().into());

pub(super) fn now_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What was seen longer ago than so many milliseconds says nothing of now.
const LOOKED_MS: u64 = 1000;

/// So many looks take that long.
fn looks(duration: Duration) -> u64 {
    millis(duration) / millis(LOOK)
}

pub(super) struct Connection {
    received: AtomicU64,
    /// When a call began, a request was whole, or an answer was there or went, on a clock of this process.
    moved_ms: AtomicU64,
    /// When what has not come as a whole began, on the same clock; [`NEVER`] where there is no such thing.
    began_ms: AtomicU64,
    /// How long the headers of the next call took.
    headers_ms: AtomicU64,
    /// Watches of the contract, and the place that a connection has for having any.
    watches: Mutex<(usize, Option<OwnedSemaphorePermit>)>,
    /// Calls for which the node has something to do.
    pub(super) at_work: AtomicUsize,
    /// The node had something to do for any of its calls.
    pub(super) worked: AtomicBool,
    /// Calls that wait by their nature.
    pub(super) idle: AtomicUsize,
    /// Streams of HTTP/2 that are open.
    pub(super) streams: AtomicUsize,
    /// What its client owed at the last look of [`Open::relieve`], and when that was.
    owed: Mutex<(u64, usize)>,
    /// Bytes that its client's system has taken.
    sent: AtomicU64,
    /// Ends of small answers that are not read, by turn.
    unread: [AtomicUsize; 2],
    turn: AtomicUsize,
    /// It has to go.
    pub(super) leave: CancellationToken,
    /// It has a place of those kept for the operator, and is for nobody else.
    pub(super) operator: bool,
    /// The call that hyper will spawn next: it makes the call's future and spawns it without a pause.
    next_call: Mutex<Option<Arc<Call>>>,
}

impl Connection {
    pub(super) fn new(operator: bool) -> Arc<Self> {
        Arc::new(Connection {
            received: AtomicU64::new(0),
            moved_ms: AtomicU64::new(now_ms()),
            began_ms: AtomicU64::new(NEVER),
            headers_ms: AtomicU64::new(0),
            watches: Mutex::default(),
            at_work: AtomicUsize::new(0),
            worked: AtomicBool::new(false),
            idle: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            owed: Mutex::default(),
            sent: AtomicU64::new(0),
            unread: Default::default(),
            turn: AtomicUsize::new(0),
            leave: CancellationToken::new(),
            operator,
            next_call: Mutex::default(),
        })
    }

    pub(super) fn moved(&self) {
        self.moved_ms.fetch_max(now_ms(), Ordering::Relaxed);
    }

    /// A part of a request came, not all of it.
    pub(super) fn sends(&self) {
        self.moved_ms.fetch_max(now_ms() + millis(SENDING), Ordering::Relaxed);
    }

    fn received(&self, bytes: &[u8], frames: &mut Frames, streams: &mut Option<Followed>) {
        self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let took = frames.push(bytes, now_ms(), |says| {
            if let Some(streams) = streams {
                streams.came(says);
            }
        });
        if let Some(took) = took {
            self.headers_ms.fetch_max(took, Ordering::Relaxed);
        }
        self.began_ms.store(frames.began().unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// Streams for which its client has to do something, or whose answers it has to read.
    fn owed(&self) -> usize {
        self.streams.load(Ordering::Relaxed).saturating_sub(self.at_work.load(Ordering::Relaxed))
    }

    /// What its client owes now and owed a moment ago: what has only just come is no debt.
    fn owed_for_long(&self) -> usize {
        let (now, owed) = (now_ms(), self.owed());
        let mut last = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before) = std::mem::replace(&mut *last, (now, owed));
        if now.saturating_sub(at) > LOOKED_MS { 0 } else { owed.min(before) }
    }

    /// Bytes that its client's system has taken.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Its client has something to do: it has not called yet, or not sent all of what it began, or not read an answer.
    fn owes(&self) -> bool {
        !self.worked.load(Ordering::Relaxed)
            || self.began_ms.load(Ordering::Relaxed) != NEVER
            || self.owed() > self.idle.load(Ordering::Relaxed)
    }

    /// Returns when one that has to go has had its time: a call that came meanwhile gets its answer.
    pub(super) async fn has_left(&self) {
        let until = Instant::now() + LEAVE_AT_WORK;
        loop {
            tokio::time::sleep(LEAVE).await;
            if self.at_work.load(Ordering::Relaxed) == 0 || Instant::now() >= until {
                return;
            }
        }
    }

    /// A frame of a call that is over is in the way of all others here, and keeps all that its answer was charged for. Where
    /// nothing moves for that long, the connection has to go.
    pub(super) async fn lets_go(&self, call: &Weak<Call>, patience: Duration) {
        loop {
            let before = self.sent();
            tokio::time::sleep(patience).await;
            if !call.upgrade().is_some_and(|call| call.is_unread()) {
                return;
            }
            if self.sent() == before {
                return self.leave.cancel();
            }
        }
    }

    /// How long ago the first byte of the call came whose headers are whole now.
    pub(super) fn headers_took(&self) -> Duration {
        Duration::from_millis(self.headers_ms.swap(0, Ordering::Relaxed))
    }

    /// One more watch of the contract. The first one takes one of the places that there are for connections with
    /// watches; none where there is none left.
    pub(super) fn watch(self: &Arc<Self>, places: &Arc<Semaphore>) -> Option<Watching> {
        let mut watches = self.watches();
        if watches.1.is_none() {
            watches.1 = Some(places.clone().try_acquire_owned().ok()?);
        }
        watches.0 += 1;
        Some(Watching(self.clone()))
    }

    fn watches(&self) -> MutexGuard<'_, (usize, Option<OwnedSemaphorePermit>)> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begins(&self, call: &Arc<Call>) {
        *self.next_call.lock().unwrap_or_else(PoisonError::into_inner) = Some(call.clone());
    }

    pub(super) fn begun(&self) -> Option<Arc<Call>> {
        self.next_call.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A small answer leaves its call behind; says in which turn, for [`Connection::read`].
    pub(super) fn unread(&self) -> usize {
        let turn = self.turn.load(Ordering::Relaxed) % 2;
        self.unread[turn].fetch_add(1, Ordering::Relaxed);
        turn
    }

    pub(super) fn read(&self, turn: usize) {
        self.unread[turn].fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns when the client has done too little for too long, and says what.
    pub(super) async fn outstays(&self) -> &'static str {
        let mut look = 0;
        // When what is not whole began, as it was seen last, and in how many looks before that.
        let (mut seen, mut times) = (NEVER, 0);
        loop {
            tokio::time::sleep(LOOK).await;
            look += 1;
            let silent = look == looks(HELLO) && self.received.load(Ordering::Relaxed) < HELLO_BYTES;
            if silent && !planted::is(Bug::SilentStays) {
                return "no HTTP/2 preface in time";
            }
            let began = self.began_ms.load(Ordering::Relaxed);
            times = if began == seen { times + 1 } else { 0 };
            seen = began;
            if began != NEVER && times >= looks(WHOLE) {
                return "a frame or a block of headers did not arrive in time";
            }
            if look % looks(UNREAD) != 0 {
                continue;
            }
            let next = (self.turn.load(Ordering::Relaxed) + 1) % 2;
            if self.unread[next].load(Ordering::Relaxed) > 0 {
                return "an answer is not read";
            }
            self.turn.store(next, Ordering::Relaxed);
        }
    }
}

/// A watch of the contract, until it is dropped.
pub(super) struct Watching(Arc<Connection>);

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watches = self.0.watches();
        watches.0 -= 1;
        if watches.0 == 0 {
            watches.1 = None;
        }
    }
}

/// The connections that are open.
#[derive(Clone, Default)]
pub(super) struct Open(Arc<Mutex<Listed>>);

#[derive(Default)]
struct Listed {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

impl Open {
    /// Counts as open until the guard is dropped.
    pub(super) fn list(&self, connection: Arc<Connection>) -> impl Drop + use<> {
        let mut listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listed.next += 1;
        let id = listed.next;
        listed.connections.insert(id, connection);
        Listing { open: self.clone(), id }
    }

    /// Closes those that were quiet for the longest and have no call at work; those first whose clients owe something.
    pub(super) fn evict(&self) {
        if planted::is(Bug::SilentStays) {
            return;
        }
        let now = now_ms();
        let listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may_go = |connection: &&Arc<Connection>| {
            connection.at_work.load(Ordering::Relaxed) == 0 && !connection.leave.is_cancelled()
        };
        let quiet = |connection: &Connection| now.saturating_sub(connection.moved_ms.load(Ordering::Relaxed));
        let (mut going, mut settled): (Vec<_>, Vec<_>) =
            listed.connections.values().filter(may_go).partition(|connection| connection.owes());
        going.retain(|connection| quiet(connection) >= millis(QUIET_MIN));
        if going.is_empty() {
            settled.retain(|connection| quiet(connection) >= millis(SETTLED_MIN));
            going = settled;
        }
        going.sort_by_key(|connection| std::cmp::Reverse(quiet(connection)));
        let count = (listed.connections.len() / EVICTED_PART).max(1);
        going.into_iter().take(count).for_each(|connection| connection.leave.cancel());
    }

    /// Of `count` streams, closes connections with as many as there are more than `max`: those first whose clients owed
    /// the most, now and when this was called last. A debt counts up to a connection's share, for beyond that it is not
    /// read, so that its client cannot pay; among equals the one that was quiet for the longest goes. Whether any had to.
    pub(super) fn relieve(&self, count: usize, max: usize, share: usize) -> bool {
        let now = now_ms();
        let listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut beyond, mut owing) = (count.saturating_sub(max), Vec::new());
        for connection in listed.connections.values() {
            if connection.leave.is_cancelled() {
                beyond = beyond.saturating_sub(connection.streams.load(Ordering::Relaxed));
                continue;
            }
            let owed = connection.owed_for_long();
            if owed > 0 {
                owing.push((owed, connection));
            }
        }
        let quiet = |connection: &Connection| now.saturating_sub(connection.moved_ms.load(Ordering::Relaxed));
        owing.sort_by_key(|(owed, connection)| std::cmp::Reverse((*owed.min(&share), quiet(connection))));
        let mut any = false;
        for (_, connection) in owing {
            if beyond == 0 {
                break;
            }
            beyond = beyond.saturating_sub(connection.streams.load(Ordering::Relaxed));
            connection.leave.cancel();
            any = true;
        }
        any
    }
}

struct Listing {
    open: Open,
    id: u64,
}

impl Drop for Listing {
    fn drop(&mut self) {
        let mut listed = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        listed.connections.remove(&self.id);
    }
}

/// What is written in smaller pieces is held until it is flushed, or more comes.
const HELD_BYTES: usize = 4 << 10;

/// A socket that tells its connection what arrives, and what leaves.
///
/// What is acknowledged together leaves together: small pieces are held until they are flushed, and before that, where other
/// calls of the connection are at work, all that is ready to run has its turn, once. It waits for nothing but that turn.
pub(super) struct Metered<S> {
    inner: S,
    connection: Arc<Connection>,
    frames: Frames,
    answers: Frames,
    streams: Option<Followed>,
    /// Bytes that were taken and are not written.
    held: BytesMut,
    /// They have waited for their turn.
    gathered: bool,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, connection: Arc<Connection>) -> Self {
        let (frames, answers) = (Frames::new(), Frames::of_answers());
        Metered { inner, connection, frames, answers, streams: None, held: BytesMut::new(), gathered: false }
    }

    /// Its streams count among these.
    pub(super) fn counted(mut self, streams: &Streams) -> Self {
        self.streams = Some(Followed::new(streams, &self.connection));
        self
    }

    /// This left.
    fn left(&mut self, bytes: &[u8]) {
        self.connection.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(streams) = &mut self.streams {
            self.answers.push(bytes, 0, |says| streams.went(says));
        }
    }
}

impl<S: AsyncWrite + Unpin> Metered<S> {
    /// Lets other answers come before what is held is written.
    fn poll_gather(&mut self, cx: &Context<'_>) -> Poll<()> {
        let others = self.connection.at_work.load(Ordering::Relaxed) > 0;
        if std::mem::replace(&mut self.gathered, true) || !others {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is held, and in the same call what follows it, if it can; says how much of that was written.
    fn poll_write_held(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<std::io::Result<usize>> {
        loop {
            let parts = [IoSlice::new(&self.held), IoSlice::new(more)];
            let count = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, &parts))?;
            if count == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            let held = self.held.split_to(count.min(self.held.len()));
            self.left(&held);
            if self.held.is_empty() {
                self.gathered = false;
                let written = count - held.len();
                self.left(&more[..written]);
                if written > 0 || more.is_empty() {
                    return Poll::Ready(Ok(written));
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let Metered { inner, connection, frames, streams, .. } = &mut *self;
        if let Some(streams) = streams {
            ready!(streams.poll_room(cx));
        }
        let read = Pin::new(inner).poll_read(cx, buf);
        if let came @ [_, ..] = &buf.filled()[before..] {
            connection.received(came, frames, streams);
        }
        if let Some(streams) = streams {
            streams.look();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        if self.held.len() + buf.len() <= HELD_BYTES {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        self.poll_write_held(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if !self.held.is_empty() {
            ready!(self.poll_gather(cx));
            ready!(self.poll_write_held(cx, &[]))?;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
