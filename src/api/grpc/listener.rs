//! The accept loop of the client port.
//!
//! Owns nothing but a clone of a socket that was bound before the tree: while
//! this actor is dead, connections wait in the kernel's backlog. Streams go to
//! `connections`, with a place. Where there is none, connections that wait for
//! their clients go; where none of them does, the new one gets a place of those
//! that are kept for the operator, and others wait in the backlog.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use converge_supervisors::Service;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Settings;
use super::connection::Open;
use super::connections;
use super::streams::{Streams, streams_max};
use crate::Ledger;

/// How long a fresh connection waits for `connections` to be restarted.
const HAND_OVER: Duration = Duration::from_secs(5);
/// Pause after a failed accept: out of file descriptors, most of the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Of all connections, so many are kept for the operator; of few, one in so many.
const OPERATORS: usize = 8;
const OPERATORS_PART: usize = 8;
/// Those that go leave their places within this, most of the time.
const EVICTION: Duration = Duration::from_millis(200);

/// What both actors of the API know of each other.
#[derive(Clone)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    operators: Arc<Semaphore>,
    draining: Arc<AtomicBool>,
    pub(super) open: Open,
    pub(super) streams: Streams,
    ledger: Ledger,
}

/// A place among the connections, until it is dropped.
pub(super) struct ConnectionPlace {
    #[allow(dead_code, reason = "held for its drop")]
    permit: OwnedSemaphorePermit,
    operators: bool,
}

impl ConnectionPlace {
    /// It is kept for the operator.
    pub(super) fn is_operators(&self) -> bool {
        self.operators
    }
}

impl Gate {
    pub(super) fn new(settings: &Settings, ledger: Ledger) -> Self {
        let connections = settings.connections;
        let kept = OPERATORS.min(connections / OPERATORS_PART);
        let places = |count| Arc::new(Semaphore::new(count));
        let (places, operators) = (places(connections - kept), places(kept));
        let (open, reached) = (Open::default(), ledger.clone());
        let streams = Streams::new(streams_max(settings), settings.connections, open.clone(), move || {
            let advice = "connections with more than their share are not read until there is room, and those whose clients do not send \
                 or read what they began are closed: use fewer calls at once";
            reached.inner.reached.note("streams (grpc.requests and grpc.watches)", advice);
        });
        Gate { places, operators, draining: Arc::default(), open, streams, ledger }
    }

    /// A place for a connection that has come.
    async fn place(&self) -> Option<ConnectionPlace> {
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Some(ConnectionPlace { permit, operators: false });
        }
        let advice = "those that wait for their clients are closed in favour of new ones: raise it, or use fewer";
        self.ledger.inner.reached.note("grpc.connections", advice);
        while !self.is_draining() {
            self.open.evict();
            match tokio::time::timeout(EVICTION, self.places.clone().acquire_owned()).await {
                Ok(permit) => return Some(ConnectionPlace { permit: permit.ok()?, operators: false }),
                Err(_) => {
                    if let Ok(permit) = self.operators.clone().try_acquire_owned() {
                        return Some(ConnectionPlace { permit, operators: true });
                    }
                }
            }
        }
        None
    }

    /// While draining, fresh connections are closed at once, so that their
    /// clients turn to another node.
    pub(super) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Release);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

pub(super) struct Arguments {
    pub(super) socket: Arc<TcpListener>,
    pub(super) connections: Service<connections::Message>,
    pub(super) gate: Gate,
}

pub(super) struct State {
    accept: tokio::task::JoinHandle<()>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

pub(super) enum Message {
    /// The accept loop is gone, which it never is by itself.
    AcceptEnded,
}

pub(super) struct Listener;

impl Actor for Listener {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Arguments) -> Result<State, ActorProcessingErr> {
        let accept = tokio::spawn(async move {
            // Told also when the loop panics.
            let _ended = AcceptEnded(myself);
            let socket = cloned(&args.socket).await;
            accept(socket, args.connections, args.gate).await;
        });
        Ok(State { accept })
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, _: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::AcceptEnded => Err("the accept loop ended".into()),
        }
    }
}

struct AcceptEnded(ActorRef<Message>);

impl Drop for AcceptEnded {
    fn drop(&mut self) {
        let _ = self.0.cast(Message::AcceptEnded);
    }
}

/// The socket, however long it takes until there is a descriptor for it: a lack of one is no reason to die.
async fn cloned(socket: &TcpListener) -> tokio::net::TcpListener {
    let clone = || {
        let socket = socket.try_clone()?;
        socket.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(socket)
    };
    loop {
        match clone() {
            Ok(socket) => return socket,
            Err(error) => {
                tracing::warn!(%error, "cannot listen for clients: check the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(socket: tokio::net::TcpListener, connections: Service<connections::Message>, gate: Gate) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) if gate.is_draining() => drop(stream),
            Ok((stream, _)) => {
                if let Some(place) = gate.place().await {
                    hand_over(&connections, stream, place).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection: check the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn hand_over(connections: &Service<connections::Message>, stream: TcpStream, place: ConnectionPlace) {
    let message = connections::Message::Serve(stream, place);
    let Err(message) = connections.try_cast(message) else {
        return;
    };
    // Being restarted. Who connects meanwhile waits in the backlog.
    if connections.wait(Instant::now() + HAND_OVER).await.is_some() {
        let _ = connections.try_cast(message);
    }
}
