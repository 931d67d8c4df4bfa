//! One call, from its headers to the last byte of its answer: what kind it is, when it has to be over, and whether it
//! is the node or the client that the other waits for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::HeaderMap;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::Settings;
use super::connection::{Connection, NEVER, now_ms};
use super::metadata::grpc_timeout;
use super::status::{overloaded, refused};

/// Of a call whose client has to send or to read, the client moves at least so often.
pub(super) const STALLED: Duration = Duration::from_secs(10);
/// While the node drains, a call that waits ends after this, for its client, or for room: whatever its deadline.
const DRAIN_WAITS: Duration = Duration::from_secs(1);
/// When to come back after having made room for others.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Calls of a kind have places and budgets of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    Append,
    /// Many entries, all or none.
    Transact,
    /// Appends, one after another.
    AppendStream,
    /// A whole context in, or out.
    Load,
    Snapshot,
    Read,
    Watch,
    /// What an operator asks.
    Admin,
    /// A health check.
    Health,
    /// Long streams of few bytes.
    HealthWatch,
    /// Reflection, and whatever is not served.
    Other,
}

impl CallKind {
    pub(super) fn of(path: &str) -> CallKind {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return CallKind::Other;
        };
        match (service, method) {
            (super::CONTEXT_SERVICE, "Append") => CallKind::Append,
            (super::CONTEXT_SERVICE, "Load") => CallKind::Load,
            (super::CONTEXT_SERVICE, "Snapshot") => CallKind::Snapshot,
            (super::CONTEXT_SERVICE, "Watch") => CallKind::Watch,
            (super::CONTEXT_SERVICE, _) => CallKind::Read,
            (super::LEDGER_SERVICE, "AppendStream") => CallKind::AppendStream,
            (super::LEDGER_SERVICE, "ReadStream" | "WatchAll") => CallKind::Watch,
            (super::LEDGER_SERVICE, "ListContexts" | "GetHead") => CallKind::Read,
            (super::LEDGER_SERVICE, "AppendBatch") => CallKind::Transact,
            (super::LEDGER_SERVICE, "AppendWithReceivedTime" | "Fence") => CallKind::Append,
            ("converge.admin.v1.AdminService", _) | (super::CLUSTER_SERVICE, _) => CallKind::Admin,
            ("grpc.health.v1.Health", "Watch") => CallKind::HealthWatch,
            ("grpc.health.v1.Health", _) => CallKind::Health,
            _ => CallKind::Other,
        }
    }

    /// It belongs to the client contract; the others are the operator's.
    pub(super) fn is_contract(self) -> bool {
        matches!(
            self,
            CallKind::Append
                | CallKind::Transact
                | CallKind::AppendStream
                | CallKind::Load
                | CallKind::Snapshot
                | CallKind::Read
                | CallKind::Watch
        )
    }

    /// But for moments it waits for its client or for a change: no reason to keep its connection when others want its
    /// place. A watch of the contract waits, too, but it is what the port is for.
    pub(super) fn is_idle(self) -> bool {
        matches!(self, CallKind::HealthWatch | CallKind::Other)
    }

    /// It lasts until its client ends it.
    fn is_endless(self) -> bool {
        matches!(self, CallKind::Watch | CallKind::HealthWatch | CallKind::AppendStream)
    }

    /// Its client asks when it likes, and is answered message by message.
    pub(super) fn is_conversation(self) -> bool {
        matches!(self, CallKind::Other | CallKind::AppendStream)
    }

    /// What its client does says nothing of whether the node has something to do for it: it says so itself.
    fn is_at_work_by_itself(self) -> bool {
        self == CallKind::AppendStream
    }
}

pub(super) struct Call {
    pub(super) kind: CallKind,
    connection: Arc<Connection>,
    /// A request that is still arriving then is refused.
    pub(super) request_until: Instant,
    /// When its first byte arrived.
    pub(super) arrived: Instant,
    /// Nothing of it is left behind this; none for a watch whose client gave no deadline.
    until: Option<Instant>,
    /// Pieces of the answer that wait to be taken, and since when none was.
    unread: Mutex<(usize, Option<Instant>)>,
    changed: Notify,
    at_work: AtomicBool,
    /// When its client last did something for it, or began to be waited for, on the clock of [`now_ms`].
    moved_ms: AtomicU64,
    /// When there first was something of its answer to read, on the same clock; [`NEVER`] before.
    readable_ms: AtomicU64,
    /// It has to make room for others.
    crowded_out: AtomicBool,
    /// Told when it is crowded out.
    goes: Notify,
    drain: CancellationToken,
}

