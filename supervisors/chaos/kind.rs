//! Which kind of message a message is, without knowing its type.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A variant of a message type. For an enum without explicit discriminants, its number is the variant's place in the
/// declaration, from 0. A type that is no enum has one kind. A supervisor's messages, which are the kit's own, are told
/// apart by what is in them, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKind {
    variant: u64,
    within: Option<u64>,
}

/// The kind of a message, to be given to a trigger or compared with what a sweep reports.
pub fn kind_of<M>(message: &M) -> MessageKind {
    let mut reader = Reader(0);
    std::mem::discriminant(message).hash(&mut reader);
    MessageKind { variant: reader.0, within: None }
}

impl MessageKind {
    /// This variant, with that of what is in it.
    pub(crate) fn within<M>(self, inner: &M) -> MessageKind {
        MessageKind { within: Some(kind_of(inner).variant), ..self }
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.variant)?;
        self.within.map_or(Ok(()), |within| write!(f, ".{within}"))
    }
}

/// Reads back the one integer that a discriminant hashes: its type tells nothing else.
struct Reader(u64);

impl Hasher for Reader {
    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        let len = bytes.len().min(word.len());
        word[..len].copy_from_slice(&bytes[..len]);
        self.0 = u64::from_le_bytes(word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Ask {
        One,
        Two { _text: &'static str },
        Three { _deep: Option<u8> },
    }

    #[test]
    fn a_kind_is_the_variant_and_nothing_of_what_is_in_it() {
        let (a, b) = (Ask::Two { _text: "a" }, Ask::Two { _text: "b" });
        let kinds = [Ask::One, a, b, Ask::Three { _deep: None }];
        let kinds: Vec<_> = kinds.iter().map(|ask| kind_of(ask).to_string()).collect();
        assert_eq!(kinds, ["#0", "#1", "#1", "#2"]);
        assert_eq!(kind_of(&7u8), kind_of(&8u8), "no enum: one kind");
        assert_eq!(kind_of(&Some(Ask::One)).within(&Ask::Three { _deep: None }).to_string(), "#1.2");
    }
}
