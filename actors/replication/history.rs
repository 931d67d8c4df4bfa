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
/// Ends of messages that are kept for each peer: more than are on their way to one.
const SENT_MAX: usize = 64;
/// Entries without content that a check covers at most: elections without an append between them.
const EMPTY_MAX: usize = 64;

/// A log that knows what of it is at hand.
pub(crate) trait ReadLog: Storage {
    /// Whether the term of this entry is known without reading a file.
    fn is_near(&self, _index: u64) -> bool {
        true
    }

    /// Whether terms that would have to be read from a file are unavailable for the moment. A leader that is answered by a
    /// peer can do without: the crate then probes at what the peer named, or waits for entries, and the one in front of them
    /// comes with them. A follower never can, for the crate takes such a term for a conflict.
    fn spare_files(&self, _spare: bool) {}
}

/// What has been read of the log lately. An index and a term name one content for as long as a node runs.
#[derive(Debug, Default)]
pub(super) struct Histories {
    known: BTreeMap<(u64, u64), u64>,
    /// The same, oldest first: what goes is what was read longest ago, not what is asked for a peer that lags.
    ages: VecDeque<(u64, u64)>,
    /// Where the messages end that this leader sent to each peer, newest last, with the terms there.
    sent: BTreeMap<u64, VecDeque<(u64, u64)>>,
    /// The term in which it sent them.
    sent_term: u64,
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

    /// The term at the commit of a heartbeat, where it is known without reading a file.
    fn near_term<L: ReadLog>(&self, log: &RaftLog<L>, heartbeat: &Message) -> Option<u64> {
        if log.store().is_near(heartbeat.commit) {
            let term = log.term(heartbeat.commit);
            return Some(term.unwrap_or_else(|error| panic!("the log cannot be read: {error}")));
        }
        let sent = self.sent.get(&heartbeat.to).filter(|_| self.sent_term == heartbeat.term)?;
        sent.iter().find(|(index, _)| *index == heartbeat.commit).map(|(_, term)| *term)
    }

    /// A leader's log only grows while it leads, so what it sent stays true for its term.
    fn note_sent(&mut self, to: u64, term: u64, end: (u64, u64)) {
        if self.sent_term != term {
            self.sent_term = term;
            self.sent.clear();
        }
        let sent = self.sent.entry(to).or_default();
        if sent.contains(&end) {
            return;
        }
        sent.push_back(end);
        if sent.len() > SENT_MAX {
            sent.pop_front();
        }
    }

    /// Puts into a message of a leader what its log holds where the message starts from.
    pub(super) fn vouch<L: ReadLog>(&mut self, log: &RaftLog<L>, message: &mut Message) {
        match message.get_msg_type() {
            MessageType::MsgAppend => {
                message.reject_hint = self.check(log, message.index);
                // The next append starts from there.
                if let Some(last) = message.entries.last() {
                    self.note(last);
                    self.note_sent(message.to, message.term, (last.index, last.term));
                }
            }
            // A clock beats: it waits for no read. A commit is never sent without its term: what a peer has there could be
            // another entry. It is told with the next append.
            MessageType::MsgHeartbeat if message.commit > 0 => match self.near_term(log, message) {
                Some(term) => {
                    message.commit_term = term;
                    message.reject_hint = self.known(message.commit, term);
                    self.note_sent(message.to, message.term, (message.commit, term));
                }
                None => message.commit = 0,
            },
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
    /// A log whose entries are all in files.
    impl ReadLog for raft::storage::MemStorage {
        fn is_near(&self, _index: u64) -> bool {
            false
        }
    }

    #[test]
    fn a_heartbeat_names_no_commit_whose_term_it_does_not_know() {
        let entry = |index| Entry { index, term: 1, data: bytes::Bytes::from_static(b"x"), ..Entry::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let log = RaftLog::new(raft::storage::MemStorage::new(), logger);
        let mut histories = Histories::default();
        let mut beat = |to, term, commit, sent: Option<Entry>| {
            let message = |kind| Message { msg_type: kind, to, term, ..Message::default() };
            if let Some(last) = sent {
                let mut append = message(MessageType::MsgAppend);
                append.set_entries(vec![last].into());
                histories.vouch(&log, &mut append);
            }
            let mut heartbeat = Message { commit, ..message(MessageType::MsgHeartbeat) };
            histories.vouch(&log, &mut heartbeat);
            (heartbeat.commit, heartbeat.commit_term)
        };
        assert_eq!(beat(2, 3, 5, None), (0, 0), "another entry could be there");
        assert_eq!(beat(2, 3, 5, Some(entry(5))), (5, 1), "it ended a message to this peer");
        assert_eq!(beat(3, 3, 5, None), (0, 0), "to another one it did not");
        assert_eq!(beat(2, 4, 5, None), (0, 0), "in a later term the log may have lost it meanwhile");
    }
}
