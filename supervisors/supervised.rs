//! The wrapper around every worker.
//!
//! Same messages, same arguments; each callback goes to the user's actor. What it adds must work for any death of the
//! actor without touching the user's code: it says which `ractor` actor an incarnation is, fills and empties the
//! [`Service`](crate::Service) slot, keeps the [`Vitals`](crate::Vitals), holds messages back from a suspended actor,
//! and is where chaos strikes.
//!
//! It keeps the user's state in itself and not in the `ractor` state, which travels inside the exit event to whenever
//! the supervisor reads it. So the state, and the file or port in it, is dropped in the actor's own task and before its
//! join handle completes, whatever the actor dies of; and a `Drop` that blocks or panics never does so in a supervisor.

use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::hook::{MessageKind, Occasion, kind_of};
use crate::linked::NotedAtEnd;
use crate::node::Incarnation;
use crate::service::SlotGuard;
use crate::vitals::{Callback, Pulse};

/// A user's actor under supervision.
pub(crate) struct Supervised<A: Actor> {
    actor: A,
    incarnation: Incarnation,
    // Dropped in this order: nobody is to find the slot full while the state goes.
    slot: Option<SlotGuard<A::Msg>>,
    state: Kept<A::State>,
}

/// An actor's state, in the actor itself. Empty while a callback has it: a kill in the middle drops it with the callback.
pub(crate) struct Kept<S>(Mutex<Option<Box<S>>>);

impl<S> Kept<S> {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Kept(Mutex::new(None))
    }

    pub(crate) fn take(&self) -> Box<S> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        state.expect("callbacks come one at a time, none before pre_start and none after post_stop or a panic")
    }

    pub(crate) fn put(&self, state: Box<S>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }
}

impl<A: Actor> Supervised<A> {
    pub(crate) fn new(actor: A, incarnation: Incarnation, slot: Option<SlotGuard<A::Msg>>) -> Self {
        Supervised { actor, incarnation, slot, state: Kept::new() }
    }

    fn pulse(&self) -> &Pulse {
        &self.incarnation.node.pulse
    }

    /// Runs a callback under the eyes of those who look. Pinned by the caller: its future is not moved, for it may be
    /// large.
    async fn run<T, F>(
        &self,
        callback: Callback,
        kind: Option<MessageKind>,
        myself: &ActorRef<A::Msg>,
        future: Pin<&mut F>,
    ) -> Result<T, ActorProcessingErr>
    where
        F: Future<Output = Result<T, ActorProcessingErr>>,
    {
        let Incarnation { node, number } = &self.incarnation;
        let _noted = NotedAtEnd(&node.linked, myself);
        let future = pin!(node.hook.through(node, Occasion::new(*number, callback, kind), future));
        node.pulse.enter(callback).run(future).await
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
        self.incarnation.claim(myself.get_cell(), None);
        let call = pin!(self.actor.pre_start(myself.clone(), arguments));
        let state = self.run(Callback::PreStart, None, &myself, call).await?;
        self.state.put(Box::new(state));
        // Before the start is reported, so that the next sibling finds the slot full. What arrives now waits in the
        // mailbox for post_start.
        if let Some(slot) = &self.slot {
            slot.fill(myself)?;
        }
        Ok(())
    }

    async fn post_start(&self, myself: ActorRef<Self::Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        let result = {
            let call = pin!(self.actor.post_start(myself.clone(), &mut state));
            self.run(Callback::PostStart, None, &myself, call).await
        };
        self.state.put(state);
        result
    }

    async fn post_stop(&self, myself: ActorRef<Self::Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if let Some(slot) = &self.slot {
            slot.vacate();
        }
        let mut state = self.state.take();
        let call = pin!(self.actor.post_stop(myself.clone(), &mut state));
        self.run(Callback::PostStop, None, &myself, call).await?;
        self.incarnation.stopped_well();
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        self.pulse().awake().await;
        self.pulse().taken();
        let kind = self.incarnation.node.hook.kind(|| kind_of(&message));
        let mut state = self.state.take();
        let result = {
            let call = pin!(self.actor.handle(myself.clone(), message, &mut state));
            self.run(Callback::Handle, kind, &myself, call).await
        };
        self.state.put(state);
        result
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        self.pulse().awake().await;
        if self.incarnation.node.hook.swallows(&event) {
            let nothing = pin!(async { Ok(()) });
            return self.run(Callback::HandleEvent, None, &myself, nothing).await;
        }
        let mut state = self.state.take();
        let result = {
            let call = pin!(self.actor.handle_supervisor_evt(myself.clone(), event, &mut state));
            self.run(Callback::HandleEvent, None, &myself, call).await
        };
        self.state.put(state);
        result
    }
}
