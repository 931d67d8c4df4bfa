//! The supervisor actor: a thin shell around the machine of `strategy`.
//!
//! Turns exit events and minders' reports into inputs of the machine, and its effects into orders. It never awaits a
//! child in a handler, so it always reads its mailbox, unless it is suspended; only `post_stop`, which nothing follows,
//! awaits the ordered stop of what is left.
//!
//! What it is told and asked is in `message`, what it knows in `state`, what it does about effects in `effects`. Requests
//! about single children are in `control`, each callback's way past chaos and past death in `turn`.

mod control;
mod effects;
mod message;
mod parked;
mod state;
mod turn;

use std::pin::pin;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::gone::Alive;
use crate::hook::kind_of;
use crate::supervised::Kept;
use crate::vitals::Callback;

pub(crate) use message::{Msg, Orders, Setup};
use state::State;
use turn::Turn;

/// The actor; all it knows is in its state. As in `supervised`, that is not the `ractor` state, which would go into the
/// exit event: who waits for an answer, and the minders of children that start, would learn of a death only when the
/// parent reads its events, which one in its `post_stop` never does, and a foreign one when it likes.
pub(crate) struct Supervisor {
    state: Kept<State>,
    /// What those who wait for an answer watch.
    alive: Alive,
}

impl Supervisor {
    pub(crate) fn new() -> Supervisor {
        Supervisor { state: Kept::new(), alive: Alive::new() }
    }
}

impl Actor for Supervisor {
    type Msg = Msg;
    type State = ();
    type Arguments = Setup;

    async fn pre_start(&self, myself: ActorRef<Msg>, setup: Setup) -> Result<(), ActorProcessingErr> {
        setup.incarnation.claim(myself.get_cell(), Some(self.alive.watch()));
        let turn = Turn::new(&setup.incarnation, Callback::PreStart);
        let state = turn.run(pin!(async { State::new(myself, setup) })).await?;
        self.state.put(Box::new(state));
        Ok(())
    }

    /// Nothing of a predecessor is left: its minder has seen to that before this one was started.
    async fn post_start(&self, _: ActorRef<Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        let turn = Turn::new(&state.incarnation, Callback::PostStart);
        turn.run(pin!(async {
            state.boot();
            Ok(())
        }))
        .await?;
        self.state.put(state);
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Msg>, msg: Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        let turn = Turn::new(&state.incarnation, Callback::Handle).of(|| msg.kind());
        turn.run(pin!(async {
            let node = Arc::clone(state.node());
            node.pulse.awake().await;
            let busy = node.pulse.enter(Callback::Handle);
            match msg {
                Msg::Report { child, incarnation, report } => state.reported(child, incarnation, report),
                Msg::Elapsed { child, ticket } => state.elapsed(child, ticket),
                Msg::Control(control) => state.control(control),
            }
            state.retry_parked();
            busy.handled(false);
            Ok(())
        }))
        .await?;
        self.state.put(state);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Msg>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        // One that came to make this run a callback is no child, and nobody hears of it.
        state.node().hook.swallows(&event);
        let turn = Turn::new(&state.incarnation, Callback::HandleEvent).of(|| kind_of(&event));
        turn.run(pin!(async {
            let node = Arc::clone(state.node());
            let _busy = node.pulse.enter(Callback::HandleEvent);
            state.hear(event);
            Ok(())
        }))
        .await?;
        self.state.put(state);
        Ok(())
    }

    /// Reached without the machine being done when someone stopped this actor: its parent, in an ordered stop, or
    /// anyone who holds its cell.
    async fn post_stop(&self, _: ActorRef<Msg>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut state = self.state.take();
        let turn = Turn::new(&state.incarnation, Callback::PostStop);
        turn.run(pin!(async {
            let node = Arc::clone(state.node());
            let _busy = node.pulse.enter(Callback::PostStop);
            state.stop_all().await;
            Ok(())
        }))
        .await
    }
}
