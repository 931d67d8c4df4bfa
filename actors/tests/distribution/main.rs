//! Links between nodes, over real sockets.
#![allow(missing_docs)]

mod support;

mod exchange;
mod faults;
mod hostile;
mod refused;
