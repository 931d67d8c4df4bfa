//! Storage's settings, their defaults and bounds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use converge_ledger_core::BATCH_VERSION;

use super::disk::{Disk, RealDisk};
use super::executor::{Executor, Threads};
use super::offload::Offload;

/// Chance as an argument: a fresh number at every call.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How storage is to run.
#[derive(Clone)]
pub struct Settings {
    /// The data directory; made if it does not exist.
    pub dir: PathBuf,
    /// Size of a journal file. At least four times `journal_record_bytes_max`, rounded up to
    /// 4 KiB; 64 MiB by default.
    pub journal_file_bytes: u64,
    /// Size of the first file, where that is less: a ledger without entries takes little. 8 MiB by default.
    pub journal_first_bytes: u64,
    /// Bound of a journal record, so also of a log entry; 8 MiB by default.
    pub journal_record_bytes_max: usize,
    /// Longest time that a durable log entry waits for the database; 10 s by default.
    pub commit_interval: Duration,
    /// As much as waits for the database before it is committed at once; 2 MiB by default. As much again for each GiB of
    /// the database's file, up to an eighth of `overlay_bytes_max`: each commit writes which pages of the whole file are free.
    /// Memory holds what waits, and a start replays it.
    pub commit_bytes: usize,
    /// Bound of what is held in memory for the database; past it, writers wait. 64 MiB by default.
    pub overlay_bytes_max: usize,
    /// The database's page cache; 128 MiB by default.
    pub redb_cache_bytes: usize,
    /// An entry that would take a block of a segment past so many bytes opens the next; 64 KiB by default, at least 1. The same on
    /// all nodes and for ever, or their segments differ.
    pub segment_block_bytes: usize,
    /// A block that would take a segment's file past so many bytes opens the next; 256 MiB by default. The same on all nodes and
    /// for ever, as above.
    pub segment_file_bytes: u64,
    /// Entries that stay in memory after they left it for the database, for peers that lag a little; 16 MiB by default.
    pub kept_bytes: usize,
    /// Blocks of segments that are kept in memory for readers; 32 MiB by default.
    pub segment_cache_bytes: usize,
    /// How much of a context one read may look at for entries with a key; 4 MiB by default.
    pub scan_bytes_max: usize,
    /// As much of the log is applied at a time when a start or a recovery finds entries to apply; 4 MiB by default.
    pub apply_bytes: usize,
    /// Below so many free bytes nothing is proposed here, below half of it nothing is committed to the database. Enough
    /// for what is in flight: a commit of all that memory holds, and a journal file. 0, the default, asks for nothing.
    pub free_bytes_min: u64,
    /// As much of the journal is held in memory at a time while it is replayed; 16 MiB by default.
    pub replay_bytes: usize,
    /// A new journal file is filled in writes of so many bytes; 1 MiB by default, at least 1.
    pub fill_bytes: usize,
    /// Storage is killed when it takes longer than this to stop: long enough to store what memory holds. 30 s by
    /// default.
    pub shutdown: Duration,
    /// The newest version of a batch that is read; that of the program by default. A lower one plays an older program.
    pub batch_version_max: u8,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The threads.
    pub executor: Arc<dyn Executor>,
    /// Where reads go that look at much.
    pub offload: Offload,
    /// Names the data directory and the generations of journal files.
    pub random: Random,
}

impl Settings {
    /// The defaults, in this directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Settings {
        Settings {
            dir: dir.into(),
            journal_file_bytes: 64 << 20,
            journal_first_bytes: 8 << 20,
            journal_record_bytes_max: 8 << 20,
            commit_interval: Duration::from_secs(10),
            commit_bytes: 2 << 20,
            overlay_bytes_max: 64 << 20,
            redb_cache_bytes: 128 << 20,
            segment_block_bytes: 64 << 10,
            segment_file_bytes: 256 << 20,
            kept_bytes: 16 << 20,
            segment_cache_bytes: 32 << 20,
            scan_bytes_max: 4 << 20,
            apply_bytes: 4 << 20,
            free_bytes_min: 0,
            replay_bytes: 16 << 20,
            fill_bytes: 1 << 20,
            shutdown: Duration::from_secs(30),
            batch_version_max: BATCH_VERSION,
            disk: Arc::new(RealDisk),
            executor: Arc::new(Threads),
            offload: Offload::Threads,
            random: Arc::new(rand::random::<u64>),
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("dir", &self.dir)
            .field("journal_file_bytes", &self.journal_file_bytes)
            .finish_non_exhaustive()
    }
}
