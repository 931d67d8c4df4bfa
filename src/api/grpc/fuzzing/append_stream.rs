//! Bytes of strangers as the body of a stream of appends, see [`crate::fuzzing`].

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use converge_actors::fuzzing::{Input, Seed};
use converge_ledger_core::{Limits, Position};
use http_body::{Body, Frame};
use hyper::HeaderMap;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::super::append_stream::{AppendStream, Ends, Groups, Settled};
use super::super::body::{Fed, RequestBody};
use super::super::call::{Call, CallKind};
use super::super::connection::Connection;
use super::super::pb::ledger::{AppendStreamRequest, AppendStreamResponse};
use super::super::whole::PREFIX_BYTES;
use super::super::windows::Windows;
use super::super::{Settings, convert, encode, names};
use crate::{Config, Error, ManyEntry, Placed, Sequence};

/// The longest message, and what streams of appends may hold: both small, so that a small input meets them.
const MESSAGE_BYTES: usize = 2 << 10;
const STREAMS_BYTES: usize = 8 << 20;

/// A ledger that takes entries up to one, and keeps them.
#[derive(Clone)]
struct FakeLedger {
    /// And whether one was refused.
    entries: Arc<Mutex<(Vec<ManyEntry>, bool)>>,
    refuses: usize,
    group_max: usize,
}

fn limits() -> Limits {
    Limits { payload_bytes: 256, ..Limits::default() }
}

impl Groups for FakeLedger {
    fn accepts(&self, entry: &ManyEntry) -> Result<(), Error> {
        let key = entry.idempotency_key.as_deref().unwrap_or_default();
        let checked = limits().check(&entry.entry).and_then(|()| limits().check_idempotency_key(key));
        checked.map_err(|error| Error::InvalidArgument(error.to_string()))
    }

    fn next(&self, waiting: &mut VecDeque<ManyEntry>) -> Vec<ManyEntry> {
        waiting.drain(..self.group_max.min(waiting.len())).collect()
    }

    async fn append(&self, group: Vec<ManyEntry>, _: Instant) -> Settled {
        let mut kept = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (entries, refused) = &mut *kept;
        assert!(!group.is_empty() && !*refused, "a group is appended after an entry that was refused");
        let mut places = Vec::new();
        for entry in group {
            *refused = entries.len() == self.refuses;
            if *refused {
                return (places, Some(Error::Stopped));
            }
            entries.push(entry);
            let count = entries.len() as u64;
            places.push(Placed { sequence: Sequence(count), position: Position(count), deduplicated: false });
        }
        (places, None)
    }
}

