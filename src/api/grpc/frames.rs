//! Follows the frames of a connection, to see what its client has begun and not finished.
//!
//! HTTP/2 says nothing of a frame, or of a block of headers, before all of it is there: until then there is no call and no
//! deadline, and a client that sends a byte now and then looks as busy as any. Nothing is checked here; that is the
//! business of whoever reads the frames.

/// What a client says first (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
/// Length, type, flags and stream (RFC 9113, 4.1).
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What is said of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// It has headers: it begins, where there was nothing of it before.
    Headers(u32),
    /// With its last frame.
    End(u32),
    /// It is over for both sides.
    Reset(u32),
}

/// What comes next.
enum At {
    /// So many bytes of the preface.
    Preface(usize),
    /// A frame's head, of which so much is there.
    Head([u8; HEAD_BYTES], usize),
    /// So many bytes of a frame.
    Body(usize),
}

/// How far a client's bytes have come.
pub(super) struct Frames {
    at: At,
    /// A block of headers goes on in the next frame.
    in_block: bool,
    /// The frame that comes is the end of one.
    ends_block: bool,
    /// When what is not whole yet began.
    began: Option<u64>,
}

impl Frames {
    pub(super) fn new() -> Frames {
        Frames { at: At::Preface(PREFACE_BYTES), in_block: false, ends_block: false, began: None }
    }

    /// Those of the side that says no preface.
    pub(super) fn of_answers() -> Frames {
        Frames { at: At::Head([0; HEAD_BYTES], 0), ..Frames::new() }
    }

    /// When the preface, the frame or the block of headers began that is not whole yet.
    pub(super) fn began(&self) -> Option<u64> {
        self.began
    }

    /// Takes what arrived at that time, and tells what it says of streams. Gives the longest time that a block of headers
    /// took which is whole now.
    pub(super) fn push(&mut self, mut bytes: &[u8], now: u64, mut tell: impl FnMut(Says)) -> Option<u64> {
        let mut took = None;
        while !bytes.is_empty() {
            let began = *self.began.get_or_insert(now);
            let count = self.wanted().min(bytes.len());
            let (part, rest) = bytes.split_at(count);
            bytes = rest;
            if self.take(part, &mut tell) && !self.in_block {
                self.began = None;
                if self.ends_block {
                    took = took.max(Some(now.saturating_sub(began)));
                }
            }
        }
        took
    }

    fn wanted(&self) -> usize {
        match &self.at {
            At::Preface(missing) | At::Body(missing) => *missing,
            At::Head(_, there) => HEAD_BYTES - there,
        }
    }

    /// Takes what is wanted, or a part of it. Whether something is whole with it.
    fn take(&mut self, part: &[u8], tell: &mut impl FnMut(Says)) -> bool {
        let missing = self.wanted() - part.len();
        match &mut self.at {
            At::Preface(left) | At::Body(left) => *left = missing,
            At::Head(head, there) => {
                head[*there..][..part.len()].copy_from_slice(part);
                *there += part.len();
            }
        }
        if missing > 0 {
            return false;
        }
        match self.at {
            At::Head(head, _) => {
                let length = self.begin(head);
                says(head).into_iter().flatten().for_each(tell);
                self.at = if length > 0 { At::Body(length) } else { At::Head([0; HEAD_BYTES], 0) };
                length == 0
            }
            At::Preface(_) | At::Body(_) => {
                self.at = At::Head([0; HEAD_BYTES], 0);
                true
            }
        }
    }

    /// A frame comes; gives its length.
    fn begin(&mut self, [a, b, c, kind, flags, ..]: [u8; HEAD_BYTES]) -> usize {
        let of_block = matches!(kind, HEADERS | CONTINUATION);
        if of_block {
            self.in_block = flags & END_HEADERS == 0;
        }
        self.ends_block = of_block && !self.in_block;
        u32::from_be_bytes([0, a, b, c]) as usize
    }
}

