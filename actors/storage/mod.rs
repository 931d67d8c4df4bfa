//! The only owner of the journal and the database.
//!
//! The job: keep the replicated log, Raft's hard state and what follows from the log, so that
//! nothing that was reported durable is ever lost, and so that damage is noticed, never served.
//! Storage owns the data directory, the state machine and its memory. It does not know Raft, peers
//! or clients, and decides nothing: what is committed, it is told.
//!
//! # An append
//!
//! ```text
//! append()          entries readable in memory (overlay), queued
//! journal thread    one record of all that is queued, one fdatasync, callbacks, hands on to
//! redb thread       at 2 MiB, or after 10 s: blocks of applied entries into segments, then one transaction of records
//!                   and applied rows
//! apply()           the actor: core decides, effects readable in memory at once
//! ```
//!
//! No transaction of the database is on the path of an append or an apply. Readers look into the
//! overlay first and into the database second.
//!
//! # Phases
//!
//! ```text
//!            start                     recovered
//!   (none) ────────► Recovering ──────────────────────► Serving
//!                       │  ▲                              │  │
//!          data loss,   │  └──────── actor died ──────────┘  │ a write or sync failed,
//!          disk failed  │                                    │ damage was read
//!                       ▼                                    ▼
//!                    Fenced { cause }  ◄─────────────────────┘
//! ```
//!
//! - `Recovering`: nothing is served. The threads of the incarnation before are waited for first.
//! - `Serving`: everything is served.
//! - `Fenced`: nothing is written any more, and there is no way out but a new process, with one exception: a *write*
//!   that found no room. What was written before it is still to be synced, and what it wrote itself nobody was told
//!   of, so with room again the actor exits and recovers from disk (`actor`). After a failed read, write or sync
//!   reads go on, for every row is checked; after data loss nothing is served.
//!
//! A lack that passes is no phase: where a file could not be opened for want of a descriptor, it is tried again, with
//! an alarm while it lasts (`passing`). So is the want of room, as long as it is seen before a write fails: below
//! [`Settings::free_bytes_min`] proposals are refused, below half of it nothing is committed to the database (`room`).
//!
//! A directory that must not be used at all (another node has it open, another format, not a
//! ledger's) ends the start instead.
//!
//! # Files, from the ground up; none uses one that is above it
//!
//! | | |
//! |---|---|
//! | `error`, `types`, `message`, `settings`, `failure` | what is said, asked and set; why a start fails |
//! | `disk`, `passing`, `executor`, `room` | the seams to files and threads, and what may be lacking there |
//! | `journal/` | bytes and files of the journal |
//! | `layout` | the data directory |
//! | `rowed`, `segments/` | an entry and its rows; bytes and files of the committed log |
//! | `database/` | tables of redb, what is written to them and read from them |
//! | `fence`, `incarnation`, `memory` | what forbids writing; the threads of one life; what is locked, in which order |
//! | `shared` | all of that together, for as long as the handle lives |
//! | `apply`, `read`, `page`, `stream`, `contexts`, `recover` | what is done with it |
//! | `writer`, `committer` | the threads: journal, database |
//! | `actor`, `handle`, `inspect` | who starts them, who asks them, who looks without them |
//!
//! # Invariants
//!
//! S1 one queue, in order (`writer`) · S2 nothing is reported before its `fdatasync`, and a
//! failed one fences · S3 every transaction keeps applied ≤ commit ≤ last (`database::commit`) · S4 new
//! entries replace all behind them, in overlay, journal and database, and never in a segment · S5 every row is checked on
//! every read (`database::rows`, `database::log`, `segments`), and so is an absence (`database::names`) · S6 the threads of an old incarnation are
//! waited for (`incarnation`) · S7 a journal file is reused only when it is covered (`committer`) · S8 store id and genesis
//! (`layout`).

mod actor;
mod apply;
mod committer;
mod contexts;
mod database;
mod disk;
mod error;
mod executor;
mod failure;
mod fence;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handle;
mod incarnation;
pub mod inspect;
pub(crate) mod journal;
mod layout;
mod memory;
mod message;
mod offload;
mod page;
mod passing;
mod read;
mod recover;
mod room;
mod rowed;
pub(crate) mod segments;
mod settings;
mod shared;
mod stream;
mod types;
mod writer;

pub use disk::{Disk, File, Lock, RealDisk};
pub use error::{Cause, Error, Outdated};
pub use executor::{Executor, Signal, Step, Threads, Worker};
pub(crate) use handle::RECOVERIES_TIMEOUT;
pub use handle::Storage;
#[cfg(feature = "testing")]
pub use journal::pieces::{Piece, pieces};
pub use layout::LOCK_FILE;
pub use offload::Offload;
pub use room::Room;
#[cfg(feature = "testing")]
pub use segments::pieces::{SegmentPiece, segment_pieces};
pub use settings::{Random, Settings};
pub use types::{
    AppliedBatch, AppliedMark, ContextsPage, ContextsQuery, Direction, Done, EntryKind, Genesis, HardState, LogEntry,
    OnApplied, Ordinal, Page, Phase, ReadQuery, Recovered, Status, StreamEnd, StreamOf, StreamPage, StreamQuery,
};
