//! The journal: what makes an append durable, in front of the database.
//!
//! Records one behind the other in files that are made ahead of their use. Here are their bytes ([`record`]), the files
//! ([`ring`]), the place where the next record goes ([`tip`]), and the reading of all that at a start ([`scan`]). Who
//! writes, and when, is the writer's business (`writer`).

#[cfg(any(test, feature = "testing"))]
pub(crate) mod pieces;
pub(crate) mod record;
pub(crate) mod ring;
pub(crate) mod scan;
pub(crate) mod tip;
