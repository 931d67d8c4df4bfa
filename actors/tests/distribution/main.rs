//! Links between nodes, over real sockets.
#![allow(missing_docs)]

mod calling;
mod support;

mod calls;
mod exchange;
mod faults;
mod hostile;
mod older;
mod refused;
