//! Histories: what clients of a ledger saw, and whether a correct ledger could have shown it to them.
//!
//! A history is a file of JSON lines, one operation each ([`Operation`]). Clients write down what they did; whoever
//! runs them adds what the nodes hold in the end.

mod operation;

pub use operation::{
    Append, Consistency, Done, End, Operation, Outcome, Read, ReadCause, ReadError, Refused, Seen, State, Time, Watch,
    read,
};
