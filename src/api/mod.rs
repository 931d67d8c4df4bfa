//! What clients reach a node through: bytes in, handle call, bytes out.
//!
//! No decision about an entry is made here; every one of them is behind
//! [`crate::Ledger`].

pub mod grpc;
