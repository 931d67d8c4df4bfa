//! The only owner of the journal and the database.

mod disk;
mod error;
mod executor;
mod handle;
mod settings;
mod types;

pub use disk::{Disk, File, Lock, RealDisk};
pub use error::{Cause, Error};
pub use executor::{Executor, Step, Threads, Worker};
pub use handle::Storage;
pub use settings::{Random, Settings};
pub use types::{
    AppliedBatch, Done, EntryKind, Genesis, HardState, LogEntry, OnApplied, Page, Phase, ReadQuery,
    Recovered, Status,
};
