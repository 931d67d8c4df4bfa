//! What was handed to storage for apply and is not applied yet.
//!
//! Raft goes on while an apply waits for a disk, and would hand over without end. Past the bound this node takes no entries:
//! a leader refuses proposals, a follower lets appends pass as if they were lost, so that the leader's window closes. It
//! also bounds what a candidate looks through for changes of the configuration, which the crate does in one step.

use std::collections::VecDeque;
use std::time::Duration;

use converge_ledger_core::LogIndex;
use raft::eraftpb::{Message, MessageType};
use tokio::time::Instant;

use crate::storage::LogEntry;

/// The entries, oldest first, by what they weigh.
#[derive(Debug, Default)]
pub(super) struct Unapplied {
    entries: VecDeque<(LogIndex, u64)>,
    bytes: u64,
    /// There was no room, and half of it is not free again: what is dropped in between is a whole window each time.
    over: bool,
    /// When an entry was applied last, or handed over where none was waiting.
    moved: Option<Instant>,
}

impl Unapplied {
    /// These are handed over.
    pub(super) fn add(&mut self, entries: &[LogEntry], now: Instant) {
        if self.entries.is_empty() {
            self.moved = Some(now);
        }
        for entry in entries {
            let weight = entry.weight() as u64;
            self.entries.push_back((entry.index, weight));
            self.bytes += weight;
        }
    }

    /// All up to this one are applied.
    pub(super) fn applied(&mut self, index: LogIndex, now: Instant) {
        self.moved = Some(now);
        while let Some((_, weight)) = self.entries.pop_front_if(|(first, _)| *first <= index) {
            self.bytes -= weight;
        }
    }

    /// For how long none was applied, though some wait.
    pub(super) fn stuck(&self, now: Instant) -> Duration {
        let moved = self.moved.filter(|_| !self.entries.is_empty());
        moved.map_or(Duration::ZERO, |moved| now - moved)
    }

    /// There is no room for more, until half of it is free.
    pub(super) fn is_over(&mut self, bytes_max: u64) -> bool {
        self.over = self.bytes > if self.over { bytes_max / 2 } else { bytes_max };
        self.over
    }
}

/// Whether a message brings entries that will have to be applied.
pub(super) fn brings_entries(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use converge_ledger_core::Term;

    use super::*;
    use crate::storage::EntryKind;

    #[test]
    fn what_is_applied_makes_room_and_what_is_larger_than_the_bound_passes_alone() {
        let entry = |index| LogEntry {
            index: LogIndex(index),
            term: Term(1),
            kind: EntryKind::Normal,
            data: Bytes::from_static(&[7; 100]),
        };
        let weight = entry(1).weight() as u64;
        let mut unapplied = Unapplied::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        unapplied.add(&[entry(1), entry(2)], start);
        assert!(!unapplied.is_over(2 * weight) && unapplied.is_over(weight));
        assert!(unapplied.is_over(2 * weight), "it was over, and more than half is left");
        assert_eq!(unapplied.stuck(start + second), second);
        unapplied.applied(LogIndex(1), start + second);
        assert!(!unapplied.is_over(2 * weight) && unapplied.is_over(1));
        unapplied.add(&[entry(3)], start + 2 * second);
        assert_eq!(unapplied.stuck(start + 4 * second), 3 * second, "what waits longest counts");
        unapplied.applied(LogIndex(9), start + 4 * second);
        assert!(!unapplied.is_over(0), "nothing is left");
        assert_eq!(unapplied.stuck(start + 9 * second), Duration::ZERO, "nothing waits");
    }
}
