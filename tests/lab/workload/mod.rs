//! The one workload: what clients of a ledger want, how they go about it, and what they write down.
//!
//! A [`Mix`] says what a client wants and how often; a seed draws it, wish by wish. One loop, [`Client::run`], carries
//! the wishes out on an [`Api`]: a ledger in this process ([`Embedded`]), real nodes over gRPC ([`Remote`]), or a node
//! of the simulated world. There is one rule for what comes back. What ended as unknown is tried again under its
//! idempotency key, on any node, or left as it is. What was refused is not tried again. What is done is asked for again
//! now and then: the answer has to be the first one's, and the key holds nothing else. Where the ledger forgets keys, they
//! are used again on purpose, and the history says what may come of that. All of it goes into a history,
//! which [`crate::history::check`] judges; what no history shows is a finding of its own ([`Api::violated`]).
//!
//! It knows nothing of faults: whoever runs it breaks things meanwhile.

mod api;
mod client;
mod embedded;
mod load;
mod mix;
mod record;
mod remote;
#[cfg(test)]
mod tests;

pub use api::{Acknowledged, Api, Missed};
pub use client::Client;
pub use embedded::{Embedded, whole};
pub(crate) use embedded::{acknowledged, follow, many, missed, seen, shown};
pub use load::Load;
pub use mix::{Mix, entry};
pub use record::{Record, longest_pause};
pub use remote::{Remote, request};
