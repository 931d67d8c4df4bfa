//! The streams of HTTP/2 that are open on all connections.
//!
//! Each takes memory, 8 to 32 KiB, from the headers of its call until the last frame of its answer is in the socket. It does
//! so whatever became of the call: the answer to one that was refused waits, too, until it is read. So they are counted
//! where they are seen, on the wire, and there is one bound for all connections.
//!
//! Where there are as many, a connection that has its share of them is not read: its client begins no more, but for what one
//! read may bring. A client can begin a thousand streams in a moment, and again on its next connection, faster than any
//! connection is closed.
//!
//! And room is made: those connections are closed whose clients owe the most, the rest of a request, or reading an answer.
//! A client owes nothing for a call that the node works at. So what goes is never what clients wait for. Many calls that
//! come at once are owed for a moment until the node begins them, so a client owes what it owed a moment ago, too.

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::Settings;
use super::connection::{Connection, Open, now_ms};
use super::frames::Says;

/// Where there are too many, this is looked at once in so many milliseconds at most.
const LOOK_MS: u64 = 20;
/// And at least this often: often enough for a debt to be seen twice.
const LOOK_AGAIN: Duration = Duration::from_millis(400);
/// A connection that is not read looks for room this often.
const PAUSE: Duration = Duration::from_millis(50);

/// All of them, and the connections that they are on.
#[derive(Clone)]
pub(super) struct Streams(Arc<All>);

struct All {
    count: AtomicUsize,
    max: usize,
    /// So many one connection may have, however many there are.
    share: usize,
    looked_ms: AtomicU64,
    connections: Open,
    /// Called when some had to go, or are not read.
    reached: Box<dyn Fn() + Send + Sync>,
}

/// As many as calls of the contract may be open: further ones would have no place. Two connections may use all theirs.
pub(super) fn streams_max(settings: &Settings) -> usize {
    let places = settings.requests.saturating_mul(2).saturating_add(settings.watches);
    places.max(2 * settings.streams as usize)
}

impl Streams {
    /// For so many connections.
    pub(super) fn new(
        max: usize,
        connections_max: usize,
        connections: Open,
        reached: impl Fn() + Send + Sync + 'static,
    ) -> Streams {
        let (count, looked_ms, share) = (AtomicUsize::new(0), AtomicU64::new(0), (max / connections_max).max(1));
        Streams(Arc::new(All { count, max, share, looked_ms, connections, reached: Box::new(reached) }))
    }

    fn is_full(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) >= self.0.max
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Looks again and again, also where no more streams come.
    pub(super) async fn keeps_looking(&self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            self.look();
        }
    }

    /// Closes connections where there is no room for another stream.
    fn look(&self) {
        let count = self.0.count.load(Ordering::Relaxed);
        if count < self.0.max {
            return;
        }
        let (now, looked) = (now_ms(), self.0.looked_ms.load(Ordering::Relaxed));
        let is_due = now >= looked + LOOK_MS;
        let takes_turn = || {
            let swapped = self.0.looked_ms.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed);
            swapped.is_ok()
        };
        if is_due && takes_turn() && self.0.connections.relieve(count, self.0.max - 1, self.0.share) {
            (self.0.reached)();
        }
    }
}

/// The streams of one connection, as its frames say. Gives them back when it is dropped.
pub(super) struct Followed {
    all: Streams,
    connection: Arc<Connection>,
    open: HashSet<u32>,
    /// The last one that its client began: they only go up.
    last: u32,
    begun: bool,
    /// Until then it is not read.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Followed {
    pub(super) fn new(all: &Streams, connection: &Arc<Connection>) -> Followed {
        let (all, connection) = (all.clone(), connection.clone());
        Followed { all, connection, open: HashSet::new(), last: 0, begun: false, pause: None }
    }

