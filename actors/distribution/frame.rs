//! The frame: what travels between two nodes, and nothing about what it means.
//!
//! ```text
//! 0        4        5      6          10
//! | length | format | kind | checksum | payload (length bytes)
//! ```
//!
//! Integers are little-endian. `length` counts the payload alone; `checksum` is crc32c over the six
//! bytes before it and the payload, because TCP's own lets one flipped bit in some 65,000 pass. A
//! header is judged before a byte is allocated for its payload.
//!
//! This module does no I/O.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes in front of every payload.
pub(super) const HEADER_BYTES: usize = 10;
/// Version of the layout above. Every later format keeps the first five bytes.
pub(super) const FORMAT: u8 = 1;
/// A hello, its answer or a refusal is never longer: strangers may send them.
pub(super) const GREETING_BYTES_MAX: usize = 1024;
/// Payload of a ping and of a pong: the sender's monotonic microseconds.
pub(super) const BEAT_BYTES: usize = 8;
/// Pieces shorter than this are copied next to their header; longer ones are written from where they lie.
const COPY_BELOW_BYTES: usize = 4096;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// The dialer's first frame.
    Hello,
    /// The acceptor's consent.
    HelloAck,
    /// The acceptor's refusal; the connection closes after it.
    Refuse,
    /// Sign of life that asks for a [`FrameKind::Pong`].
    Ping,
    /// Answer to a ping, with its payload.
    Pong,
    /// A message of whoever uses the distribution.
    Data,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            FrameKind::Hello => 1,
            FrameKind::HelloAck => 2,
            FrameKind::Refuse => 3,
            FrameKind::Ping => 4,
            FrameKind::Pong => 5,
            FrameKind::Data => 6,
        }
    }

    fn from_code(code: u8) -> Option<FrameKind> {
        Some(match code {
            1 => FrameKind::Hello,
            2 => FrameKind::HelloAck,
            3 => FrameKind::Refuse,
            4 => FrameKind::Ping,
            5 => FrameKind::Pong,
            6 => FrameKind::Data,
            _ => return None,
        })
    }

    fn payload_bytes_max(self, data_bytes_max: usize) -> usize {
        match self {
            FrameKind::Hello | FrameKind::HelloAck | FrameKind::Refuse => GREETING_BYTES_MAX,
            FrameKind::Ping | FrameKind::Pong => BEAT_BYTES,
            FrameKind::Data => data_bytes_max,
        }
    }
}

/// Bytes that are no frame of ours. The connection they came from is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// A length above the bound of its kind.
    #[error("a frame announces {length} bytes, {limit} are allowed")]
    TooLong {
        /// What the header says.
        length: usize,
        /// What its kind may have.
        limit: usize,
    },
    /// A layout this version cannot read.
    #[error("frame format {0} is unknown, this node reads {FORMAT}")]
    Format(u8),
    /// A kind this version does not have.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// A known kind at the wrong moment.
    #[error("a frame of kind {0:?} is out of place")]
    OutOfPlace(FrameKind),
    /// The bytes are not those that were sent.
    #[error("the checksum of a frame does not match its bytes")]
    Checksum,
    /// A payload that its kind cannot have.
    #[error("the payload of a {0:?} frame cannot be read")]
    Payload(FrameKind),
}

/// A header that passed its checks; the payload has still to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: FrameKind,
    pub(super) length: usize,
    /// crc32c so far, over the header's first six bytes.
    seed: u32,
    checksum: u32,
}

impl Header {
    /// Judges ten bytes. `data_bytes_max` bounds a [`FrameKind::Data`] payload; the other kinds have their own bounds.
    pub(super) fn parse(raw: &[u8; HEADER_BYTES], data_bytes_max: usize) -> Result<Header, Malformed> {
        let [l0, l1, l2, l3, format, kind, c0, c1, c2, c3] = *raw;
        if format != FORMAT {
            return Err(Malformed::Format(format));
        }
        let kind = FrameKind::from_code(kind).ok_or(Malformed::Kind(kind))?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let limit = kind.payload_bytes_max(data_bytes_max);
        if length > limit {
            return Err(Malformed::TooLong { length, limit });
        }
        Ok(Header { kind, length, seed: crc32c::crc32c(&raw[..6]), checksum: u32::from_le_bytes([c0, c1, c2, c3]) })
    }

    /// Whether `payload` is what the sender checksummed.
    pub(super) fn verify(&self, payload: &[u8]) -> Result<(), Malformed> {
        if payload.len() == self.length && crc32c::crc32c_append(self.seed, payload) == self.checksum {
            Ok(())
        } else {
            Err(Malformed::Checksum)
        }
    }
}

fn header(kind: FrameKind, pieces: &[Bytes]) -> [u8; HEADER_BYTES] {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    // The handle refuses a payload above its bound, which is far below 4 GiB.
    let length = u32::try_from(length).expect("a payload above the frame bound reached the encoder");
    let mut raw = [0; HEADER_BYTES];
    raw[..4].copy_from_slice(&length.to_le_bytes());
    raw[4] = FORMAT;
    raw[5] = kind.code();
    let seed = crc32c::crc32c(&raw[..6]);
    let checksum = pieces.iter().fold(seed, |crc, piece| crc32c::crc32c_append(crc, piece));
    raw[6..].copy_from_slice(&checksum.to_le_bytes());
    raw
}

