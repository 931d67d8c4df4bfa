//! The journal: what makes an append durable, in front of the database.
//!
//! Records one behind the other in files that are made ahead of their use. Here are their bytes ([`record`]) and the seals
//! of their sectors ([`sectors`]), the files ([`ring`]), the place where the next record goes ([`tip`]), the reading of all
//! that at a start ([`scan`]), and the end of a damaged tail, when an operator says so ([`cut`]). Who writes, and when, is
//! the writer's business (`writer`).

pub(crate) mod cut;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod in_memory;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod pieces;
pub(crate) mod record;
pub(crate) mod ring;
pub(crate) mod scan;
pub(crate) mod sectors;
pub(crate) mod tip;