    /// Whether its connection may be read: it has less than its share, or there is room.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.open.len() >= self.all.0.share && self.all.is_full() {
            self.all.look();
            let pause = self.pause.get_or_insert_with(|| {
                (self.all.0.reached)();
                Box::pin(tokio::time::sleep(PAUSE))
            });
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        self.pause = None;
        Poll::Ready(())
    }

    /// What the client says.
    pub(super) fn came(&mut self, says: Says) {
        match says {
            Says::Headers(stream) if stream > self.last => {
                self.last = stream;
                self.begun = true;
                self.open.insert(stream);
                self.connection.streams.fetch_add(1, Ordering::Relaxed);
                self.all.0.count.fetch_add(1, Ordering::Relaxed);
                self.connection.moved();
            }
            Says::Reset(stream) => self.ends(stream),
            Says::Headers(_) | Says::End(_) => {}
        }
    }

    /// What the node says: its end is the end of a call, for what its client has not sent yet is not waited for.
    pub(super) fn went(&mut self, says: Says) {
        match says {
            Says::End(stream) | Says::Reset(stream) => self.ends(stream),
            Says::Headers(_) => {}
        }
    }

    fn ends(&mut self, stream: u32) {
        if self.open.remove(&stream) {
            self.give_back(1);
        }
    }

    fn give_back(&self, count: usize) {
        self.connection.streams.fetch_sub(count, Ordering::Relaxed);
        self.all.0.count.fetch_sub(count, Ordering::Relaxed);
    }

    /// After what came: whether there are too many now.
    pub(super) fn look(&mut self) {
        if std::mem::take(&mut self.begun) {
            self.all.look();
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.give_back(self.open.len());
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::advance;

    use super::super::call::{Call, CallKind};
    use super::super::connection::Metered;
    use super::*;
    use crate::Config;

    fn call(connection: &Arc<Connection>) -> Arc<Call> {
        let settings = Settings::from(&Config::default());
        Call::new(CallKind::Append, &hyper::HeaderMap::new(), connection, &settings, &Default::default())
    }

    /// A connection on which so many calls have begun.
    fn with(all: &Streams, count: u32) -> (impl Drop + use<>, Arc<Connection>, Followed) {
        let connection = Connection::new(false);
        let mut streams = Followed::new(all, &connection);
        (0..count).for_each(|number| streams.came(Says::Headers(2 * number + 1)));
        (all.0.connections.list(connection.clone()), connection, streams)
    }

    #[tokio::test]
    async fn a_stream_counts_from_its_headers_to_the_last_frame_of_its_answer() {
        let all = Streams::new(9, 1, Open::default(), || {});
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let mut server = Metered::new(server, Connection::new(false)).counted(&all);
        let head = |kind: u8, flags: u8, stream: u8| [0, 0, 0, kind, flags, 0, 0, 0, stream];
        let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        [1, 3, 5].iter().for_each(|stream| said.extend(head(1, 4, *stream)));
        // The end of a request is none of its call, and trailers begin no other.
        said.extend(head(1, 4 | 1, 1));
        client.write_all(&said).await.unwrap();
        server.read_exact(&mut vec![0; said.len()]).await.unwrap();
        assert_eq!(all.count(), 3);
        let mut answer = async |bytes: &[u8]| {
            server.write_all(bytes).await.unwrap();
            server.flush().await.unwrap();
        };
        answer(&head(1, 4, 1)).await;
        assert_eq!(all.count(), 3, "the answer only begins");
        answer(&[head(0, 1, 1), head(3, 0, 1)].concat()).await;
        assert_eq!(all.count(), 2, "once, also where it is reset then");
        client.write_all(&head(3, 0, 5)).await.unwrap();
        server.read_exact(&mut [0; 9]).await.unwrap();
        assert_eq!(all.count(), 1);
        drop(server);
        assert_eq!(all.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_no_room_a_connection_that_has_its_share_is_not_read() {
        let all = Streams::new(3, 3, Open::default(), || {});
        let mut sides = [(); 2].map(|()| {
            let (client, server) = tokio::io::duplex(1 << 10);
            (client, Metered::new(server, Connection::new(false)).counted(&all))
        });
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let begins = |stream: u8| [0, 0, 0, 1, 4, 0, 0, 0, stream];
        let [(hoarder, hoards), (other, served)] = &mut sides;
        hoarder.write_all(&[&preface[..], &begins(1), &begins(3), &begins(5)].concat()).await.unwrap();
        hoards.read_exact(&mut vec![0; preface.len() + 27]).await.unwrap();
        hoarder.write_all(&begins(7)).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(9), hoards.read_u8()).await;
        assert!(read.is_err() && all.count() == 3, "there is no room for its fourth");
        other.write_all(&[&preface[..], &begins(1)].concat()).await.unwrap();
        served.read_exact(&mut vec![0; preface.len() + 9]).await.unwrap();
        assert_eq!(all.count(), 4, "who has none has room");
        drop(sides);
        assert_eq!(all.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_not_read_is_read_when_there_is_room() {
        let all = Streams::new(2, 2, Open::default(), || {});
        let (_listed, _other, hoard) = with(&all, 1);
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let mut server = Metered::new(server, Connection::new(false)).counted(&all);
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x01\x04\0\0\0\x01-").await.unwrap();
        server.read_exact(&mut [0; 33]).await.unwrap();
        let early = tokio::time::timeout(Duration::from_secs(1), server.read_u8()).await;
        assert!(early.is_err(), "there is no room");
        let (read, ()) = tokio::join!(server.read_u8(), async { drop(hoard) });
        assert_eq!(read.unwrap(), b'-');
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_those_go_whose_clients_owe_the_most_for_a_while() {
        let reached = Arc::new(AtomicUsize::new(0));
        let noted = reached.clone();
        let all = Streams::new(11, 1, Open::default(), move || _ = noted.fetch_add(1, Ordering::Relaxed));
        let look = async || {
            advance(Duration::from_secs(1)).await;
            all.look();
        };
        let (_listed, works, _streams) = with(&all, 6);
        let _calls = [(); 6].map(|()| call(&works));
        let (_listed, little, _streams) = with(&all, 1);
        let (_listed, most, hoard) = with(&all, 3);
        look().await;
        assert!(!most.leave.is_cancelled(), "as many as there may be");
        let (_listed, burst, mut more) = with(&all, 5);
        look().await;
        assert!(![&most, &burst].iter().any(|connection| connection.leave.is_cancelled()), "they may only have come");
        (0..3).for_each(|number| more.went(Says::End(2 * number + 1)));
        look().await;
        assert!(most.leave.is_cancelled());
        look().await;
        drop(hoard);
        look().await;
        let stay = [&works, &little, &burst].iter().all(|connection| !connection.leave.is_cancelled());
        assert!(stay && reached.load(Ordering::Relaxed) == 1, "those that go make room");
    }

    /// What it sent waits in the socket where it is not read: no debt of its client.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_served_stays_beside_those_that_are_not_with_their_share() {
        let all = Streams::new(10, 5, Open::default(), || {});
        let (_listed, hoards, _streams) = with(&all, 3);
        let (_listed, busy, _streams) = with(&all, 8);
        for _ in 0..2 {
            advance(LOOK_AGAIN).await;
            busy.moved();
            all.look();
        }
        assert!(hoards.leave.is_cancelled() && !busy.leave.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_between_two_calls_keeps_its_connection_while_others_owe() {
        let all = Streams::new(usize::MAX, 1, Open::default(), || {});
        let (_listed, kept, mut streams) = with(&all, 1);
        let served = call(&kept);
        served.piece_waits();
        served.piece_taken();
        drop(served);
        streams.went(Says::End(1));
        advance(Duration::from_millis(300)).await;
        let crowd = [(); 3].map(|()| {
            let (listed, connection, streams) = with(&all, 1);
            let call = call(&connection);
            call.piece_waits();
            (listed, connection, streams, call)
        });
        // The first of them are quiet for long enough after a few looks, of which each takes one.
        for _ in 0..8 {
            all.0.connections.evict();
            advance(Duration::from_millis(100)).await;
        }
        assert!(crowd.iter().all(|(_, connection, ..)| connection.leave.is_cancelled()), "they do not read");
        assert!(!kept.leave.is_cancelled(), "its client was served a moment ago");
        // It is no reason to keep others out for ever.
        advance(Duration::from_secs(2)).await;
        all.0.connections.evict();
        assert!(kept.leave.is_cancelled());
    }
}
