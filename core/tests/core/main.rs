//! The core against hostile bytes, its bounds, and a plain model.

#![allow(missing_docs)]

mod apply;
mod batch;
mod golden;
mod limits;
mod load;
mod model;
mod records;
mod sample;
mod snapshot;
mod transact;
