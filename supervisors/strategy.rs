//! What a supervisor decides, as a pure state machine.
//!
//! Inputs go in, effects come out; nothing here awaits, spawns or knows an actor. It owns the children's states as the
//! supervisor believes them to be, the restart intensity, and the phase. It deliberately knows no incarnations: the
//! shell drops reports about old ones, so an input is always about the current one.
//!
//! What goes in and out is in `types`, what is believed in `state`, what an input comes to in `inputs`. What people ask of
//! single children (`start_child` and its relatives) is in `control`, how many are started and stopped in order in `order`,
//! when the end of a significant child ends the supervisor in `significant`.
//!
//! ```text
//!            Boot              all up
//!   Idle ───────────▶ Starting ───────▶ Running
//!                      ▲    │             │  a child of a group fails (rest_for_one, one_for_all)
//!        group is down │    ▼             ▼
//!                      └── Stopping { then: Start } ◀┘
//!                           │  intensity passed, a first start failed, auto-shutdown, Shutdown
//!                           ▼
//!                          Stopping { then: Exit } ───────▶ Done
//!                                                   all down
//! ```
//!
//! Under `OneForOne` a restart concerns one child and no phase: several can be under way at once. A dynamic supervisor
//! is `OneForOne` without children to begin with; it forgets a child that is down, and stops all at once.

mod control;
mod inputs;
mod order;
mod significant;
mod state;
mod types;

pub(crate) use state::Machine;
pub(crate) use types::{
    Effect, ExitCause, Input, Place, Refusal, Request, RequestOutcome, Rules, Stage, StartFailure, Terms,
};

#[cfg(test)]
mod tests;
