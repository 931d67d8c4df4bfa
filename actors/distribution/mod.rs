//! Links between the nodes of a cluster.
//!
//! **Job**: keep one TCP connection per (peer, [`Lane`]) alive, and move bounded frames over it.
//! **Owns**: the peer port's listener, the sockets of all links, their queues and credits.
//! **Does not do**: it reads no payload (but [`calls`] those of its lane), routes nothing, retries nothing. A frame that was queued when
//! a connection ended is gone; whoever sent it learns of the end by [`LinkEvent::Down`]. Addresses are
//! a static list; there is no discovery yet. Nothing is authenticated or encrypted: the peer port
//! belongs on a private network.
//!
//! ```text
//! distribution            (a supervisor of the application)
//! ├─ links                one_for_one
//! │  ├─ 1-control         one link per peer and lane: a phase machine, see `link`
//! │  ├─ 1-append
//! │  └─ …
//! └─ listener             accepts on a socket bound before the tree, shakes hands
//! ```
//!
//! What users rely on:
//! - Of two nodes the one with the **higher id dials**. A connection is bidirectional.
//! - Each connection has an **epoch**: it rises within a process (each side counts its own), starts at
//!   random, and travels in [`Inbound`]. Per lane and epoch frames arrive in order, each at most once.
//! - Per link, calls of the [`Sink`] are serialised: `Up{e}`, then frames of `e`, then `Down{e}`, and
//!   only then `Up` of the next epoch. A frame of an epoch never comes after its `Down`.
//! - The death of any actor here closes its connections, empties their queues and delivers `Down`;
//!   the restarted actor reconnects.
//!
//! Everything is bounded by [`Settings`]: a full queue sheds ([`SendError::Full`]), and a reader whose
//! [`Permit`]s are all held by slow consumers stops reading. A link so holds at most its credit, and what the
//! last frame weighs beyond that.

mod arrivals;
mod backoff;
pub mod calls;
mod connection;
mod error;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod greeting;
mod handle;
mod handshake;
mod link;
mod listener;
mod lock;
mod message;
mod notices;
mod settings;
mod shared;
mod slot;
mod status;
mod types;

pub use error::SendError;
pub use handle::{Distribution, WeakDistribution};
pub use settings::Settings;
pub use status::{LaneStatus, LinkPhase, ListenerStatus, PeerStatus};
pub use types::{Carrier, Identity, Inbound, Lane, LinkEvent, Permit, Sink};
