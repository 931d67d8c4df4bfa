//! What a client may ask for, checked before anything is proposed.
//!
//! Apply does not look at these: a limit is a setting, and every node must compute the same.

use std::collections::BTreeMap;

use crate::command::Condition;
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
    /// Entries of a transaction.
    pub transaction_entries: usize,
    /// Conditions of a transaction.
    pub transaction_conditions: usize,
    /// Bytes of a transaction, all that is in it.
    pub transaction_bytes: usize,
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
        transaction_entries: 1000,
        transaction_conditions: 128,
        transaction_bytes: 5 << 20,
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
    /// A transaction without an entry.
    #[error("a transaction has at least one entry: read a context to look at it")]
    TransactionEmpty,
    /// Too many entries in a transaction.
    #[error("the transaction has {entries} entries, the limit is {limit}: split it")]
    TooManyEntries {
        /// Entries found.
        entries: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// Too many conditions of a transaction.
    #[error("the transaction has {conditions} conditions, the limit is {limit}: split it")]
    TooManyConditions {
        /// Conditions found.
        conditions: usize,
        /// Conditions allowed.
        limit: usize,
    },
    /// A condition that always holds.
    #[error("condition {} names neither a sequence nor a fence epoch: name one", nth + 1)]
    ConditionEmpty {
        /// Which one, counted from 0.
        nth: usize,
    },
    /// Too many bytes in a transaction.
    #[error("the transaction is {bytes} bytes, the limit is {limit}: split it")]
    TransactionTooLarge {
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

    /// Checks what a transaction has besides its entries, of which there are so many and so many bytes.
    pub fn check_transaction(&self, conditions: &[Condition], entries: usize, bytes: usize) -> Result<(), LimitError> {
        let limit = self.transaction_entries;
        match entries {
            0 => return Err(LimitError::TransactionEmpty),
            entries if entries > limit => return Err(LimitError::TooManyEntries { entries, limit }),
            _ => {}
        }
        let limit = self.transaction_conditions;
        if conditions.len() > limit {
            return Err(LimitError::TooManyConditions { conditions: conditions.len(), limit });
        }
        for (nth, condition) in conditions.iter().enumerate() {
            self.check_context_id(&condition.context_id)?;
            if condition.sequence.is_none() && condition.fence_epoch.is_none() {
                return Err(LimitError::ConditionEmpty { nth });
            }
        }
        let limit = self.transaction_bytes;
        if bytes > limit {
            return Err(LimitError::TransactionTooLarge { bytes, limit });
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
