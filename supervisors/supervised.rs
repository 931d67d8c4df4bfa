//! The wrapper around every worker.
//!
//! Same messages, same arguments; each callback goes to the user's actor. What it adds must work for any death of the
//! actor without touching the user's code: it says which `ractor` actor an incarnation is, fills and empties the
//! [`Service`](crate::Service) slot, and drops the state before a graceful stop is reported.

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::node::Berth;
use crate::service::SlotGuard;

/// A user's actor under supervision.
pub(crate) struct Supervised<A: Actor> {
    actor: A,
    berth: Berth,
    slot: Option<SlotGuard<A::Msg>>,
}

/// The user's state; taken out at the end of `post_stop`, so that what it owns is closed before the exit is reported
/// and not whenever the supervisor gets to read the event.
pub(crate) struct Held<S>(Option<S>);

impl<S> Held<S> {
    fn get(&mut self) -> &mut S {
        self.0.as_mut().expect("the state is there until post_stop has returned, and no callback follows that")
    }
}

impl<A: Actor> Supervised<A> {
    pub(crate) fn new(actor: A, berth: Berth, slot: Option<SlotGuard<A::Msg>>) -> Self {
        Supervised { actor, berth, slot }
    }
}

impl<A: Actor> Actor for Supervised<A> {
    type Msg = A::Msg;
    type State = Held<A::State>;
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        self.berth.claim(myself.get_cell());
        let state = self.actor.pre_start(myself.clone(), arguments).await?;
        // Before the start is reported, so that the next sibling finds the slot full. What arrives now waits in the
        // mailbox for post_start.
        if let Some(slot) = &self.slot {
            slot.fill(myself);
        }
        Ok(Held(Some(state)))
    }

    async fn post_start(&self, myself: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        self.actor.post_start(myself, state.get()).await
    }

    async fn post_stop(&self, myself: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        if let Some(slot) = &self.slot {
            slot.vacate();
        }
        let result = self.actor.post_stop(myself, state.get()).await;
        state.0 = None;
        result
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.handle(myself, message, state.get()).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.actor.handle_supervisor_evt(myself, event, state.get()).await
    }
}
