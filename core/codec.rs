//! Small records: version byte, content, checksum.
//!
//! The checksum is the last four bytes in every version, so that damage is told from a format of
//! a newer program. Nothing here panics on, or allocates more than in proportion to, the bytes it
//! is given.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checksum::{self, Checksum};

/// The version of [`encode_keyed`].
pub const RECORD_VERSION: u8 = 1;

/// Bytes are not what they should be. Those of a disk are lost then; those of a peer are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Written by a newer program, or damaged there.
    #[error("{what} has format version {found}, unknown to this program, which reads up to {known}: upgrade it")]
    Version {
        /// What was read.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The newest version known here.
        known: u8,
    },
    /// A newer program's: no program of this version, or an older one, ever wrote this number there.
    #[error("{what} {found} is unknown to this program: upgrade it")]
    Unknown {
        /// What was read.
        what: &'static str,
        /// The number found.
        found: u8,
    },
    /// The bytes end before the record does.
    #[error("{what} ends early")]
    Truncated {
        /// What was read.
        what: &'static str,
    },
    /// The bytes are not those that were written.
    #[error("{what} fails its checksum")]
    Checksum {
        /// What was read.
        what: &'static str,
    },
    /// The checksum is right, or there is none yet, and still the bytes mean nothing.
    #[error("{what} cannot be decoded")]
    Malformed {
        /// What was read.
        what: &'static str,
    },
    /// There are bytes behind the record.
    #[error("{what} has bytes behind its end")]
    Trailing {
        /// What was read.
        what: &'static str,
    },
    /// A sound record, and not the one that was asked for.
    #[error("{what} is not the one that its index names")]
    Mismatch {
        /// What was read.
        what: &'static str,
    },
}

impl CodecError {
    /// Whether a newer program may read these bytes: they are not passed over, for it finds something in them.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        match self {
            Self::Version { found, known, .. } => found > known,
            Self::Unknown { .. } => true,
            Self::Truncated { .. }
            | Self::Checksum { .. }
            | Self::Malformed { .. }
            | Self::Trailing { .. }
            | Self::Mismatch { .. } => false,
        }
    }
}

/// Splits the checksum off and compares it: first `scope`, then the bytes before the checksum.
fn verified<'a>(what: &'static str, scope: Checksum, data: &'a [u8]) -> Result<&'a [u8], CodecError> {
    let at = data.len().checked_sub(checksum::BYTES).ok_or(CodecError::Truncated { what })?;
    let (body, stored) = data.split_at(at);
    if scope.with(body).to_bytes() == *stored { Ok(body) } else { Err(CodecError::Checksum { what }) }
}

/// Splits the version byte off and checks it.
fn versioned<'a>(what: &'static str, body: &'a [u8]) -> Result<&'a [u8], CodecError> {
    match body.split_first() {
        None => Err(CodecError::Truncated { what }),
        Some((&RECORD_VERSION, content)) => Ok(content),
        Some((&found, _)) => Err(CodecError::Version { what, found, known: RECORD_VERSION }),
    }
}

/// Whether these bytes were written under this key, in whatever version.
#[must_use]
pub fn is_sound(key: &[u8], data: &[u8]) -> bool {
    verified("a record", Checksum::new().with(key), data).is_ok()
}

/// The version of a sound record that a newer program wrote under this key; none of any other.
#[must_use]
pub fn newer_version(key: &[u8], data: &[u8]) -> Option<u8> {
    let body = verified("a record", Checksum::new().with(key), data).ok()?;
    body.first().copied().filter(|&version| version > RECORD_VERSION)
}

/// The first field of a sound record of this version; none of any other.
#[must_use]
pub fn first_of<T: DeserializeOwned>(key: &[u8], data: &[u8]) -> Option<T> {
    let what = "a record";
    let content = versioned(what, verified(what, Checksum::new().with(key), data).ok()?).ok()?;
    postcard::take_from_bytes(content).map(|(first, _)| first).ok()
}

/// Appends the postcard form of a value.
pub(crate) fn put<T: Serialize + ?Sized>(out: Vec<u8>, value: &T) -> Vec<u8> {
    postcard::to_extend(value, out).expect("a value of ours has a postcard form")
}

/// A record that belongs to a key: its checksum covers the key, which is not stored again, so
/// that a record found under another key is found out.
///
/// # Panics
/// When the type has no postcard form (unsized sequences, untagged enums), which its first use in
/// a test shows.
#[must_use]
pub fn encode_keyed<T: Serialize + ?Sized>(key: &[u8], value: &T) -> Vec<u8> {
    sealed(key, put(vec![RECORD_VERSION], value))
}

/// As [`encode_keyed`], of bytes that stay as they are.
#[must_use]
pub fn encode_flat(key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + content.len() + checksum::BYTES);
    out.push(RECORD_VERSION);
    out.extend_from_slice(content);
    sealed(key, out)
}

fn sealed(key: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    let checksum = Checksum::new().with(key).with(&out).to_bytes();
    out.extend_from_slice(&checksum);
    out
}

/// Reads what [`encode_keyed`] wrote under the same key.
///
/// # Errors
/// Anything but exactly that.
pub fn decode_keyed<T: DeserializeOwned>(key: &[u8], data: &[u8]) -> Result<T, CodecError> {
    let what = "a record";
    let content = decode_flat(key, data)?;
    let (value, rest) = postcard::take_from_bytes(content).map_err(|_| CodecError::Malformed { what })?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing { what }) }
}

/// Reads what [`encode_flat`] wrote under the same key.
///
/// # Errors
/// Anything but exactly that.
pub fn decode_flat<'a>(key: &[u8], data: &'a [u8]) -> Result<&'a [u8], CodecError> {
    let what = "a record";
    versioned(what, verified(what, Checksum::new().with(key), data)?)
}