/// What a frame with this head says of its stream.
fn says([_, _, _, kind, flags, stream @ ..]: [u8; HEAD_BYTES]) -> [Option<Says>; 2] {
    // The highest bit is reserved.
    let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
    let end = (matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0).then_some(Says::End(stream));
    match kind {
        HEADERS => [Some(Says::Headers(stream)), end],
        RST_STREAM => [Some(Says::Reset(stream)), None],
        _ => [end, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: u8 = 4;

    fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(body);
        frame
    }

    #[test]
    fn what_is_whole_is_told_from_what_is_not_however_it_comes() {
        let said: [(&[u8], bool); 6] = [
            (PREFACE, true),
            (&frame(SETTINGS, 0, &[]), true),
            (&frame(HEADERS, 0, b"abc"), false),
            (&frame(CONTINUATION, 0, &[]), false),
            (&frame(CONTINUATION, END_HEADERS, b"d"), true),
            (&frame(DATA, END_HEADERS, &[7; 70_000]), true),
        ];
        for piece in [1, 2, 9, 10, 100_000] {
            let (mut frames, mut now) = (Frames::new(), 0);
            for (bytes, whole) in said {
                let began = frames.began().unwrap_or(now + 1);
                for part in bytes.chunks(piece) {
                    now += 1;
                    frames.push(part, now, drop);
                }
                assert_eq!(frames.began(), (!whole).then_some(began), "{:?} in pieces of {piece}", &bytes[..9]);
            }
            assert!(!frames.in_block && matches!(frames.at, At::Head(_, 0)));
        }
    }

    #[test]
    fn a_block_of_headers_took_as_long_as_all_of_its_frames() {
        let mut frames = Frames::new();
        frames.push(PREFACE, 0, drop);
        assert_eq!(frames.push(&frame(HEADERS, 0, b"a"), 10, drop), None);
        assert_eq!(frames.push(&frame(CONTINUATION, 0, b"b"), 20, drop), None);
        let end = [frame(CONTINUATION, END_HEADERS, b"c"), frame(HEADERS, END_HEADERS, b"d")].concat();
        assert_eq!(frames.push(&end, 35, drop), Some(25), "the longest of those that end here");
        assert_eq!(frames.push(&frame(HEADERS, END_HEADERS, b"d"), 40, drop), Some(0));
        assert_eq!(frames.push(&frame(DATA, 0, b"d"), 50, drop), None);
        assert_eq!(frames.began(), None);
    }

    #[test]
    fn an_empty_frame_and_one_that_is_cut_anywhere_have_their_times() {
        let mut frames = Frames::new();
        frames.push(&PREFACE[..3], 5, drop);
        assert_eq!(frames.began(), Some(5));
        frames.push(&PREFACE[3..], 6, drop);
        assert_eq!(frames.began(), None);
        let data = frame(DATA, 0, b"abcd");
        frames.push(&data[..4], 7, drop);
        frames.push(&data[4..11], 8, drop);
        assert_eq!(frames.began(), Some(7));
        frames.push(&data[11..], 9, drop);
        assert_eq!(frames.began(), None);
    }

    #[test]
    fn streams_begin_and_end_as_their_frames_say_however_they_come() {
        const PADDED: u8 = 8;
        let frames = [
            frame(HEADERS, END_HEADERS, b"abc"),
            frame(SETTINGS, END_STREAM, &[]),
            frame(DATA, PADDED, b"d"),
            frame(DATA, END_STREAM, &[]),
            frame(HEADERS, END_HEADERS | END_STREAM, b"e"),
            frame(RST_STREAM, 0, &[0; 4]),
        ]
        .concat();
        let said = [Says::Headers(1), Says::End(1), Says::Headers(1), Says::End(1), Says::Reset(1)];
        for piece in [1, 7, 9, 10, 1000] {
            let (mut of_answers, mut heard) = (Frames::of_answers(), Vec::new());
            for part in frames.chunks(piece) {
                of_answers.push(part, 0, |says| heard.push(says));
            }
            assert_eq!(heard, said, "in pieces of {piece}");
        }
    }
}
