//! What nodes say to each other of calls, as bytes.
//!
//! A frame is a version byte, a postcard header, and the bytes of the message or the answer, which nobody here reads.
//! Everything in it is bounded before it is acted on. What is no such frame closes the connection of this lane, and of no
//! other.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX};

/// Version of the layout, the first byte of a frame.
const VERSION: u8 = 1;

/// Bytes that are no frame of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of calls {0}")]
pub struct MalformedCall(pub(super) &'static str);

/// What the called node says of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallAnswer {
    /// The handler's answer.
    Done(Bytes),
    /// Nothing is registered under that name: the handler did not run.
    NoSuchName,
    /// What is registered takes other messages: the handler did not run.
    WrongType,
    /// The node works at as many calls of the caller's as it may: the handler did not run.
    Overloaded,
    /// The handler ran, and failed.
    Failed(String),
    /// The handler may have run, and there is no answer of it.
    NoAnswer,
}

/// One message between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallFrame {
    /// Run the handler of that name, and answer within that many milliseconds.
    Call { id: u64, name: String, tag: String, left_ms: u32, body: Bytes },
    /// Run it, and answer nothing.
    Cast { name: String, tag: String, body: Bytes },
    /// The answer to a call of this connection.
    Reply { id: u64, answer: CallAnswer },
    /// Nobody waits for that call any more.
    Cancel { id: u64 },
}

#[derive(Serialize, Deserialize)]
enum CallHeader<'a> {
    Call {
        id: u64,
        #[serde(borrow)]
        name: &'a str,
        tag: &'a str,
        left_ms: u32,
    },
    Cast {
        name: &'a str,
        tag: &'a str,
    },
    Done {
        id: u64,
    },
    NoSuchName {
        id: u64,
    },
    WrongType {
        id: u64,
    },
    Overloaded {
        id: u64,
    },
    Failed {
        id: u64,
        text: &'a str,
    },
    Cancel {
        id: u64,
    },
    NoAnswer {
        id: u64,
    },
}

impl CallFrame {
    /// The frame as pieces to be written one after the other; the body is not copied. A text that is too long is cut.
    pub(crate) fn encode(&self) -> Vec<Bytes> {
        let none = Bytes::new();
        let (header, body) = match self {
            CallFrame::Call { id, name, tag, left_ms, body } => {
                (CallHeader::Call { id: *id, name, tag, left_ms: *left_ms }, body)
            }
            CallFrame::Cast { name, tag, body } => (CallHeader::Cast { name, tag }, body),
            CallFrame::Reply { id, answer } => match answer {
                CallAnswer::Done(body) => (CallHeader::Done { id: *id }, body),
                CallAnswer::NoSuchName => (CallHeader::NoSuchName { id: *id }, &none),
                CallAnswer::WrongType => (CallHeader::WrongType { id: *id }, &none),
                CallAnswer::Overloaded => (CallHeader::Overloaded { id: *id }, &none),
                CallAnswer::Failed(text) => (CallHeader::Failed { id: *id, text: cut(text) }, &none),
                CallAnswer::NoAnswer => (CallHeader::NoAnswer { id: *id }, &none),
            },
            CallFrame::Cancel { id } => (CallHeader::Cancel { id: *id }, &none),
        };
        let head = postcard::to_extend(&header, vec![VERSION]).expect("a header encodes to memory");
        let mut pieces = vec![Bytes::from(head)];
        pieces.extend((!body.is_empty()).then(|| body.clone()));
        pieces
    }