/// A body in pieces.
struct Pieces {
    rest: Bytes,
    lengths: Vec<usize>,
    given: usize,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Poller<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.lengths.get(self.given % self.lengths.len().max(1)).map_or(usize::MAX, |length| 1 + length);
        self.given += 1;
        let length = length.min(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

/// The entries before the first thing that is none, and whether that is the end.
fn sound(mut body: Bytes, ledger: &FakeLedger) -> (Vec<ManyEntry>, bool) {
    let mut entries = Vec::new();
    while !body.is_empty() {
        let Some(&[flag, a, b, c, d]) = body.first_chunk::<PREFIX_BYTES>() else { return (entries, false) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag != 0 || length > MESSAGE_BYTES || body.len() < PREFIX_BYTES + length {
            return (entries, false);
        }
        body.advance(PREFIX_BYTES);
        let Ok(message) = AppendStreamRequest::decode(body.split_to(length)) else { return (entries, false) };
        let entry = convert::streamed_entry(message);
        if convert::context_id(&entry.entry.context_id).is_err() || ledger.accepts(&entry).is_err() {
            return (entries, false);
        }
        entries.push(entry);
    }
    (entries, true)
}

/// All that it is answered: how many entries are acknowledged, and the end.
async fn answers(mut answers: mpsc::Receiver<Fed>) -> (u64, Status) {
    let mut acknowledged = 0;
    loop {
        match answers.recv().await.expect("a stream says how it ends") {
            Fed::Bytes(bytes, _taken) => {
                let answer = AppendStreamResponse::decode(&bytes[PREFIX_BYTES..]).expect("an answer of ours");
                acknowledged += answer.places.len() as u64;
                assert_eq!(answer.acknowledged, acknowledged);
                assert!(answer.places.last().is_none_or(|place| place.position == acknowledged));
            }
            Fed::End(status) => return (acknowledged, status),
        }
    }
}

/// Which entry the ledger refuses, how large its groups are, in what pieces the body comes; and the body.
///
/// What is appended is what comes before the first thing that is wrong, all of it, and the end says so.
pub(crate) fn append_stream(data: &[u8]) -> bool {
    static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings::from(&Config::default()));
    let mut input = Input::new(data);
    let refuses = usize::from(input.byte()).checked_sub(1).unwrap_or(usize::MAX);
    let group_max = 1 + input.below(8);
    let pieces = input.below(8);
    let lengths = (0..pieces).map(|_| usize::from(input.byte())).collect();
    let body = Bytes::copy_from_slice(input.rest());
    let ledger = FakeLedger { entries: Arc::default(), refuses, group_max };
    let (mut expected, is_sound) = sound(body.clone(), &ledger);
    let is_sound = is_sound && expected.len() <= refuses;
    expected.truncate(refuses);

    let drain = CancellationToken::new();
    let call = Call::new(CallKind::AppendStream, &HeaderMap::new(), &Connection::new(false), &SETTINGS, &drain);
    let body = RequestBody::new(Pieces { rest: body, lengths, given: 0 }, None, MESSAGE_BYTES, call.clone());
    let window = Windows::new(STREAMS_BYTES).grant(&call);
    let ends = Ends::new(call, drain, None);
    let (sender, receiver) = mpsc::channel(1);
    let stream = AppendStream::new(ledger.clone(), body, ends, window, Duration::from_secs(10));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without a driver");
    let ((), (acknowledged, status)) = runtime.block_on(async { tokio::join!(stream.run(sender), answers(receiver)) });

    let (entries, _) = &*ledger.entries.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(*entries == expected, "of {} entries, {} are in the ledger: {status:?}", expected.len(), entries.len());
    let count = expected.len() as u64;
    let said = |name| status.metadata().get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    assert_eq!((acknowledged, said(names::ACKNOWLEDGED)), (count, Some(count)), "{status:?}");
    assert_eq!(status.code() == Code::Ok, is_sound, "{status:?}");
    assert_eq!(said(names::STREAM_POSITION), (!is_sound).then_some(count + 1), "{status:?}");
    is_sound
}

pub(super) fn seeds() -> Vec<Seed> {
    let entry = |payload: usize| AppendStreamRequest {
        context_id: "context".into(),
        key: "key".into(),
        payload: vec![7; payload].into(),
        metadata: [("name".to_owned(), "value".to_owned())].into(),
        idempotency_key: "once".into(),
        expected_sequence: Some(1),
    };
    let good = encode::message(&entry(9)).repeat(3);
    let nameless = encode::message(&AppendStreamRequest::default());
    let too_long = encode::message(&entry(MESSAGE_BYTES));
    let refused = encode::message(&entry(300));
    let seed = |name: &str, head: &[u8], bodies: &[&[u8]]| Seed::new("append_stream", name, &[head, &bodies.concat()]);
    vec![
        seed("sound", &[0, 7, 0], &[&good]),
        seed("sound_byte_by_byte", &[0, 0, 1, 0], &[&good]),
        seed("nothing", &[0, 0, 0], &[]),
        seed("one_that_the_ledger_refuses", &[3, 1, 2, 40, 200], &[&good]),
        seed("too_long_after_good_ones", &[0, 7, 0], &[&good, &too_long, &good]),
        seed("too_large_after_good_ones", &[0, 7, 1, 90], &[&good, &refused, &good]),
        seed("nameless_after_good_ones", &[0, 2, 1, 30], &[&good, &nameless, &good]),
        seed("compressed", &[0, 7, 0], &[&good, &[1, 0, 0, 0, 0], &good]),
        seed("no_message", &[0, 7, 0], &[&good, &[0, 0, 0, 0, 2, 255, 255], &good]),
        seed("ends_within", &[0, 7, 1, 3], &[&good, &good[..20]]),
    ]
}
