//! One connection, as those see it who decide whether it may stay.
//!
//! At the limit of connections the one goes that was quiet for the longest, of those for which the node has nothing to
//! do: nobody's call is at work there. It waits for its client: for a preface, a call, the rest of a request, or for
//! an answer to be read; or its calls only watch the node's health, or ask what it serves. Bytes alone are no sign of life:
//! a client may send one now and then for as long as it likes. A connection moves when a call begins, when its request is
//! whole, or much of it has come, and when an answer is there and when it is read: the client is waited for from when there
//! is something to take. What a client begins to say it has to end in time, see [`super::frames`].
//!
//! A watch of the contract may stay as long as it likes, and its connection with it. So there are fewer places for
//! connections with watches than for connections.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use converge_ledger_core::planted::{self, Bug};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::{Call, STALLED};
use super::frames::Frames;

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
/// Nor one within this much more that got a part of a request: a slow link delivers by fits and starts.
const SENDING: Duration = Duration::from_millis(750);
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

    fn received(&self, bytes: &[u8], frames: &mut Frames) {
        self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(took) = frames.push(bytes, now_ms()) {
            self.headers_ms.fetch_max(took, Ordering::Relaxed);
        }
        self.began_ms.store(frames.began().unwrap_or(NEVER), Ordering::Relaxed);
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
        Entry { open: self.clone(), id }
    }

    /// Closes those that were quiet for the longest and have no call at work.
    pub(super) fn evict(&self) {
        if planted::is(Bug::SilentStays) {
            return;
        }
        let now = now_ms();
        let listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |connection: &&Arc<Connection>| {
            let quiet = now.saturating_sub(connection.moved_ms.load(Ordering::Relaxed));
            let at_work = connection.at_work.load(Ordering::Relaxed) > 0;
            !at_work && quiet >= millis(QUIET_MIN) && !connection.leave.is_cancelled()
        };
        let mut idle: Vec<_> = listed.connections.values().filter(idle).collect();
        idle.sort_by_key(|connection| connection.moved_ms.load(Ordering::Relaxed));
        let count = (listed.connections.len() / EVICTED_PART).max(1);
        idle.into_iter().take(count).for_each(|connection| connection.leave.cancel());
    }
}

struct Entry {
    open: Open,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut listed = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        listed.connections.remove(&self.id);
    }
}

/// A socket that tells its connection what arrives.
pub(super) struct Metered<S> {
    inner: S,
    connection: Arc<Connection>,
    frames: Frames,
}

impl<S> Metered<S> {
    pub(super) fn new(inner: S, connection: Arc<Connection>) -> Self {
        Metered { inner, connection, frames: Frames::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let Metered { inner, connection, frames } = &mut *self;
        let read = Pin::new(inner).poll_read(cx, buf);
        if let came @ [_, ..] = &buf.filled()[before..] {
            connection.received(came, frames);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