    /// Reads a frame; a body is a slice of `bytes`.
    pub(crate) fn decode(bytes: &Bytes) -> Result<CallFrame, MalformedCall> {
        let Some((version, rest)) = bytes.split_first() else { return Err(MalformedCall("is empty")) };
        if *version != VERSION {
            return Err(MalformedCall("has a version that this build does not speak"));
        }
        let (header, body) =
            postcard::take_from_bytes::<CallHeader<'_>>(rest).map_err(|_| MalformedCall("has no header"))?;
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(MalformedCall("has a longer message than there may be"));
        }
        let has_body = matches!(header, CallHeader::Call { .. } | CallHeader::Cast { .. } | CallHeader::Done { .. });
        if !has_body && !body.is_empty() {
            return Err(MalformedCall("has more bytes than its kind"));
        }
        let body = bytes.slice(bytes.len() - body.len()..);
        let reply = |id, answer| Ok(CallFrame::Reply { id, answer });
        match header {
            CallHeader::Call { name, tag, .. } | CallHeader::Cast { name, tag }
                if name.len().max(tag.len()) > NAME_BYTES_MAX =>
            {
                Err(MalformedCall("has a longer name than there may be"))
            }
            CallHeader::Call { id, name, tag, left_ms } => {
                Ok(CallFrame::Call { id, name: name.to_owned(), tag: tag.to_owned(), left_ms, body })
            }
            CallHeader::Cast { name, tag } => Ok(CallFrame::Cast { name: name.to_owned(), tag: tag.to_owned(), body }),
            CallHeader::Done { id } => reply(id, CallAnswer::Done(body)),
            CallHeader::NoSuchName { id } => reply(id, CallAnswer::NoSuchName),
            CallHeader::WrongType { id } => reply(id, CallAnswer::WrongType),
            CallHeader::Overloaded { id } => reply(id, CallAnswer::Overloaded),
            CallHeader::Failed { id, text } => reply(id, CallAnswer::Failed(cut(text).to_owned())),
            CallHeader::NoAnswer { id } => reply(id, CallAnswer::NoAnswer),
            CallHeader::Cancel { id } => Ok(CallFrame::Cancel { id }),
        }
    }
}

/// As much of a text as travels.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn frames() -> impl Strategy<Value = CallFrame> {
        let answer = prop_oneof![
            body().prop_map(CallAnswer::Done),
            Just(CallAnswer::NoSuchName),
            Just(CallAnswer::WrongType),
            Just(CallAnswer::Overloaded),
            ".{0,20}".prop_map(CallAnswer::Failed),
            Just(CallAnswer::NoAnswer),
        ];
        prop_oneof![
            (any::<u64>(), ".{0,9}", ".{0,9}", any::<u32>(), body())
                .prop_map(|(id, name, tag, left_ms, body)| CallFrame::Call { id, name, tag, left_ms, body }),
            (".{0,9}", ".{0,9}", body()).prop_map(|(name, tag, body)| CallFrame::Cast { name, tag, body }),
            (any::<u64>(), answer).prop_map(|(id, answer)| CallFrame::Reply { id, answer }),
            any::<u64>().prop_map(|id| CallFrame::Cancel { id }),
        ]
    }

    fn decode(bytes: &[u8]) -> Result<CallFrame, MalformedCall> {
        CallFrame::decode(&Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn the_layout_is_pinned() {
        let (name, tag) = ("stock".to_owned(), "Reserve".to_owned());
        let call = CallFrame::Call { id: 7, name, tag, left_ms: 300, body: Bytes::from_static(b"body") };
        assert_eq!(call.encode().concat(), b"\x01\x00\x07\x05stock\x07Reserve\xac\x02body");
        let failed = CallFrame::Reply { id: 7, answer: CallAnswer::Failed("no".into()) };
        assert_eq!(failed.encode().concat(), b"\x01\x06\x07\x02no");
        assert_eq!(CallFrame::Cancel { id: 7 }.encode().concat(), b"\x01\x07\x07");
        let none = CallFrame::Reply { id: 7, answer: CallAnswer::NoAnswer };
        assert_eq!(none.encode().concat(), b"\x01\x08\x07");
    }

    #[test]
    fn what_is_no_frame_of_calls_is_told() {
        let call = |name: &str| CallFrame::Cast { name: name.into(), tag: "T".into(), body: Bytes::new() };
        assert!(decode(&call(&"n".repeat(NAME_BYTES_MAX)).encode().concat()).is_ok());
        assert!(decode(&call(&"n".repeat(NAME_BYTES_MAX + 1)).encode().concat()).is_err());
        for bytes in
            [&b""[..], b"\x02\x07\x07", b"\x01", b"\x01\x09\x07", b"\x01\x07\x07more", b"\x01\x01\x02\xff\xff\x00"]
        {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
        let long = CallFrame::Reply { id: 1, answer: CallAnswer::Done(Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1])) };
        assert!(decode(&long.encode().concat()).is_err());
    }

    #[test]
    fn a_text_is_cut_where_a_character_ends() {
        let failed = CallFrame::Reply { id: 1, answer: CallAnswer::Failed("ü".repeat(TEXT_BYTES_MAX)) };
        let CallFrame::Reply { answer: CallAnswer::Failed(text), .. } = decode(&failed.encode().concat()).unwrap()
        else {
            panic!("another answer")
        };
        assert_eq!(text, "ü".repeat(TEXT_BYTES_MAX / 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_frame_reads_back_as_itself(frame in frames()) {
            prop_assert_eq!(decode(&frame.encode().concat()), Ok(frame));
        }

        #[test]
        fn garbage_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }
}
