//! The link actor: one per peer and lane.
//!
//! ```text
//!          this node has the higher id                 the peer has the higher id
//!
//!   start ──▶ Connecting{attempt} ◀───────┐           start ──▶ Listening ◀──┐
//!               │ connected       failed, │                       │ accepted │
//!               ▼                 refused │                       ▼          │ ended
//!             Handshaking{attempt} ───────┤                     Up{epoch} ───┘
//!               │ acknowledged            │                       │ ▲
//!               ▼                   ended │                       └─┘ accepted: the newer one wins,
//!             Up{epoch} ──────────────────┘                           Down{old} before Up{new}
//! ```
//!
//! `Connecting` includes the wait before the dial. A lost connection is a phase, never an exit: a dead
//! peer costs no restart. The actor itself only changes phases; dialing, shaking hands, reading and
//! writing happen in tasks that live in the phase and are aborted with it. Each task reports back with
//! the number of the dial or epoch it belongs to, also when it panics, so that what a former phase
//! left in the mailbox is told apart.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use converge_supervisors::ChildSpec;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::connection::{PONGS_MAX, Reader, Writer};
use super::error::{Cause, ConnectError};
use super::message::{Accepted, Message, SendOnDrop};
use super::shared::Shared;
use super::slot::{ConnectionGuard, LinkSlot, Opened};
use super::status::LinkPhase;
use super::types::Lane;
use super::{backoff, greeting};

/// Makes the spec of the link of `slot`.
pub(super) fn child_spec(shared: &Arc<Shared>, slot: &Arc<LinkSlot>) -> ChildSpec {
    let (shared, slot) = (Arc::clone(shared), Arc::clone(slot));
    let id = format!("{}-{}", slot.peer, slot.lane);
    let service = slot.link.clone();
    ChildSpec::service(id, &service, move || (Link, Arguments { shared: Arc::clone(&shared), slot: Arc::clone(&slot) }))
}

/// The link actor.
pub(super) struct Link;

/// What each incarnation starts from.
pub(super) struct Arguments {
    shared: Arc<Shared>,
    slot: Arc<LinkSlot>,
}

/// Dropping a phase ends its tasks, and with them its socket.
enum ConnectionPhase {
    Listening,
    Connecting { attempt: u32, dial: u64, _task: JoinSet<()> },
    Handshaking { attempt: u32, dial: u64, _task: JoinSet<()> },
    Up(Connection),
}

/// Who made a connection, and to or from which process of the peer.
enum Dialed {
    ByUs { attempt: u32, incarnation: u64 },
    ByPeer { incarnation: u64, dial: u64 },
}

struct Connection {
    /// First, so that the slot is emptied before the tasks are aborted.
    live: ConnectionGuard,
    _tasks: JoinSet<()>,
    attempt: u32,
    since: Instant,
    /// The peer's (incarnation, dial), if the peer dialed.
    origin: Option<(u64, u64)>,
}

/// The link actor's state.
pub(super) struct State {
    shared: Arc<Shared>,
    slot: Arc<LinkSlot>,
    owner: u64,
    phase: ConnectionPhase,
}

impl Drop for State {
    fn drop(&mut self) {
        self.slot.set_phase(self.owner, LinkPhase::Stopped);
    }
}

impl Actor for Link {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        Arguments { shared, slot }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let owner = slot.claim();
        let mut state = State { shared, slot, owner, phase: ConnectionPhase::Listening };
        state.idle(&myself, 0, Duration::ZERO);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Dialed { dial, outcome } => state.dialed(&myself, dial, outcome),
            Message::Greeted { dial, outcome } => state.greeted(&myself, dial, outcome),
            Message::Accepted(accepted) => state.accepted(&myself, accepted),
            Message::Ended { epoch, cause } => state.ended(&myself, epoch, &cause),
        }
        Ok(())
    }
}

impl State {
    fn enter(&mut self, phase: ConnectionPhase) {
        let shown = match &phase {
            ConnectionPhase::Listening => LinkPhase::Listening,
            ConnectionPhase::Connecting { attempt, .. } => LinkPhase::Connecting { attempt: *attempt },
            ConnectionPhase::Handshaking { attempt, .. } => LinkPhase::Handshaking { attempt: *attempt },
            ConnectionPhase::Up(connection) => LinkPhase::Up { epoch: connection.live.epoch },
        };
        self.phase = phase;
        self.slot.set_phase(self.owner, shown);
    }

