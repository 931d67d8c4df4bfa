//! Storage on a real disk, and on one that a test cuts the power of.
#![allow(missing_docs, clippy::print_stderr)]

mod conformance;
mod crash;
mod crash_images;
mod flips;
mod golden;
mod lacks;
mod newer;
mod read_errors;
mod segments;
mod streams;
mod support;
mod tail;