/// One frame as one buffer, for the handshake.
pub(super) fn encode(kind: FrameKind, payload: Bytes) -> Bytes {
    let mut gather = Gather::default();
    gather.push(kind, vec![payload]);
    gather.seal();
    gather.copy_to_bytes(gather.remaining())
}

/// Frames on their way to the socket: short pieces copied together, long ones left where they are.
#[derive(Debug, Default)]
pub(super) struct Gather {
    chunks: VecDeque<Bytes>,
    copied: BytesMut,
    sealed_bytes: usize,
}

impl Gather {
    /// Adds one frame of these pieces.
    pub(super) fn push(&mut self, kind: FrameKind, pieces: Vec<Bytes>) {
        self.copied.put_slice(&header(kind, &pieces));
        for piece in pieces {
            if piece.len() < COPY_BELOW_BYTES {
                self.copied.put_slice(&piece);
            } else {
                self.seal();
                self.sealed_bytes += piece.len();
                self.chunks.push_back(piece);
            }
        }
    }

    /// Makes everything pushed so far readable through [`Buf`].
    pub(super) fn seal(&mut self) {
        if !self.copied.is_empty() {
            self.sealed_bytes += self.copied.len();
            self.chunks.push_back(self.copied.split().freeze());
        }
    }
}

impl Buf for Gather {
    fn remaining(&self) -> usize {
        self.sealed_bytes
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.sealed_bytes, "advanced past the end of what was gathered");
        self.sealed_bytes -= count;
        while count > 0 {
            let front = self.chunks.front_mut().expect("remaining counts the chunks");
            let step = count.min(front.len());
            front.advance(step);
            count -= step;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 64 * 1024;

    fn parse(bytes: &[u8]) -> Result<(FrameKind, Bytes), Malformed> {
        let raw: &[u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().unwrap();
        let head = Header::parse(raw, LIMIT)?;
        let payload = Bytes::copy_from_slice(&bytes[HEADER_BYTES..]);
        head.verify(&payload)?;
        Ok((head.kind, payload))
    }

    #[test]
    fn the_layout_is_pinned() {
        let bytes = encode(FrameKind::Data, Bytes::from_static(b"abc"));
        assert_eq!(&bytes[..6], &[3, 0, 0, 0, 1, 6]);
        assert_eq!(&bytes[10..], b"abc");
        let mut covered = bytes[..6].to_vec();
        covered.extend_from_slice(b"abc");
        assert_eq!(bytes[6..10], crc32c::crc32c(&covered).to_le_bytes());
    }

    #[test]
    fn a_gibibyte_is_refused_by_its_header_alone() {
        let mut raw = header(FrameKind::Data, &[]);
        raw[..4].copy_from_slice(&(1u32 << 30).to_le_bytes());
        assert_eq!(Header::parse(&raw, LIMIT), Err(Malformed::TooLong { length: 1 << 30, limit: LIMIT }));
        raw[5] = FrameKind::Hello.code();
        assert!(matches!(Header::parse(&raw, LIMIT), Err(Malformed::TooLong { limit: GREETING_BYTES_MAX, .. })));
    }

    #[test]
    fn long_pieces_are_not_copied() {
        let long = Bytes::from(vec![7; COPY_BELOW_BYTES]);
        let mut gather = Gather::default();
        gather.push(FrameKind::Data, vec![Bytes::from_static(b"head"), long.clone()]);
        gather.seal();
        assert_eq!(gather.chunks.len(), 2);
        assert_eq!(gather.chunks[1].as_ptr(), long.as_ptr());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pieces_come_back_as_one_payload(
            sizes in proptest::collection::vec(0usize..6000, 0..5),
            step in 1usize..5000,
        ) {
            let pieces: Vec<Bytes> =
                sizes.iter().enumerate().map(|(n, size)| Bytes::from(vec![n as u8; *size])).collect();
            let whole: Vec<u8> = pieces.concat();
            let mut gather = Gather::default();
            gather.push(FrameKind::Data, pieces);
            gather.seal();
            let mut wire = Vec::new();
            while gather.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 4];
                let filled = gather.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|s| s.to_vec()).collect();
                let take = step.min(seen.len());
                wire.extend_from_slice(&seen[..take]);
                gather.advance(take);
            }
            prop_assert_eq!(parse(&wire).unwrap(), (FrameKind::Data, Bytes::from(whole)));
        }

        #[test]
        fn a_flipped_bit_is_never_taken_for_the_frame(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            bit in any::<prop::sample::Index>(),
        ) {
            let mut wire = encode(FrameKind::Data, Bytes::from(payload)).to_vec();
            let bit = bit.index(wire.len() * 8);
            wire[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse(&wire).is_err());
        }

        #[test]
        fn garbage_never_panics(raw in any::<[u8; HEADER_BYTES]>()) {
            if let Ok(head) = Header::parse(&raw, LIMIT) {
                prop_assert!(head.length <= LIMIT);
            }
        }
    }
}
