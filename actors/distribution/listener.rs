//! The listener actor: accepts at the peer port, and shakes hands with whoever comes.
//!
//! It owns a clone of a socket that was bound before the tree, so while it is restarted the kernel
//! goes on queueing connections. Handshakes are bounded in time and number; when there are too many,
//! the oldest makes room, so strangers that only hold connections open keep no peer out. A finished
//! handshake is handed to the link; none belongs to this actor for longer.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use converge_supervisors::ChildSpec;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::greeting;
use super::lock::lock;
use super::message::SendOnDrop;
use super::shared::Shared;

/// Pause after a failed accept: the usual cause, no free file descriptor, does not pass by trying.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A warning for so many failed tries.
const WARN_EVERY: u64 = 200;

/// Makes the listener's spec.
pub(super) fn child_spec(shared: &Arc<Shared>) -> ChildSpec {
    let shared = Arc::clone(shared);
    ChildSpec::actor("listener", move || (PeerListener, Arc::clone(&shared)))
}

/// The listener actor.
pub(super) struct PeerListener;

/// The listener has nothing to be told but this.
pub(super) enum Message {
    /// The accept loop ended, which it never does unless it panicked.
    AcceptEnded,
}

/// Dropping it ends the accept loop and every handshake under way.
pub(super) struct State {
    _accepting: JoinSet<()>,
}

impl Actor for PeerListener {
    type Msg = Message;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(&self, myself: ActorRef<Message>, shared: Arc<Shared>) -> Result<State, ActorProcessingErr> {
        let mut accepting = JoinSet::new();
        let ended = SendOnDrop::new(&myself, Message::AcceptEnded);
        accepting.spawn(async move {
            let _ended = ended;
            loop {
                let cloned = clone_of(lock(&shared.socket).as_ref());
                match cloned {
                    Ok(listener) => return accept(shared, listener).await,
                    // A lack of descriptors is no reason to die.
                    Err(error) => failed(&shared, &error).await,
                }
            }
        });
        Ok(State { _accepting: accepting })
    }

    async fn handle(&self, _: ActorRef<Message>, message: Message, _: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Message::AcceptEnded => Err("the accept loop of the peer port ended".into()),
        }
    }
}

fn clone_of(socket: Option<&std::net::TcpListener>) -> io::Result<TcpListener> {
    let socket = socket.ok_or_else(|| io::Error::other("no peer port was bound"))?.try_clone()?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut handshakes = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    failed(&shared, &error).await;
                    continue;
                }
            },
            Some(_) = handshakes.join_next() => {
                oldest_first.retain(|handshake| !handshake.is_finished());
                continue;
            }
        };
        if oldest_first.len() >= shared.settings.handshakes_max
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
            shared.arrivals.crowd_out(shared.local.node, shared.settings.handshakes_max);
        }
        let shared = Arc::clone(&shared);
        oldest_first.push_back(handshakes.spawn(async move { greeting::receive(&shared, stream).await }));
    }
}

/// Says it once in many times, for it comes back with every try, and pauses.
async fn failed(shared: &Shared, error: &io::Error) {
    if shared.arrivals.accept_errors.fetch_add(1, Relaxed).is_multiple_of(WARN_EVERY) {
        tracing::warn!(node = %shared.local.node, %error, "cannot accept at the peer port: check the limit of open files");
    }
    sleep(ACCEPT_PAUSE).await;
}