/// See [`Call::waits_for_room`].
pub(super) struct WaitsForRoom(Arc<Call>);

impl Drop for WaitsForRoom {
    fn drop(&mut self) {
        self.0.set_at_work(true);
    }
}

impl Call {
    pub(super) fn new(
        kind: CallKind,
        headers: &HeaderMap,
        connection: &Arc<Connection>,
        settings: &Settings,
        drain: &CancellationToken,
    ) -> Arc<Self> {
        let given = headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
        let given = given.map(|given| given.min(settings.deadline_max));
        // One deadline from its first byte to the last of its answer.
        let now = Instant::now();
        let now = now.checked_sub(connection.headers_took()).unwrap_or(now);
        let request_until = now + given.unwrap_or(settings.deadline_default);
        let until = match given {
            Some(given) => Some(now + given),
            None if kind.is_endless() => None,
            None => Some(now + settings.deadline_max),
        };
        let call = Call {
            kind,
            connection: connection.clone(),
            request_until,
            arrived: now,
            until,
            unread: Mutex::default(),
            changed: Notify::new(),
            at_work: AtomicBool::new(false),
            moved_ms: AtomicU64::new(now_ms()),
            readable_ms: AtomicU64::new(NEVER),
            crowded_out: AtomicBool::new(false),
            goes: Notify::new(),
            drain: drain.clone(),
        };
        call.set_at_work(true);
        connection.idle.fetch_add(usize::from(kind.is_idle()), Ordering::Relaxed);
        connection.moved();
        Arc::new(call)
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// It came over the same connection.
    pub(super) fn is_beside(&self, other: &Call) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }

