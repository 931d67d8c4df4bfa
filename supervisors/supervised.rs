//! The wrapper around every worker.
//!
//! Same messages, same arguments; each callback goes to the user's actor. What it adds must work for any death of the
//! actor without touching the user's code: it says which `ractor` actor an incarnation is, and fills and empties the
//! [`Service`](crate::Service) slot.
//!
//! It keeps the user's state in itself and not in the `ractor` state, which travels inside the exit event to whenever
//! the supervisor reads it. So the state, and the file or port in it, is dropped in the actor's own task and before its
//! join handle completes, whatever the actor dies of; and a `Drop` that blocks or panics never does so in a supervisor.

use std::sync::{Mutex, PoisonError};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::node::Berth;
use crate::service::SlotGuard;

/// A user's actor under supervision.
pub(crate) struct Supervised<A: Actor> {
    actor: A,
    berth: Berth,
    // Dropped in this order: nobody is to find the slot full while the state goes.
    slot: Option<SlotGuard<A::Msg>>,
    /// Empty while a callback has it: a kill in the middle drops it with the callback.
    state: Mutex<Option<Box<A::State>>>,
}

impl<A: Actor> Supervised<A> {
    pub(crate) fn new(actor: A, berth: Berth, slot: Option<SlotGuard<A::Msg>>) -> Self {
        Supervised { actor, berth, slot, state: Mutex::new(None) }
    }

    fn take(&self) -> Box<A::State> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        state.expect("callbacks come one at a time, none before pre_start and none after post_stop or a panic")
    }

    fn put(&self, state: Box<A::State>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }
}

impl<A: Actor> Actor for Supervised<A> {
    type Msg = A::Msg;
    type State = ();
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<(), ActorProcessingErr> {
        self.berth.claim(myself.get_cell());
        let state = self.actor.pre_start(myself.clone(), arguments).await?;
        self.put(Box::new(state));
        // Before the start is reported, so that the next sibling finds the slot full. What arrives now waits in the
        // mailbox for post_start.
        if let Some(slot) = &self.slot {
            slot.fill(myself);
        }
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Self::Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut state = self.take();
        let result = self.actor.post_start(myself, &mut state).await;
        self.put(state);
        result
    }

    async fn post_stop(&self, myself: ActorRef<Self::Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if let Some(slot) = &self.slot {
            slot.vacate();
        }
        let mut state = self.take();
        self.actor.post_stop(myself, &mut state).await
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let mut state = self.take();
        let result = self.actor.handle(myself, message, &mut state).await;
        self.put(state);
        result
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let mut state = self.take();
        #[cfg(feature = "chaos")]
        self.berth.node.trap.spring();
        let result = self.actor.handle_supervisor_evt(myself, event, &mut state).await;
        self.put(state);
        result
    }
}
