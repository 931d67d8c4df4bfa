//! Dialing and shaking hands: the I/O around `handshake`, each within a bounded time.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::ConnectError;
use super::frame::{FrameKind, HEADER_BYTES, Header};
use super::handshake::{Conclusion, HelloAnswer};
use super::message::{Accepted, Message};
use super::shared::Shared;
use super::slot::LinkSlot;

/// After a refusal this much is read and thrown away, so that closing does not overtake the refusal.
const DISCARD_BYTES_MAX: usize = 16 << 10;

/// Looks the peer's address up and connects.
pub(super) async fn dial(shared: &Shared, slot: &LinkSlot) -> Result<TcpStream, ConnectError> {
    let address = &shared.addresses[&slot.peer];
    let unreachable = |error| ConnectError::Unreachable { address: address.clone(), error };
    let unresolved = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => unreachable(error),
        _ => ConnectError::Unresolved { address: address.clone(), error },
    };
    let connect = async {
        let candidates = look_up(slot, address).await.map_err(unresolved)?;
        let mut last = unresolved(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for candidate in candidates {
            match TcpStream::connect(candidate).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(unreachable)?;
                    return Ok(stream);
                }
                Err(error) => last = unreachable(error),
            }
        }
        Err(last)
    };
    match timeout(shared.settings.connect_timeout, connect).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectError::TimedOut(address.clone())),
    }
}

/// The system's resolver blocks for as long as it likes, so it gets a thread; one per link at most.
async fn look_up(slot: &LinkSlot, address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let busy = || io::Error::new(io::ErrorKind::WouldBlock, "an earlier name look-up still runs");
    let running = Arc::clone(&slot.lookup).try_acquire_owned().map_err(|_| busy())?;
    let address = address.to_owned();
    let look_up = tokio::task::spawn_blocking(move || {
        let _running = running;
        address.to_socket_addrs().map(Iterator::collect)
    });
    look_up.await.map_err(io::Error::other)?
}

/// The dialer's half of the handshake: the connection, and which process of the peer is at its other end.
pub(super) async fn greet(
    shared: &Shared,
    slot: &LinkSlot,
    mut stream: TcpStream,
    dial: u64,
) -> Result<(TcpStream, u64), ConnectError> {
    let exchange = async {
        stream.write_all(&shared.local.hello(slot.peer, slot.lane, dial)).await?;
        let (kind, payload) = read_greeting(&mut stream).await?;
        match shared.local.conclude(slot.peer, kind, &payload) {
            Conclusion::Joined { incarnation } => Ok(incarnation),
            Conclusion::Refused(reason) => Err(ConnectError::Refused(reason)),
            Conclusion::Close(malformed) => Err(malformed.into()),
        }
    };
    match timeout(shared.settings.handshake_timeout, exchange).await {
        Ok(outcome) => outcome.map(|incarnation| (stream, incarnation)),
        Err(_) => Err(ConnectError::Unanswered),
    }
}

/// The acceptor's half, up to handing the stream to its link.
pub(super) async fn receive(shared: &Shared, mut stream: TcpStream) {
    let deadline = Instant::now() + shared.settings.handshake_timeout;
    match timeout_at(deadline, answer(shared, &mut stream, deadline)).await {
        Ok(Ok(Answered::Joined { slot, incarnation, dial })) => {
            // Fails only if the link died just now: the stream closes and the peer dials again.
            let accepted = Accepted { stream, incarnation, dial };
            let _ = slot.link.try_cast(Message::Accepted(accepted));
        }
        Ok(Err(ConnectError::Malformed(malformed))) => {
            tracing::debug!(node = %shared.local.node, %malformed, "closed a connection to the peer port");
        }
        Ok(Ok(Answered::Refused) | Err(_)) | Err(_) => {}
    }
}

enum Answered {
    /// The ack is written.
    Joined { slot: Arc<LinkSlot>, incarnation: u64, dial: u64 },
    /// The refusal is written.
    Refused,
}

async fn answer(shared: &Shared, stream: &mut TcpStream, deadline: Instant) -> Result<Answered, ConnectError> {
    stream.set_nodelay(true)?;
    let (kind, payload) = read_greeting(stream).await?;
    match shared.local.answer(kind, &payload) {
        HelloAnswer::Accept { hello, lane, ack } => {
            let slot = Arc::clone(&shared.slots[&(hello.from, lane)]);
            // A link that is being restarted is worth waiting for: the ack says that it is there.
            if slot.link.wait(deadline).await.is_none() {
                return Err(ConnectError::Unanswered);
            }
            stream.write_all(&ack).await?;
            Ok(Answered::Joined { slot, incarnation: hello.incarnation, dial: hello.dial })
        }
        HelloAnswer::Refuse { from, refusal } => {
            shared.notices.refused(from, &refusal.to_string());
            // The refusal stands, whether or not the peer stays to read it.
            let _ = say_and_close(stream, refusal.frame()).await;
            Ok(Answered::Refused)
        }
        HelloAnswer::Close(malformed) => Err(malformed.into()),
    }
}

/// Closing with unread bytes would reset the connection and overtake `last_words`.
async fn say_and_close(stream: &mut TcpStream, last_words: Bytes) -> io::Result<()> {
    stream.write_all(&last_words).await?;
    stream.shutdown().await?;
    let mut discarded = 0;
    let mut scratch = [0; 1024];
    while discarded < DISCARD_BYTES_MAX {
        match stream.read(&mut scratch).await? {
            0 => break,
            count => discarded += count,
        }
    }
    Ok(())
}

/// Reads one frame of the handshake and not a byte more.
async fn read_greeting(stream: &mut TcpStream) -> Result<(FrameKind, Bytes), ConnectError> {
    let mut raw = [0; HEADER_BYTES];
    stream.read_exact(&mut raw).await?;
    let header = Header::parse(&raw, 0)?;
    let mut payload = BytesMut::zeroed(header.length);
    stream.read_exact(&mut payload).await?;
    header.verify(&payload)?;
    Ok((header.kind, payload.freeze()))
}
