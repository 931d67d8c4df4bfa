//! The Raft node as an actor: it orders, replicates and commits, and nothing else.
//!
//! Owns the `raft` crate's state machine (`core`); no other module names that crate. Does not store (that
//! is `storage`), does not know entries (a batch is bytes here), and answers no client.
//!
//! A restart is a real restart: `pre_start` asks storage for what is durable and starts a Raft node from that.
//!
//! ```text
//!             ┌──────────┐  genesis synced   ┌─────────┐  storage fenced, log tail lost
//!  recover ──▶│ Forming  │──────────────────▶│ Running │──────────────────────────────┐
//!     │       └────┬─────┘                   └─────────┘                              ▼
//!     │            │ listed with another store  ▲                               ┌──────────┐
//!     │            ▼                            │                               │  Silent  │
//!     │        ┌────────┐   genesis on disk     │        genesis names others   └──────────┘
//!     └───────▶│ Wrong  │◀──────────────────────┴──── (configuration differs) ──▶ Wrong
//!              └────────┘
//! ```
//! `Silent` and `Wrong` neither vote nor acknowledge. `Wrong` is reported through [`Arguments::fatal`] and the node
//! stops; `Silent` stays, so that status and alarms can say why.
//!
//! Touches invariants S1, S2, S8 and 6, 8, 9: how is said at `core` and `Core::persisted`.

mod actor;
mod args;
mod core;
mod fetch;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod genesis;
mod handle;
mod handover;
mod history;
mod inbound;
mod judge;
#[cfg(any(test, feature = "fuzzing"))]
mod live;
mod log;
mod message;
mod outage;
mod reads;
mod received;
mod shell;
#[cfg(test)]
mod simulation;
mod start;
mod state;
mod ticks;
mod unapplied;
mod view;
mod voters;
pub mod wire;

pub use self::args::{Arguments, Fatal};
pub use self::core::Bounds;
pub use self::handle::Replication;
pub use self::handover::NotHandedOver;
pub use self::message::{ReadError, Refused};
pub use self::ticks::NO_LEADER_ELECTIONS;
pub use self::view::{Overfull, Role, View};
