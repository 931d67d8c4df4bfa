//! The redb database: its tables, what is written to it, and what is read from it.
//!
//! Knows no actor, no thread and no journal file. [`lent::Lent`] is how the one database of an incarnation is shared
//! between the worker that owns it and the readers that borrow it.

pub(crate) mod buckets;
pub(crate) mod commit;
pub(crate) mod kept;
pub(crate) mod keys;
pub(crate) mod lent;
pub(crate) mod log;
pub(crate) mod names;
pub(crate) mod open;
pub(crate) mod overlay;
pub(crate) mod places;
pub(crate) mod rows;
pub(crate) mod settle;
pub(crate) mod stored;
pub(crate) mod tables;
pub(crate) mod trouble;