    /// Whether the node has something to do, or waits for the client.
    pub(super) fn set_at_work(&self, at_work: bool) {
        let at_work = at_work && !self.kind.is_idle();
        match (self.at_work.swap(at_work, Ordering::Relaxed), at_work) {
            (false, true) => {
                self.connection.worked.store(true, Ordering::Relaxed);
                self.connection.at_work.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => _ = self.connection.at_work.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }

    /// The same, as its client's doing shows it.
    pub(super) fn seems_at_work(&self, at_work: bool) {
        if !self.kind.is_at_work_by_itself() {
            self.set_at_work(at_work);
        }
    }

    /// Until that is dropped, it waits for room that answers to other clients have: no reason to keep its connection, or its
    /// place, when others want that.
    pub(super) fn waits_for_room(self: Arc<Self>) -> WaitsForRoom {
        self.set_at_work(false);
        WaitsForRoom(self)
    }

    /// Its client did something for it: sent all of a message, or read some of the answer. Or it has something to do now.
    pub(super) fn moved(&self) {
        self.moved_ms.store(now_ms(), Ordering::Relaxed);
        self.connection.moved();
    }

    /// A part of its request came, not all of it.
    pub(super) fn sends(&self) {
        self.moved();
        self.connection.sends();
    }

    /// For how long it has waited for its client in vain, in milliseconds; none while the node has something to do for
    /// it. A watch of health waits, too: its client has the last word of the node, and may ask again.
    pub(super) fn waits_ms(&self) -> Option<u64> {
        self.waits().then(|| now_ms().saturating_sub(self.moved_ms.load(Ordering::Relaxed)))
    }

    /// For how long its client has had something to read in all, in milliseconds; none while the node has something to
    /// do for it, or has not begun to answer.
    pub(super) fn is_read_ms(&self) -> Option<u64> {
        let since = self.readable_ms.load(Ordering::Relaxed);
        (since != NEVER && self.waits()).then(|| now_ms().saturating_sub(since))
    }

    /// Its client is waited for, and it does not go yet.
    fn waits(&self) -> bool {
        !self.at_work.load(Ordering::Relaxed) && !self.crowded_out.load(Ordering::Relaxed)
    }

    /// Ends it, for others want its place; unless its client goes on just then.
    pub(super) fn crowd_out(&self) {
        self.crowded_out.store(true, Ordering::Relaxed);
        self.goes.notify_one();
        self.changed.notify_one();
    }

    /// Returns with its end, when it has to make room for others and can still be told so.
    pub(super) async fn goes(&self) -> Status {
        loop {
            self.goes.notified().await;
            if let Some(status) = self.farewell() {
                return status;
            }
        }
    }

    /// The end of one that has to make room for others and can still be told so: nothing is in the way.
    pub(super) fn farewell(&self) -> Option<Status> {
        let goes = self.crowded_out.load(Ordering::Relaxed) && !self.at_work.load(Ordering::Relaxed);
        (goes && self.unread().0 == 0).then(|| match self.drain.is_cancelled() {
            true => refused(
                Code::Unavailable,
                "the node is stopping, and this call only waited: try again, on another node",
            ),
            false => overloaded("the call waited for its client, and others want its place: try again", RETRY_AFTER),
        })
    }

    /// Returns when one that waits for room has to make room for others: its place is wanted, or its connection's. Whoever
    /// polls it is polled again when the call is crowded out.
    pub(super) async fn leaves(&self) -> Status {
        let crowded_out = std::future::poll_fn(|_| match self.farewell() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        });
        tokio::select! {
            () = crowded_out => {}
            () = self.connection.leave.cancelled() => {}
        }
        overloaded("other calls have all the room, and others want this one's place: try again", RETRY_AFTER)
    }

    fn unread(&self) -> MutexGuard<'_, (usize, Option<Instant>)> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece of the answer waits to be taken.
    pub(super) fn piece_waits(&self) {
        let mut unread = self.unread();
        let (count, since) = *unread;
        *unread = (count + 1, since.or_else(|| Some(Instant::now())));
        if count == 0 {
            // Until now the client waited.
            self.moved();
            let _ = self.readable_ms.compare_exchange(NEVER, now_ms(), Ordering::Relaxed, Ordering::Relaxed);
        }
        self.seems_at_work(false);
        drop(unread);
        self.changed.notify_one();
    }

    /// One was taken.
    pub(super) fn piece_taken(&self) {
        let mut unread = self.unread();
        let count = unread.0.saturating_sub(1);
        *unread = (count, (count > 0).then(Instant::now));
        self.seems_at_work(count == 0);
        drop(unread);
        self.moved();
    }

    /// It has to go in favour of others.
    pub(super) fn is_crowded_out(&self) -> bool {
        self.crowded_out.load(Ordering::Relaxed)
    }

    /// Something of its answer is not in the socket.
    pub(super) fn is_unread(&self) -> bool {
        self.unread().0 > 0
    }

    /// When it is over, as things stand; it drains since then.
    fn limit(&self, drains: Option<Instant>) -> Option<Instant> {
        let unread = self.unread().1;
        let stalled = match (unread, drains) {
            (Some(since), Some(drains)) => Some(since.max(drains) + DRAIN_WAITS),
            // What has no end ends by itself, or stays to say that the node drains.
            (None, Some(drains)) if !self.kind.is_endless() => {
                self.waits_since().map(|since| since.max(drains) + DRAIN_WAITS)
            }
            // An unread watch holds a piece, which its place is charged for.
            (Some(since), None) if !self.kind.is_endless() || self.kind == CallKind::AppendStream => {
                Some(since + STALLED)
            }
            _ => None,
        };
        // An append's answer is sent when it is there; until then the append is bounded by itself.
        let until =
            self.until.filter(|_| unread.is_some() || !matches!(self.kind, CallKind::Append | CallKind::Transact));
        stalled.into_iter().chain(until).min()
    }

    /// None while the node has something to do for it.
    fn waits_since(&self) -> Option<Instant> {
        Instant::now().checked_sub(Duration::from_millis(self.waits_ms()?))
    }

    /// Returns when the call has to be over, whoever it waits for.
    pub(super) async fn over(&self) {
        let mut drains = None;
        // One that has a task of its own ends itself, with a word for its client, if that reads.
        let ends_itself = self.kind.is_at_work_by_itself();
        let mut told = !ends_itself;
        loop {
            let changed = self.changed.notified();
            if self.crowded_out.load(Ordering::Relaxed) {
                if !self.at_work.load(Ordering::Relaxed) {
                    if std::mem::replace(&mut told, true) {
                        return;
                    }
                    tokio::time::sleep(DRAIN_WAITS).await;
                    continue;
                }
                // The rest of the request came, or the answer was read: the next time it is told anew.
                self.crowded_out.store(false, Ordering::Relaxed);
                told = !ends_itself;
            }
            if self.drain.is_cancelled() {
                drains.get_or_insert_with(Instant::now);
            }
            let limit = self.limit(drains);
            // What the node works at now may wait for its client then.
            let look = drains.map(|_| Instant::now() + DRAIN_WAITS);
            let time = async {
                match limit.into_iter().chain(look).min() {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.drain.cancelled(), if drains.is_none() => {}
                () = time => if self.limit(drains).is_some_and(|limit| limit <= Instant::now()) {
                    if drains.is_some() {
                        // Whoever polls this polls the call before it: who can still be told is told.
                        self.crowded_out.store(true, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                        let has_work = self.at_work.load(Ordering::Relaxed);
                        if has_work && self.limit(drains).is_none_or(|limit| limit > Instant::now()) {
                            // The rest of its request came just then, and may have been given to the ledger.
                            self.crowded_out.store(false, Ordering::Relaxed);
                            continue;
                        }
                    }
                    return;
                },
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.set_at_work(false);
        self.connection.idle.fetch_sub(usize::from(self.kind.is_idle()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[tokio::test(start_paused = true)]
    async fn a_drain_gives_a_call_that_waits_for_its_client_little_time_and_waits_for_what_is_at_work() {
        const HOUR: Duration = Duration::from_secs(3600);
        let (drain, mut headers) = (CancellationToken::new(), HeaderMap::new());
        headers.insert("grpc-timeout", "300S".parse().unwrap());
        let settings = Settings::from(&Config::default());
        let call = |kind| Call::new(kind, &headers, &Connection::new(false), &settings, &drain);
        let [half, unread, works] = [CallKind::Append, CallKind::Read, CallKind::Append].map(call);
        half.set_at_work(false);
        tokio::time::advance(Duration::from_secs(5)).await;
        unread.piece_waits();
        tokio::time::advance(Duration::from_secs(5)).await;
        let within = async |call: &Call, time| tokio::time::timeout(time, call.over()).await.is_ok();
        assert!(!within(&half, Duration::from_secs(1)).await, "nobody stops");
        drain.cancel();
        let (half_ends, unread_ends) = tokio::join!(within(&half, 2 * DRAIN_WAITS), within(&unread, 2 * DRAIN_WAITS));
        assert!(half_ends && unread_ends);
        assert_eq!(half.farewell().map(|status| status.code()), Some(Code::Unavailable), "it is told why");
        assert!(!within(&works, HOUR).await, "what was proposed gets its answer");
        works.piece_waits();
        assert!(within(&works, 2 * DRAIN_WAITS).await, "which has to be read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_went_on_is_told_anew_when_others_want_its_place_again() {
        let settings = Settings::from(&Config::default());
        let (kind, connection) = (CallKind::AppendStream, Connection::new(false));
        let call = Call::new(kind, &HeaderMap::new(), &connection, &settings, &CancellationToken::new());
        let mut over = std::pin::pin!(call.over());
        let mut is_over = async || tokio::time::timeout(DRAIN_WAITS / 2, over.as_mut()).await.is_ok();
        for round in 0..2 {
            call.set_at_work(false);
            call.crowd_out();
            assert!(!is_over().await, "round {round}: it can still be told");
            call.set_at_work(true);
            assert!(!is_over().await && !is_over().await, "round {round}: it went on");
        }
        call.set_at_work(false);
        call.crowd_out();
        assert!(!is_over().await && (is_over().await || is_over().await), "it does not go by itself");
    }
}
