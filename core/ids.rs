//! Numbers and identifiers with types, so that a log index is never taken for a sequence.
//!
//! Zero means "none" or "before the first" for every number here; counting starts at 1.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number, for codecs.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number after this one. Stays at `u64::MAX`: callers pass in numbers that a
            /// client chose, and no counter of ours gets there.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A node of the cluster, fixed by configuration, unique in the cluster.
    NodeId
}
number! {
    /// A Raft term.
    Term
}
number! {
    /// The place of an entry in the replicated log: 1, 2, 3 …
    LogIndex
}
number! {
    /// The place of an entry in its context: 1, 2, 3 … without a gap, never reused.
    Sequence
}
number! {
    /// The place of an entry in the whole ledger: 1, 2, 3 … without a gap.
    Position
}
number! {
    /// Lamport time of an entry in its context: `max(local, received) + 1`.
    Lamport
}
number! {
    /// How often a context was fenced, or the number that its fencer chose: it only rises. 0 in one that never was.
    FenceEpoch
}
number! {
    /// The number under which a context is interned, 1, 2, 3 … in order of creation.
    ContextNo
}
number! {
    /// How many times a node's data directory was opened by a process; never goes back.
    Boot
}
number! {
    /// Log sequence number of the journal; runs on across its files.
    Lsn
}

/// A text is not an identifier of 32 lowercase hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an identifier is 32 lowercase hexadecimal digits")]
pub struct ParseIdError;

fn parse_hex(text: &str) -> Result<[u8; 16], ParseIdError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(ParseIdError),
    };
    let text = text.as_bytes();
    if text.len() != 32 {
        return Err(ParseIdError);
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(id)
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }

        /// Hex for people (JSON), sixteen raw bytes for disk and wire.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

identifier! {
    /// The name of an entry, fixed at admission; 32 lowercase hex digits for clients.
    EntryId
}
identifier! {
    /// The name of a cluster, fixed at genesis.
    ClusterId
}
identifier! {
    /// The name of a data directory, random, made with it.
    StoreId
}

/// One call of one process of one node. A call that is submitted again keeps it, which is what
/// makes applying it twice harmless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The node that took the call.
    pub node: NodeId,
    /// The boot of that node in which it was taken.
    pub boot: Boot,
    /// 1, 2, 3 … within the boot.
    pub counter: u64,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.boot, self.counter)
    }
}
