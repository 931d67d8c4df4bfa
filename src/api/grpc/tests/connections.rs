//! Which connections and calls stay, and which go when others want their places.

use std::future::Future;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use converge_ledger_core::chance::Dice;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::super::call::CallKind;
use super::super::connection::{Connection, Metered, Open};
use super::super::places::Pool;
use super::{PATIENCE, call, is_over, settings};

#[tokio::test]
async fn a_connection_whose_calls_only_watch_health_or_may_ask_goes_for_others() {
    let open = Open::default();
    let with = |kind: Option<CallKind>| {
        let connection = Connection::new(false);
        let call = kind.map(|kind| call(kind, &connection));
        (open.list(connection.clone()), connection, call)
    };
    let go = [None, Some(CallKind::HealthWatch), Some(CallKind::Other)].map(with);
    let stay = [CallKind::Append, CallKind::Read, CallKind::Watch, CallKind::Admin, CallKind::Health]
        .map(|kind| with(Some(kind)));
    for call in [&stay[2].2, &go[1].2, &go[2].2].into_iter().flatten() {
        // The answer so far was read.
        call.piece_waits();
        call.piece_taken();
    }
    let gone = async {
        while !go.iter().all(|(_, connection, _)| connection.leave.is_cancelled()) {
            open.evict();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    open.evict();
    assert!(!stay.iter().any(|(_, connection, _)| connection.leave.is_cancelled()));
}

#[tokio::test]
async fn the_time_of_a_call_counts_from_its_first_byte() {
    const SLOW: Duration = Duration::from_millis(50);
    const HEADERS: &[u8] = b"\x00\x00\x02\x01\x04\x00\x00\x00\x01\x83\x86";
    let connection = Connection::new(false);
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let mut server = Metered::new(server, connection.clone());
    let mut came = [0; 64];
    for part in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &HEADERS[..4], &HEADERS[4..]] {
        client.write_all(part).await.unwrap();
        assert_eq!(server.read(&mut came).await.unwrap(), part.len());
        tokio::time::sleep(SLOW).await;
    }
    let now = tokio::time::Instant::now();
    let (slow, next) = (call(CallKind::Append, &connection), call(CallKind::Append, &connection));
    let after = tokio::time::Instant::now();
    assert!(slow.arrived + SLOW <= after && slow.arrived + settings().deadline_default == slow.request_until);
    assert!(next.arrived >= now, "the next call is not late for it");
}

#[tokio::test]
async fn calls_that_wait_for_their_clients_go_when_others_want_their_places() {
    let (pool, connection) = (Pool::new(3), Connection::new(false));
    let [works, waits, is_unread, next] = [CallKind::Append; 4].map(|kind| call(kind, &connection));
    let _places = [&works, &waits, &is_unread].map(|call| pool.take(call).unwrap());
    waits.set_at_work(false);
    is_unread.piece_waits();
    let crowd = async {
        loop {
            assert!(pool.take(&next).is_none() && pool.count() == 3, "their places are free when they are gone");
            // Others on the same connection keep none of them.
            connection.moved();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = crowd => {}
        both = tokio::time::timeout(PATIENCE, async { tokio::join!(waits.over(), is_unread.over()) }) => drop(both.unwrap()),
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), works.over()).await.is_err());
}

