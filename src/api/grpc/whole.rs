//! A request's messages, each let through when it is there as a whole.
//!
//! The decoder behind reserves what the five bytes in front of a message say of its length. So those bytes reach it
//! together with the message: who announces much and sends little costs what was sent.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Flag and length in front of each message, as gRPC has them.
pub(super) const PREFIX_BYTES: usize = 5;
/// Pieces below this are put together: each keeps the connection's buffer that it came in.
const SMALL_BYTES: usize = 4 << 10;
/// What is put together has at most so many bytes.
const TOGETHER_BYTES: usize = 16 << 10;

/// What has come of a stream of messages.
#[derive(Default)]
pub(super) struct Whole {
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix has come.
    prefixed: usize,
    /// How much of the message has not come.
    missing: usize,
    waiting: VecDeque<Bytes>,
    small: BytesMut,
    ready: VecDeque<Bytes>,
}

/// What is not let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// A message of so many bytes.
    TooLong(usize),
    /// Another one, where there is to be one only.
    Second,
}

impl Whole {
    /// Takes what came.
    ///
    /// # Errors
    /// A message that is longer than `limit`, or one more where `one` is all there may be: what unpacks to much is
    /// then unpacked once.
    pub(super) fn push(&mut self, mut bytes: Bytes, limit: usize, one: bool) -> Result<(), Misfit> {
        while !bytes.is_empty() {
            if one && !self.ready.is_empty() {
                return Err(Misfit::Second);
            }
            let wanted = if self.prefixed < PREFIX_BYTES { PREFIX_BYTES - self.prefixed } else { self.missing };
            let part = bytes.split_to(wanted.min(bytes.len()));
            if self.prefixed < PREFIX_BYTES {
                self.prefix[self.prefixed..][..part.len()].copy_from_slice(&part);
                self.prefixed += part.len();
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length) as usize;
            } else {
                self.missing -= part.len();
            }
            self.wait(part);
            if self.prefixed < PREFIX_BYTES {
                continue;
            }
            if self.missing > limit {
                return Err(Misfit::TooLong(self.missing));
            }
            if self.missing == 0 {
                self.gather();
                self.ready.append(&mut self.waiting);
                self.prefixed = 0;
            }
        }
        Ok(())
    }

    fn wait(&mut self, part: Bytes) {
        if part.len() >= SMALL_BYTES {
            self.gather();
            self.waiting.push_back(part);
            return;
        }
        self.small.extend_from_slice(&part);
        if self.small.len() >= TOGETHER_BYTES {
            self.gather();
        }
    }

    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.waiting.push_back(std::mem::take(&mut self.small).freeze());
        }
    }

    /// The next piece of a message that is there as a whole.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// All that is there as a whole, put together.
    pub(super) fn join(&mut self) -> &[u8] {
        if self.ready.len() > 1 {
            let all = self.ready.make_contiguous().concat();
            self.ready = [Bytes::from(all)].into();
        }
        self.ready.front().map_or(&[], |piece| &piece[..])
    }

    /// Whether a message that is there as a whole waits.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether a message has begun and is not whole.
    pub(super) fn is_within(&self) -> bool {
        self.prefixed > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.prefixed == 0 && self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        message.extend((0..length).map(|at| at as u8));
        message
    }

    fn all(whole: &mut Whole) -> Vec<u8> {
        std::iter::from_fn(|| whole.pop()).flatten().collect()
    }

    #[test]
    fn a_message_is_let_through_when_all_of_it_is_there_however_it_comes() {
        let lengths = [0, 1, 9_000, 3, 40_000, 0];
        let stream: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
        for piece in [1, 3, 5, 4_096, 5_000, usize::MAX] {
            let (mut whole, mut out, mut ends) = (Whole::default(), Vec::new(), 0);
            for part in stream.chunks(piece.min(stream.len())) {
                whole.push(Bytes::copy_from_slice(part), 40_000, false).unwrap();
                out.extend(all(&mut whole));
                ends += 1;
                // What is let through ends where a message does.
                let mut end = 0;
                assert!(lengths.iter().any(|length| {
                    let found = end == out.len();
                    end += 5 + length;
                    found || end == out.len()
                }));
            }
            assert_eq!(out, stream, "in pieces of {piece}");
            assert!(ends > 0 && whole.is_empty());
        }
    }

    #[test]
    fn what_is_announced_is_not_let_through_and_what_is_too_long_is_named() {
        let mut whole = Whole::default();
        whole.push(Bytes::from_static(&[0, 0, 0, 1]), 1 << 20, true).unwrap();
        assert!(whole.is_within());
        whole.push(Bytes::from_static(&[0, 7, 7]), 1 << 20, true).unwrap();
        assert!(whole.pop().is_none() && whole.is_within());
        let mut whole = Whole::default();
        let too_long = Bytes::from_static(&[0, 0, 16, 0, 1]);
        assert_eq!(whole.push(too_long, 1 << 20, true), Err(Misfit::TooLong((1 << 20) + 1)));
        let (mut one, two) = (Whole::default(), Bytes::from_static(&[0, 0, 0, 0, 0, 0]));
        assert_eq!(one.push(two.slice(..5), 9, true), Ok(()));
        assert_eq!(one.push(two.slice(5..), 9, true), Err(Misfit::Second), "not a byte of another");
        assert_eq!(Whole::default().push(two, 9, true), Err(Misfit::Second), "nor with the first");
    }
}
