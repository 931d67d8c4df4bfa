//! Bugs that are planted, so that it can be seen which tests find them.
//!
//! A check that cannot fail shows nothing. Each [`Bug`] is a mistake that somebody could make, at the place where it
//! would be made, and the [`Level`]s of testing that have to find it; `tests/lab/tests/planted.rs`,
//! `tests/lab/tests/planted_storage.rs` and `actors/tests/distribution/calls.rs` hold that they do.
//!
//! Behind the feature `planted`. Without it [`is`] is constantly false, and nothing of a bug is left in the program.
//! With it there is none either, until one is planted: for this thread with `plant`, which is enough where all of a
//! node runs in one, or for the whole process with the environment variable `CONVERGE_PLANTED` and the bug's name.

macro_rules! bugs {
    ($($bug:ident $name:literal $what:literal [$($level:ident),+])+) => {
        /// A mistake that somebody could make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = $what] $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug),+];

            /// Its name in [`VARIABLE`].
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name),+ }
            }

            /// What is wrong.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Bug::$bug => $what),+ }
            }

            /// Who has to find it.
            #[must_use]
            pub const fn levels(self) -> &'static [Level] {
                match self { $(Bug::$bug => &[$(Level::$level),+]),+ }
            }
        }
    };
}

/// A kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The pure core beside its model, and snapshots with flipped bits.
    Model,
    /// Storage on a simulated disk, the power cut anywhere.
    Crash,
    /// Storage whose files have flipped bits.
    Flips,
    /// Whole nodes in a simulated world, by whatever it holds them to.
    Simulation,
    /// The simulation's clients: their history alone gives it away.
    History,
    /// The system calls of a real process.
    Syscalls,
    /// Real processes and clients under faults.
    Chaos,
    /// Links between nodes, over real sockets that are cut.
    Links,
}