/// What the node makes its client wait for is no fault of the client: it is waited for only from when there is something.
#[tokio::test(start_paused = true)]
async fn a_client_is_waited_for_from_when_there_is_something_to_take() {
    let (pool, open) = (Pool::new(2), Open::default());
    let with = |kind| {
        let connection = Connection::new(false);
        let call = call(kind, &connection);
        (pool.take(&call).unwrap(), open.list(connection.clone()), connection, call)
    };
    // The watch is quiet for an hour; then comes the read, whose answer is not read.
    let (_place, _listed, watching, watch) = with(CallKind::Watch);
    tokio::time::advance(Duration::from_secs(3600)).await;
    let (_place, _listed, reading, read) = with(CallKind::Read);
    read.piece_waits();
    tokio::time::advance(Duration::from_secs(5)).await;
    // An entry comes.
    watch.piece_waits();
    pool.make_room();
    open.evict();
    assert!(is_over(&read).await && !is_over(&watch).await);
    assert!(reading.leave.is_cancelled() && !watching.leave.is_cancelled());
    tokio::time::advance(Duration::from_secs(5)).await;
    pool.make_room();
    open.evict();
    assert!(is_over(&watch).await && watching.leave.is_cancelled(), "it does not read");
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_of_health_goes_when_others_want_its_place_the_oldest_first() {
    let (pool, connection) = (Pool::new(2), Connection::new(false));
    let [old, young, next] = [CallKind::HealthWatch; 3].map(|kind| call(kind, &connection));
    let places = [&old, &young].map(|call| pool.take(call).unwrap());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(pool.take(&next).is_none());
    assert!(is_over(&old).await && !is_over(&young).await);
    drop(places);
    assert!(pool.take(&next).is_some());
}

/// While a node is stopped, by a signal or with its machine, what its clients send waits in its sockets.
#[tokio::test(start_paused = true)]
async fn a_pause_of_the_node_is_not_held_against_its_clients() {
    const PAUSE: Duration = Duration::from_secs(3600);
    const RUN: Duration = Duration::from_secs(60);
    const SAID: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x06";
    let connection = Connection::new(false);
    let (mut client, server) = tokio::io::duplex(1 << 10);
    let mut server = Metered::new(server, connection.clone());
    let mut come = async |bytes: &'static [u8]| {
        client.write_all(bytes).await.unwrap();
        assert_eq!(server.read(&mut [0; 64]).await.unwrap(), bytes.len());
    };
    let mut outstays = std::pin::pin!(connection.outstays());
    let mut goes = async |after| tokio::time::timeout(after, outstays.as_mut()).await.ok();
    // Before the preface, then within a frame, then before an answer is in the socket.
    assert_eq!(goes(Duration::from_secs(3)).await, None);
    tokio::time::advance(PAUSE).await;
    assert_eq!(goes(Duration::ZERO).await, None);
    come(SAID).await;
    assert_eq!(goes(Duration::from_secs(3)).await, None);
    tokio::time::advance(PAUSE).await;
    assert_eq!(goes(Duration::ZERO).await, None);
    come(&[0; 13]).await;
    assert_eq!(goes(RUN).await, None);
    let turn = connection.unread();
    for _ in 0..3 {
        tokio::time::advance(PAUSE).await;
        assert_eq!(goes(Duration::ZERO).await, None);
    }
    connection.read(turn);
    assert_eq!(goes(RUN).await, None);
    come(&SAID[24..30]).await;
    assert!(goes(RUN).await.is_some_and(|why| why.contains("a frame")), "while it runs, time counts");
}

#[test]
fn a_connection_takes_one_place_for_all_its_watches() {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let (one, other) = (Connection::new(false), Connection::new(false));
    let (first, second) = (one.watch(&places), one.watch(&places));
    assert!(first.is_some() && second.is_some());
    assert!(other.watch(&places).is_none());
    drop(first);
    assert!(other.watch(&places).is_none(), "it still has one");
    drop(second);
    assert!(other.watch(&places).is_some());
}

/// A socket that takes so many bytes at once; what it took, and with how many calls.
struct Taking {
    most: usize,
    took: Vec<u8>,
    calls: usize,
}

impl AsyncWrite for Taking {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let count = bytes.len().min(self.most);
        self.took.extend_from_slice(&bytes[..count]);
        self.calls += 1;
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let all: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.poll_write(context, &all)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a future comes to where it does not wait.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn taking(most: usize) -> Taking {
    Taking { most, took: Vec::new(), calls: 0 }
}

/// So small pieces are written at once, and those of other calls that are at work come along.
#[tokio::test]
async fn answers_that_are_ready_together_leave_together() {
    let connection = Connection::new(false);
    let mut socket = taking(usize::MAX);
    let mut server = Metered::new(&mut socket, connection.clone());
    server.write_all(b"head").await.unwrap();
    server.write_all(b"body").await.unwrap();
    assert_eq!(connection.sent(), 0, "what is held has not left");
    at_once(server.flush()).expect("nobody else has an answer to come").unwrap();
    assert_eq!(connection.sent(), 8);
    let other = call(CallKind::Append, &connection);
    server.write_all(b"one").await.unwrap();
    assert!(at_once(server.flush()).is_none(), "the others have their turn");
    server.write_all(b"two").await.unwrap();
    at_once(server.flush()).expect("their turn is over").unwrap();
    other.set_at_work(false);
    server.write_all(b"the end").await.unwrap();
    server.shutdown().await.unwrap();
    drop(server);
    assert_eq!((socket.calls, &socket.took[..]), (3, &b"headbodyonetwothe end"[..]));
}

/// Whatever the pieces, and however little the socket takes at once, the bytes stay in order, and all are counted.
#[tokio::test]
async fn what_is_held_leaves_in_front_of_what_follows() {
    let mut dice = Dice(11);
    for most in [1, 700, usize::MAX] {
        let connection = Connection::new(false);
        let _other = call(CallKind::Append, &connection);
        let (mut socket, mut said) = (taking(most), Vec::new());
        let mut server = Metered::new(&mut socket, connection.clone());
        for _ in 0..40 {
            let length_max = if dice.below(4) == 0 { 20_000 } else { 300 };
            let length = dice.below(length_max) as usize;
            let piece = dice.bytes(length);
            said.extend_from_slice(&piece);
            server.write_all(&piece).await.unwrap();
            if dice.below(3) == 0 {
                server.flush().await.unwrap();
                assert_eq!(connection.sent(), said.len() as u64);
            }
        }
        server.flush().await.unwrap();
        drop(server);
        assert!(socket.took == said, "at {most} bytes a time");
        assert_eq!(connection.sent(), said.len() as u64);
    }
}
