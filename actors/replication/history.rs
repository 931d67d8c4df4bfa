//! Short names of histories, by which two nodes see that their logs have the same content.
//!
//! Raft takes entries of the same index and term for the same entry. That holds as long as no node forgets its vote;
//! directories that are put back from a copy do, and then a term can come a second time. So a leader says with an append,
//! a heartbeat and the answer to a read what the log holds at the index that the message starts from: its *check*, a hash
//! over the entry there, and over those before it down to the last one with content, for a new leader's first entry is
//! empty and looks like that of any other.
//!
//! It travels in a field that the crate leaves free in these messages; 0 says nothing.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{GetEntriesContext, RaftLog, Storage};

/// Checks that are kept; each stands for a read of the log.
const KNOWN_MAX: usize = 64;
/// Entries without content that a check covers at most: elections without an append between them.
const EMPTY_MAX: usize = 64;

/// A log that knows what of it is at hand.
pub(crate) trait ReadLog: Storage {
    /// Whether the term of this entry is known without reading a file.
    fn is_near(&self, _index: u64) -> bool {
        true
    }
}

/// What has been read of the log lately. An index and a term name one content for as long as a node runs.
#[derive(Debug, Default)]
pub(super) struct Histories {
    known: BTreeMap<(u64, u64), u64>,
    /// The same, oldest first: what goes is what was read longest ago, not what is asked for a peer that lags.
    ages: VecDeque<(u64, u64)>,
}

impl Histories {
    /// The check at an index of the log; 0 at its beginning.
    pub(super) fn check<L: Storage>(&mut self, log: &RaftLog<L>, index: u64) -> u64 {
        if index == 0 {
            return 0;
        }
        let term = log.term(index).unwrap_or_else(|error| panic!("the log cannot be read: {error}"));
        if let Some(check) = self.known.get(&(index, term)) {
            return *check;
        }
        let mut hasher = blake3::Hasher::new();
        for index in (1..=index).rev().take(EMPTY_MAX) {
            let entry = self.entry(log, index);
            hash(&mut hasher, &entry);
            if !entry.data.is_empty() {
                break;
            }
        }
        self.know(index, term, finish(&hasher))
    }

    /// The check at an index, where that is known without reading the log.
    fn known(&self, index: u64, term: u64) -> u64 {
        self.known.get(&(index, term)).copied().unwrap_or(0)
    }

    /// An entry with content is its own check.
    fn note(&mut self, entry: &Entry) {
        if !entry.data.is_empty() && !self.known.contains_key(&(entry.index, entry.term)) {
            let mut hasher = blake3::Hasher::new();
            hash(&mut hasher, entry);
            self.know(entry.index, entry.term, finish(&hasher));
        }
    }

    fn know(&mut self, index: u64, term: u64, check: u64) -> u64 {
        if self.known.insert((index, term), check).is_none() {
            self.ages.push_back((index, term));
        }
        while self.ages.len() > KNOWN_MAX {
            let oldest = self.ages.pop_front().expect("there are more than none");
            self.known.remove(&oldest);
        }
        check
    }

    /// One entry of the log.
    pub(super) fn entry<L: Storage>(&self, log: &RaftLog<L>, index: u64) -> Entry {
        let read = log.slice(index, index + 1, None, GetEntriesContext::empty(false));
        let entries = read.unwrap_or_else(|error| panic!("the log cannot be read: {error}"));
        entries.into_iter().next().expect("an index up to the last has an entry")
    }

    /// Puts into a message of a leader what its log holds where the message starts from.
    pub(super) fn vouch<L: ReadLog>(&mut self, log: &RaftLog<L>, message: &mut Message) {
        match message.get_msg_type() {
            MessageType::MsgAppend => {
                message.reject_hint = self.check(log, message.index);
                // The next append starts from there.
                if let Some(last) = message.entries.last() {
                    self.note(last);
                }
            }
            // A clock beats: it waits for no read. What a peer lacks comes with appends, which say it.
            MessageType::MsgHeartbeat if message.commit > 0 && log.store().is_near(message.commit) => {
                let term = log.term(message.commit);
                message.commit_term = term.unwrap_or_else(|error| panic!("the log cannot be read: {error}"));
                message.reject_hint = self.known(message.commit, message.commit_term);
            }
            MessageType::MsgReadIndexResp => message.reject_hint = self.check(log, message.index),
            _ => {}
        }
    }
}

/// What a leader says of its history, if anything.
pub(super) fn said_check(message: &Message) -> Option<u64> {
    Some(message.reject_hint).filter(|check| *check != 0)
}

fn hash(hasher: &mut blake3::Hasher, entry: &Entry) {
    hasher.update(&entry.index.to_le_bytes());
    hasher.update(&entry.term.to_le_bytes());
    hasher.update(&entry.data);
}

fn finish(hasher: &blake3::Hasher) -> u64 {
    let bytes = hasher.finalize().as_bytes()[..8].try_into().expect("a hash has 32 bytes");
    // 0 says nothing.
    u64::from_le_bytes(bytes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_of_a_peer_that_lags_is_kept_beside_newer_ones() {
        let entry = |index| Entry { index, term: 1, data: bytes::Bytes::from_static(b"x"), ..Entry::default() };
        let mut histories = Histories::default();
        let many = KNOWN_MAX as u64;
        (100..100 + many).for_each(|index| histories.note(&entry(index)));
        histories.note(&entry(1));
        assert_ne!(histories.known(1, 1), 0, "the check just made is gone");
        assert_ne!(histories.known(100 + many - 1, 1), 0);
        assert_eq!(histories.known(100, 1), 0, "the oldest goes");
        assert_eq!(histories.known.len(), KNOWN_MAX);
    }
}
