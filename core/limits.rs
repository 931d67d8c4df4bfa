//! What a client may ask for, checked before anything is proposed.
//!
//! Apply does not look at these: a limit is a setting, and every node must compute the same.

use std::collections::BTreeMap;

use crate::entry::{Entry, NewEntry};

/// Upper bounds, all inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Bytes of a context's name.
    pub context_id_bytes: usize,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of an idempotency key.
    pub idempotency_key_bytes: usize,
    /// Pairs of metadata.
    pub metadata_pairs: usize,
    /// Bytes of metadata, names and values together.
    pub metadata_bytes: usize,
}

impl Limits {
    /// The limits of the client contract: settings may say less, not more.
    pub const CONTRACT: Self = Self {
        payload_bytes: 4 << 20,
        context_id_bytes: 1024,
        key_bytes: 1024,
        idempotency_key_bytes: 1024,
        metadata_pairs: 64,
        metadata_bytes: 64 << 10,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::CONTRACT
    }
}

/// A request is past a limit; nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Too many bytes of payload.
    #[error("payload is {bytes} bytes, the limit is {limit}: split it")]
    PayloadTooLarge {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A context has no name.
    #[error("context_id is empty: name the context")]
    ContextIdEmpty,
    /// Too long a context's name.
    #[error("context_id is {bytes} bytes, the limit is {limit}: shorten it")]
    ContextIdTooLong {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Too long a key.
    #[error("key is {bytes} bytes, the limit is {limit}: shorten it")]
    KeyTooLong {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Too long an idempotency key.
    #[error("idempotency key is {bytes} bytes, the limit is {limit}: use a hash of it")]
    IdempotencyKeyTooLong {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Too many pairs of metadata.
    #[error("metadata has {pairs} pairs, the limit is {limit}: move some into the payload")]
    TooManyPairs {
        /// Pairs found.
        pairs: usize,
        /// Pairs allowed.
        limit: usize,
    },
    /// Too many bytes of metadata.
    #[error("metadata is {bytes} bytes of names and values, the limit is {limit}: move some into the payload")]
    MetadataTooLarge {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

impl Limits {
    /// Checks an entry that a client wants to append.
    pub fn check(&self, entry: &NewEntry) -> Result<(), LimitError> {
        self.check_context_id(&entry.context_id)?;
        self.check_content(&entry.key, &entry.payload, &entry.metadata)
    }

    /// Checks an entry that comes out of a snapshot: it was made under other settings, perhaps by
    /// somebody else.
    pub fn check_entry(&self, entry: &Entry) -> Result<(), LimitError> {
        self.check_context_id(&entry.context_id)?;
        self.check_content(&entry.key, &entry.payload, &entry.metadata)
    }

    /// Checks what an entry is made of, without its context.
    pub fn check_content(
        &self,
        key: &str,
        payload: &[u8],
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), LimitError> {
        self.check_key(key)?;
        self.check_metadata(metadata)?;
        let (bytes, limit) = (payload.len(), self.payload_bytes);
        if bytes > limit {
            return Err(LimitError::PayloadTooLarge { bytes, limit });
        }
        Ok(())
    }

    /// Checks the name of a context, for requests that have nothing else.
    pub fn check_context_id(&self, context_id: &str) -> Result<(), LimitError> {
        let (bytes, limit) = (context_id.len(), self.context_id_bytes);
        if bytes == 0 {
            return Err(LimitError::ContextIdEmpty);
        }
        if bytes > limit {
            return Err(LimitError::ContextIdTooLong { bytes, limit });
        }
        Ok(())
    }

    /// Checks a key, also where it is a filter.
    pub fn check_key(&self, key: &str) -> Result<(), LimitError> {
        let (bytes, limit) = (key.len(), self.key_bytes);
        if bytes > limit {
            return Err(LimitError::KeyTooLong { bytes, limit });
        }
        Ok(())
    }

    /// Checks an idempotency key.
    pub fn check_idempotency_key(&self, key: &str) -> Result<(), LimitError> {
        let (bytes, limit) = (key.len(), self.idempotency_key_bytes);
        if bytes > limit {
            return Err(LimitError::IdempotencyKeyTooLong { bytes, limit });
        }
        Ok(())
    }

    fn check_metadata(&self, metadata: &BTreeMap<String, String>) -> Result<(), LimitError> {
        let (pairs, limit) = (metadata.len(), self.metadata_pairs);
        if pairs > limit {
            return Err(LimitError::TooManyPairs { pairs, limit });
        }
        let bytes = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        let limit = self.metadata_bytes;
        if bytes > limit {
            return Err(LimitError::MetadataTooLarge { bytes, limit });
        }
        Ok(())
    }
}
