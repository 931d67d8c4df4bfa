//! The accept loop of the client port.
//!
//! Owns nothing but a clone of a socket that was bound before the tree: while
//! this actor is dead, connections wait in the kernel's backlog. Streams go to
//! `connections`; a place is taken before a connection is accepted, so that the
//! backlog feels when there are as many as there may be.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use converge_supervisors::Service;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::connections;

/// How long a fresh connection waits for `connections` to be restarted.
const HAND_OVER: Duration = Duration::from_secs(5);
/// Pause after a failed accept: out of file descriptors, most of the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What both actors of the API know of each other.
#[derive(Clone)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    draining: Arc<AtomicBool>,
}

impl Gate {
    pub(super) fn new(connections: usize) -> Self {
        Gate { places: Arc::new(Semaphore::new(connections)), draining: Arc::default() }
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

pub(super) struct Args {
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
    Ended,
}

pub(super) struct Listener;

impl Actor for Listener {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let socket = args.socket.try_clone()?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let accept = tokio::spawn(async move {
            // Told also when the loop panics.
            let _ended = Ended(myself);
            accept(socket, args.connections, args.gate).await;
        });
        Ok(State { accept })
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, _: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ended => Err("the accept loop ended".into()),
        }
    }
}

struct Ended(ActorRef<Message>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.cast(Message::Ended);
    }
}

async fn accept(socket: tokio::net::TcpListener, connections: Service<connections::Message>, gate: Gate) {
    loop {
        let Ok(place) = gate.places.clone().acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok((stream, _)) if gate.is_draining() => drop(stream),
            Ok((stream, _)) => hand_over(&connections, stream, place).await,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection: check the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn hand_over(connections: &Service<connections::Message>, stream: TcpStream, place: OwnedSemaphorePermit) {
    let message = connections::Message::Serve(stream, place);
    let Err(message) = connections.try_cast(message) else {
        return;
    };
    // Being restarted. Who connects meanwhile waits in the backlog.
    if connections.wait(Instant::now() + HAND_OVER).await.is_some() {
        let _ = connections.try_cast(message);
    }
}
