//! The state of the machine between two log entries, and the rows that go with it.
//!
//! [`State`] is small and held in memory; heads, index rows and idempotency keys grow with the
//! ledger and are reached through a [`View`]. All of it follows from the log alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, decode_keyed, encode_keyed};
use crate::entry::EMPTY_CHAIN;
use crate::ids::{Boot, ContextNo, FenceEpoch, Lamport, LogIndex, NodeId, Position, Sequence};
use crate::levels::MIN_LEVEL;
use crate::outcome::Outcome;

/// What apply carries from one log entry to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Which formats may be written, and what apply computes: see [`crate::levels`]. The first field, so that a program that
    /// does not know the level can read it.
    pub level: u32,
    /// An idempotency key is known for so many positions, that of its entry included: given at genesis. What counts is
    /// this number, not whether a node still has the key's row.
    pub key_window: u64,
    /// The last log entry that was applied.
    pub applied: LogIndex,
    /// The position of the last entry.
    pub last_position: Position,
    /// How many contexts there are; also the number of the newest.
    pub contexts: u64,
    /// Rolling hash of everything applied: equal on every node at the same `applied`.
    pub digest: [u8; 32],
    /// What is known of every node that ever proposed.
    pub origins: BTreeMap<NodeId, Origin>,
}

/// Positions for which an idempotency key is known, unless a genesis says otherwise: 134,217,728.
pub const KEY_WINDOW_DEFAULT: u64 = 1 << 27;

impl State {
    /// Whether the idempotency key of the entry at this position is still known, after all that was applied.
    #[must_use]
    pub fn knows_key_of(&self, position: Position) -> bool {
        in_window(position, self.last_position, self.key_window)
    }
}

/// Whether a position is one of the last so many.
pub(crate) fn in_window(position: Position, last: Position, window: u64) -> bool {
    position.get() > last.get().saturating_sub(window)
}

impl Default for State {
    /// Before the first log entry.
    fn default() -> Self {
        Self {
            level: MIN_LEVEL,
            key_window: KEY_WINDOW_DEFAULT,
            applied: LogIndex(0),
            last_position: Position(0),
            contexts: 0,
            digest: [0; 32],
            origins: BTreeMap::new(),
        }
    }
}

/// What is kept of one node's attempts: those of its newest boot, at or above its low-water mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The newest boot seen; older ones are closed.
    pub boot: Boot,
    /// Attempts below are closed.
    pub low_water: u64,
    /// Stagings below are closed.
    pub low_staging: u64,
    /// First outcome of every attempt, by counter. Chunks have none: staging one again changes nothing.
    pub outcomes: BTreeMap<u64, Outcome>,
    /// What was staged, by staging.
    pub staged: BTreeMap<u64, Staging>,
}

/// What was staged for one load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staging {
    /// The context that it is for.
    pub context_id: String,
    /// Its chunks, by the sequence of their first entry. They may overlap.
    pub parts: BTreeMap<Sequence, Part>,
}

/// A staged chunk: all that a load needs to know of it, so that it reads none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// How many entries it has.
    pub count: u32,
    /// The log entry that holds its bytes.
    pub index: LogIndex,
    /// The row in that log entry.
    pub row: u32,
    /// The highest Lamport time in it.
    pub lamport: Lamport,
    /// The chain hash before its first entry.
    pub base_chain: [u8; 32],
    /// The chain hash after its last entry.
    pub chain: [u8; 32],
}

/// The end of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The context's number.
    pub number: ContextNo,
    /// The sequence of its last entry.
    pub latest: Sequence,
    /// The highest Lamport time in it.
    pub lamport: Lamport,
    /// Chain hash after its last entry, see [`crate::chain_link`].
    pub chain: [u8; 32],
    /// Its fence epoch. Written down behind all else and only where it was fenced: see [`Head::encode`].
    #[serde(skip)]
    pub fence_epoch: FenceEpoch,
}