    /// Without a connection: dial after `wait`, or expect the peer to.
    fn idle(&mut self, myself: &ActorRef<Message>, attempt: u32, wait: Duration) {
        if !self.shared.local.dials(self.slot.peer) {
            return self.enter(ConnectionPhase::Listening);
        }
        let dial = self.slot.next_dial();
        let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&self.slot));
        let mut report = SendOnDrop::new(myself, Message::Dialed { dial, outcome: Err(ConnectError::Lost) });
        let mut task = JoinSet::new();
        task.spawn(async move {
            sleep(wait).await;
            let outcome = greeting::dial(&shared, &slot).await;
            report.set(Message::Dialed { dial, outcome });
        });
        self.enter(ConnectionPhase::Connecting { attempt, dial, _task: task });
    }

    fn dialed(&mut self, myself: &ActorRef<Message>, of: u64, outcome: Result<TcpStream, ConnectError>) {
        let attempt = match self.phase {
            ConnectionPhase::Connecting { attempt, dial, .. } if dial == of => attempt,
            _ => return,
        };
        let stream = match outcome {
            Ok(stream) => stream,
            Err(failure) => return self.failed(myself, attempt, &failure),
        };
        let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&self.slot));
        let lost = Message::Greeted { dial: of, outcome: Err(ConnectError::Lost) };
        let mut report = SendOnDrop::new(myself, lost);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let outcome = greeting::greet(&shared, &slot, stream, of).await;
            report.set(Message::Greeted { dial: of, outcome });
        });
        self.enter(ConnectionPhase::Handshaking { attempt, dial: of, _task: task });
    }

    fn greeted(&mut self, myself: &ActorRef<Message>, of: u64, outcome: Result<(TcpStream, u64), ConnectError>) {
        let attempt = match self.phase {
            ConnectionPhase::Handshaking { attempt, dial, .. } if dial == of => attempt,
            _ => return,
        };
        match outcome {
            Ok((stream, incarnation)) => self.up(myself, stream, Dialed::ByUs { attempt, incarnation }),
            Err(failure) => self.failed(myself, attempt, &failure),
        }
    }

    fn accepted(&mut self, myself: &ActorRef<Message>, accepted: Accepted) {
        let origin = (accepted.incarnation, accepted.dial);
        if let ConnectionPhase::Up(Connection { origin: Some((incarnation, dial)), .. }) = self.phase
            && incarnation == origin.0
            && dial >= origin.1
        {
            // Two handshakes overtook each other; the peer has given this connection up already.
            return;
        }
        self.up(myself, accepted.stream, Dialed::ByPeer { incarnation: origin.0, dial: origin.1 });
    }

    fn up(&mut self, myself: &ActorRef<Message>, stream: TcpStream, dialed: Dialed) {
        let (incarnation, attempt, origin) = match dialed {
            Dialed::ByUs { attempt, incarnation } => (incarnation, attempt, None),
            Dialed::ByPeer { incarnation, dial } => (incarnation, 0, Some((incarnation, dial))),
        };
        let Opened { live, frames, end } = self.slot.open(incarnation);
        let epoch = live.epoch;
        let (pong_sender, pongs) = mpsc::channel(PONGS_MAX);
        let started = Instant::now();
        let reader = Reader {
            shared: Arc::clone(&self.shared),
            slot: Arc::clone(&self.slot),
            epoch,
            pongs: pong_sender,
            started,
        };
        let writer = Writer { shared: Arc::clone(&self.shared), slot: Arc::clone(&self.slot), frames, pongs, started };
        let (read_half, write_half) = stream.into_split();
        let mut tasks = JoinSet::new();
        let mut task = |run: std::pin::Pin<Box<dyn Future<Output = Cause> + Send>>| {
            let mut report = SendOnDrop::new(myself, Message::Ended { epoch, cause: Cause::Lost });
            let end = end.clone();
            tasks.spawn(async move {
                let cause = end.or(run).await;
                report.set(Message::Ended { epoch, cause });
            });
        };
        task(Box::pin(reader.run(read_half)));
        task(Box::pin(writer.run(write_half)));
        tracing::info!(
            node = %self.shared.local.node, peer = %self.slot.peer, lane = %self.slot.lane, epoch,
            "link up"
        );
        self.enter(ConnectionPhase::Up(Connection { live, _tasks: tasks, attempt, since: started, origin }));
    }

    fn failed(&mut self, myself: &ActorRef<Message>, attempt: u32, failure: &ConnectError) {
        let shared = Arc::clone(&self.shared);
        let unresolved = matches!(failure, ConnectError::Unresolved { .. }).then(|| failure.to_string());
        shared.notices.unresolved(self.slot.peer, unresolved);
        self.trouble(&failure.to_string());
        let refused = if let ConnectError::Refused(reason) = failure {
            // A peer that is older than the lane of calls refuses it and serves the others; what is wrong with all lanes,
            // the others tell.
            if self.slot.lane != Lane::Call {
                shared.notices.refused(self.slot.peer, reason);
            }
            true
        } else {
            false
        };
        // A refusal is a configuration that somebody has to change: nothing is won by haste.
        let wait = self.wait(if refused { u32::MAX } else { attempt });
        self.idle(myself, attempt.saturating_add(1), wait);
    }

    fn ended(&mut self, myself: &ActorRef<Message>, of: u64, cause: &Cause) {
        let ConnectionPhase::Up(connection) = &self.phase else {
            return;
        };
        if connection.live.epoch != of {
            return;
        }
        // A connection that did not last counts as a failed attempt.
        let lasted = connection.since.elapsed() >= self.shared.settings.backoff_max;
        let attempt = if lasted { 0 } else { connection.attempt };
        if lasted {
            self.slot.forget_trouble();
        }
        if matches!(cause, Cause::Malformed(_) | Cause::Rejected(_)) {
            self.slot.counters.malformed.fetch_add(1, Relaxed);
        }
        self.trouble(&cause.to_string());
        let wait = self.wait(attempt);
        self.idle(myself, attempt.saturating_add(1), wait);
    }

    fn wait(&self, attempt: u32) -> Duration {
        let settings = &self.shared.settings;
        backoff::delay(settings.backoff_first, settings.backoff_max, attempt, rand::random())
    }

    /// Says what went wrong, once until something else does.
    fn trouble(&self, error: &str) {
        let (node, peer, lane) = (self.shared.local.node, self.slot.peer, self.slot.lane);
        if self.slot.note_error(error) {
            tracing::info!(%node, %peer, %lane, error, "link down");
        } else {
            tracing::debug!(%node, %peer, %lane, error, "link still down");
        }
    }
}