bugs! {
    AckBeforeSync "ack-before-sync" "an append is acknowledged when it is written, before it is synced" [Crash, Simulation, Syscalls]
    SyncSkipped "sync-skipped" "records are written and never synced" [Crash, Simulation, Syscalls]
    VoteUnsynced "vote-unsynced" "a record of term and vote alone is not synced" [Crash, Simulation]
    VoteUnwritten "vote-unwritten" "term and vote are stored only when entries come with them" [Crash, Simulation]
    HardStateLast "hard-state-last" "term and vote are written behind the entries that they cover" [Crash]
    VoteForgotten "vote-forgotten" "the vote is dropped at recovery" [Crash]
    AnswerBeforeSync "answer-before-sync" "votes and acknowledgements to other nodes leave before their sync" [Simulation]
    QuorumOfOne "quorum-of-one" "a leader commits what it alone has synced" [Simulation]
    HistoryUnchecked "history-unchecked" "a follower does not compare what it has committed with the leader's log" [Simulation, History]
    ReadUnconfirmed "read-unconfirmed" "a linearizable read is answered without asking anybody" [Simulation, History]
    ReadByLease "read-by-lease" "a leader answers reads by its lease, which a slow clock outlives" [Simulation, History]
    ReadUnapplied "read-unapplied" "a confirmed read is answered before its index is applied" [Simulation, History]
    WatchSkips "watch-skips" "a subscription goes on from where the context is, not from where it was" [Simulation, History]
    WatchRepeats "watch-repeats" "a subscription goes on one entry too early" [Simulation, History]
    KeyUnrecorded "key-unrecorded" "an idempotency key is not recorded" [Model, Simulation, History]
    KeyOfBatchOnly "key-of-batch-only" "an idempotency key is looked for in its own batch only" [Model, Simulation, History]
    KeyForgottenEarly "key-forgotten-early" "an idempotency key is forgotten before its window is over" [Simulation, History]
    KeyWindowLocal "key-window-local" "an idempotency key is known for as long as a node has its row" [Crash, Simulation, History]
    KeyUnstored "key-unstored" "idempotency keys are forgotten when the database takes the rows" [Crash, Simulation]
    RetryApplies "retry-applies" "an attempt that comes again is applied again" [Model, Simulation, History]
    OutcomeForgotten "outcome-forgotten" "outcomes are forgotten up to the low-water mark, and with it" [Model, Simulation, History]
    LowWaterPasses "low-water-passes" "the low-water mark passes attempts in flight" [Simulation]
    ExpectedIgnored "expected-ignored" "the expected sequence is not checked" [Model, Simulation, History]
    FollowsIgnored "follows-ignored" "an append of a group is made though the one before it was refused" [Model, Simulation, History]
    TransactHalf "transact-half" "a transaction whose condition does not hold appends half of its entries" [Model]
    KeyAfterCondition "key-after-condition" "the idempotency key of a transaction is looked at after its conditions" [Model]
    FenceIgnored "fence-ignored" "the fence epoch of appends and conditions is not compared" [Model]
    LoadIncomplete "load-incomplete" "a load with missing parts is taken" [Model]
    SnapshotUnchecked "snapshot-unchecked" "the Merkle root of a snapshot is not compared" [Model]
    UnknownAsRefused "unknown-as-refused" "a request that was handed over and ran out of time is reported as never written" [Simulation, History]
    RefusedAfterWrite "refused-after-write" "an append that is in the ledger is reported as never written" [Simulation, History]
    SequenceGap "sequence-gap" "a sequence is passed over when the context's end comes from the database" [Crash, Simulation]
    StaleRows "stale-rows" "rows of replaced log entries stay in the database" [Crash, Simulation]
    FileReusedEarly "file-reused-early" "a journal file is used again though its last record is still needed" [Crash]
    FileOutOfOrder "file-out-of-order" "a younger journal file is used again before an older one" [Crash, Simulation]
    SaltKept "salt-kept" "a journal file that is used again keeps its salt, and so its old records" [Crash, Simulation]
    NameUnsynced "name-unsynced" "the name of a new journal file is not synced" [Crash]
    CoveredAhead "covered-ahead" "the database says that it covers a record that it does not have" [Crash, Simulation]
    AppliedAhead "applied-ahead" "the database says that it has applied an entry more than it has" [Crash, Simulation]
    TailLost "tail-lost" "recovery stops one record early" [Crash, Simulation]
    ReadEndsJournal "read-ends-journal" "a read of the journal that fails is taken for its end" [Crash, Simulation]
    NewerIsEnd "newer-is-end" "a sound record of a newer program is taken for the journal's end" [Crash]
    UnknownSkipped "unknown-skipped" "a log entry that only a newer program can read does nothing" [Crash, Simulation]
    GapTaken "gap-taken" "damage within the journal is taken for its end" [Flips]
    LastUnsure "last-unsure" "the last record is not made durable at a start" [Crash]
    NamesUnsure "names-unsure" "the names of files are not made durable at a start" [Crash]
    RotTakenForTorn "rot-taken-for-torn" "a last record with a damaged sector is taken for one that was never durable" [Flips, Simulation]
    TornTaken "torn-taken" "a journal record is taken by its head, whatever is in its other sectors" [Crash, Simulation]
    LackFences "lack-fences" "a lack of descriptors is taken for a broken disk" [Crash, Simulation]
    RoomUnwatched "room-unwatched" "the room on the disk is not looked at before it is used" [Crash]
    LogKills "log-kills" "a log that cannot be written ends the node" [Chaos]
    SilentStays "silent-stays" "no connection is closed in favour of others" [Chaos]
    BudgetUnbounded "budget-unbounded" "what waits for clients is not bounded" [Chaos]
    FullEnds "full-ends" "a node that has served ends when it is started on a full disk" [Crash]
    SegmentLongTaken "segment-long-taken" "a segment that is longer than the database says is taken as it is" [Crash]
    UncommittedSettled "uncommitted-settled" "entries that are not committed come into a segment" [Crash, Simulation]
    BlockClosedEarly "block-closed-early" "a block is closed by a commit, not by what is in it" [Crash, Simulation]
    BlockUnchecked "block-unchecked" "the checksum of a block is not compared" [Flips]
    CallResent "call-resent" "a call whose connection was lost is sent again over the next one" [Links]
    RecallIgnored "recall-ignored" "a frame that was taken back is written all the same" [Links]
    RowUnchecked "row-unchecked" "the checksum of a row is not compared when it is read" [Flips]
}

/// The environment variable that plants a bug in a whole process.
pub const VARIABLE: &str = "CONVERGE_PLANTED";

/// Whether this bug is planted: never, in a program that anybody runs.
#[cfg(not(feature = "planted"))]
#[inline]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use self::switch::{Planted, is, plant};

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::{Bug, VARIABLE};

    thread_local! {
        static HERE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is planted, in this thread or in the whole process.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        HERE.get() == Some(bug) || everywhere() == Some(bug)
    }

    /// Plants a bug in this thread, until the guard is dropped.
    ///
    /// # Panics
    /// When one is planted already: nobody could say which was found.
    #[must_use]
    pub fn plant(bug: Bug) -> Planted {
        assert_eq!(HERE.replace(Some(bug)), None, "one bug at a time");
        Planted(())
    }

    /// A bug is planted while this lives.
    #[derive(Debug)]
    pub struct Planted(());

    impl Drop for Planted {
        fn drop(&mut self) {
            HERE.set(None);
        }
    }

    /// The one that the environment names, read once.
    fn everywhere() -> Option<Bug> {
        static EVERYWHERE: OnceLock<Option<Bug>> = OnceLock::new();
        *EVERYWHERE.get_or_init(|| {
            let name = std::env::var(VARIABLE).ok()?;
            let bug = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
            // A bug that is misspelt would be found by nobody.
            Some(bug.unwrap_or_else(|| panic!("{VARIABLE} = {name} is no bug's name")))
        })
    }
}