impl Head {
    /// A context that is not there. Never stored: one comes to be with its first entry, or by being fenced.
    pub const EMPTY: Self = Self {
        number: ContextNo(0),
        latest: Sequence(0),
        lamport: Lamport(0),
        chain: EMPTY_CHAIN,
        fence_epoch: FenceEpoch(0),
    };

    /// The row of a context with this name. That of one that was never fenced has the bytes that it had before there were
    /// fences.
    #[must_use]
    pub fn encode(&self, context_id: &str) -> Vec<u8> {
        let key = context_id.as_bytes();
        if self.fence_epoch == FenceEpoch(0) {
            encode_keyed(key, self)
        } else {
            encode_keyed(key, &(self, self.fence_epoch))
        }
    }

    /// Reads what [`Head::encode`] wrote under the same name.
    ///
    /// # Errors
    /// Anything but exactly that.
    pub fn decode(context_id: &str, data: &[u8]) -> Result<Self, CodecError> {
        let key = context_id.as_bytes();
        match decode_keyed::<Self>(key, data) {
            Err(CodecError::Trailing { .. }) => {}
            decoded => return decoded,
        }
        let (head, fence_epoch) = decode_keyed::<(Self, FenceEpoch)>(key, data)?;
        if fence_epoch == FenceEpoch(0) {
            return Err(CodecError::Malformed { what: "a record" });
        }
        Ok(Self { fence_epoch, ..head })
    }
}

/// The entry that an idempotency key stands for. Keys of transactions are under [`ContextNo`] 0, which no context has: theirs
/// is the first entry, with the number of entries for its sequence, no Lamport time, and the hash of the whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The entry's place in its context.
    pub sequence: Sequence,
    /// The entry's place in the ledger.
    pub position: Position,
    /// The entry's Lamport time.
    pub lamport: Lamport,
    /// The entry's content hash.
    pub content: [u8; 32],
}

/// New entries, with consecutive sequences and positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexed {
    /// One entry, in a row of its own.
    Entry(IndexRow),
    /// The entries of a chunk, all in one row.
    Chunk(IndexChunk),
}

impl Indexed {
    /// The position of its first entry.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Entry(row) => row.position,
            Self::Chunk(chunk) => chunk.position,
        }
    }
}

/// Where the bytes of a chunk's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexChunk {
    /// The entries' context.
    pub context: ContextNo,
    /// The place of the first entry in its context.
    pub first: Sequence,
    /// How many entries there are.
    pub count: u32,
    /// The place of the first entry in the ledger.
    pub position: Position,
    /// The chain hash after the last entry: it names the chunk.
    pub chain: [u8; 32],
    /// The log entry that holds the chunk.
    pub index: LogIndex,
    /// The row in that log entry.
    pub row: u32,
}

/// Where the bytes of an entry are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// The entry's context.
    pub context: ContextNo,
    /// The entry's place in its context.
    pub sequence: Sequence,
    /// The entry's place in the ledger.
    pub position: Position,
    /// The entry's Lamport time.
    pub lamport: Lamport,
    /// The log entry that holds its bytes.
    pub index: LogIndex,
    /// The row in that log entry.
    pub row: u32,
}

/// The rows that apply reads: everything up to `State::applied`, and nothing after it.
pub trait View {
    /// Why a row could not be read. Apply passes it on and leaves the state as it was.
    type Error;

    /// The end of a context; none for one that has no entry and was never fenced.
    fn head(&self, context_id: &str) -> Result<Option<Head>, Self::Error>;

    /// The entry that an idempotency key stands for.
    fn key(&self, context: ContextNo, key: &str) -> Result<Option<KeyRow>, Self::Error>;
}

/// What applying one log entry changes, apart from [`State`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// One for each command of the batch.
    pub outcomes: Vec<Outcome>,
    /// The contexts that changed.
    pub heads: BTreeMap<String, Head>,
    /// The entries that are new, in order of position.
    pub entries: Vec<Indexed>,
    /// The idempotency keys that are new, in the order they came.
    pub keys: Vec<(ContextNo, String, KeyRow)>,
}
