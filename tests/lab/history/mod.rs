//! Histories: what clients of a ledger saw, and whether a correct ledger could have shown it to them.
//!
//! A history is a file of JSON lines, one operation each ([`Operation`]). Clients write down what they did; whoever
//! runs them adds what the nodes hold in the end. [`check()`] accepts a history if and only if it is one of the model
//! below, and names the lines that contradict each other where it is not. It knows nothing of nodes, terms or disks.
//!
//! # The model
//!
//! At first the ledger is empty. Each operation takes place at one moment:
//!
//! - An **append** with an idempotency key that its context knows is answered with the first entry's place, or refused
//!   where the value is another one. Any other, if it expects a sequence that is not the latest, is refused with the
//!   latest, and else puts its value at the end of its context, at a position behind all earlier entries of the ledger.
//!   A done append takes place between its start and its end, an unknown one at any time from its start on, or never.
//!   One that says that its entry stood there before may have been the first itself: some clients try again on their
//!   own and record one operation. An append refused for another reason changes nothing and says nothing.
//! - A context knows a key for ever, or, in a history with a [`Begin`], for a **window**: as long as its entry is one of
//!   the last so many of the ledger. Then the same key appends again. How far two entries are apart, their positions
//!   say; where nobody tells those, nothing is said against it.
//! - Appends of one **call** stand in its order: each is behind another one, and where its entry is in the final states,
//!   the other's is, at an earlier position. A history without an [`End`] says nothing of that.
//! - A linearizable **read** shows the context as it is at a moment between its start and its end.
//! - A stale read and a **watch** show the context as it was at any moment up to their end.
//! - A **state** shows a context after everything else. An [`End`] says in addition that each node of the states before
//!   it shows the whole ledger: positions 1 to the last one. Without it, contexts without a state are not missed.
//!
//! Operations that overlap, or touch at one nanosecond, are concurrent. Positions are compared where they are told; a
//! position that nobody tells binds nothing. Client numbers are labels: what a client did one after the other is in the
//! times.
//!
//! # What a violation means
//!
//! First come the contradictions that need no clock: one place with two values, one value at two places, an entry that
//! nobody made, a hole. A context with one of those has no order, so its times are looked at only once those are gone.

mod check;
mod contexts;
mod fill;
mod operation;
mod order;
mod verdict;

pub use check::check;
pub use operation::{
    Append, Begin, Behind, Consistency, Done, End, Operation, Outcome, Read, ReadCause, ReadError, Refused, Seen,
    State, Time, Watch, read,
};
pub use verdict::{Counts, Line, Rule, Verdict, Violation};

#[cfg(test)]
mod tests;
