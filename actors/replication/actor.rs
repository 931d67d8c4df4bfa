//! The actor.

use std::sync::Arc;

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};

use super::args::Arguments;
use super::message::Message;
use super::state::State;
use super::view::Published;

/// The actor.
pub(super) struct Raft {
    published: Arc<Published>,
}

impl Raft {
    pub(super) fn new(published: Arc<Published>) -> Raft {
        Raft { published }
    }
}

impl Actor for Raft {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Arguments) -> Result<State, ActorProcessingErr> {
        let recovered = match args.storage.recover().await {
            Ok(recovered) => Some(recovered),
            // Expected trouble is a phase: this node stays up to say what happened.
            Err(error) if error.is_fenced() => None,
            Err(error) => return Err(error.into()),
        };
        let mut state = State::new(args, self.published.clone(), myself, recovered.as_ref());
        if let Some(recovered) = recovered {
            state.enter(recovered).await?;
        }
        state.publish();
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Tick => state.tick()?,
            Message::Frame(received) => state.frame(received).await?,
            Message::Link(event) => state.link(event)?,
            Message::Shed(peer) => drop(state.drive(|core, out| core.unreachable(peer, out))?),
            Message::Propose { data, refused } => {
                if let Err(hint) = state.propose(data)? {
                    refused(hint);
                }
            }
            Message::Read { reply } => state.read(reply)?,
            Message::KeepOffice => state.keep_office()?,
            Message::HandOver { heir, leaves, reply } => drop(reply.send(state.hand_over(heir, leaves)?)),
            Message::Persisted { number, result } => state.persisted(number, result)?,
            Message::Applied(index) => state.applied(index)?,
            Message::Fetched { low, result } => state.fetched(low, result)?,
        }
        state.publish();
        Ok(())
    }
}
