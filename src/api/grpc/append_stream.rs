//! `LedgerService/AppendStream`: appends of one client in their order, without waiting for each.
//!
//! A task of its own per stream. While one group of entries is with the ledger, the next is filled from what has come;
//! once that is full, nothing more is read, and HTTP/2 makes the client wait. An answer acknowledges a group, and while one
//! is not taken by its client, no further group begins after the next: so a client that sends and never reads holds two
//! groups and one answer. What has come is charged from its first byte until its group is settled, as bytes, and from when
//! it is decoded for what that takes as well. The window pays for it (`windows`), and a budget for what is beyond.
//!
//! A group is all or a prefix (`crate::many`), and the stream ends with the first entry that is not appended. So what is in
//! the ledger is a prefix of what was sent, whatever ends the stream; the trailers say how far the node knows it.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http_body::Body;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::body::{Fed, RequestBody};
use super::call::Call;
use super::pb::ledger::{AppendStreamRequest, AppendStreamResponse, Place, Window};
use super::status::{from_error, refused};
use super::whole::PREFIX_BYTES;
use super::windows::Granted;
use super::{convert, encode, names};
use crate::many::{ManyEntry, Placed};
use crate::{Error, Ledger, NewEntry, Sequence};

/// Entries that may be with the ledger, and as many that wait behind them. Their bytes are half of the window, or one entry.
const GROUP_ENTRIES: usize = 1024;
/// What a pair of metadata takes in memory besides its texts: two strings, and their part of a map.
const PAIR_BYTES: usize = 128;

/// What is in the ledger of a group, and why the next one is not.
pub(super) type Settled = (Vec<Placed>, Option<Error>);
type Flight = Pin<Box<dyn Future<Output = Settled> + Send>>;

/// Where the groups of a stream go.
pub(super) trait Groups: Clone + Send + 'static {
    /// Whether it may be appended at all.
    fn accepts(&self, entry: &ManyEntry) -> Result<(), Error>;
    /// Takes from the front what one group holds: one entry at least.
    fn next(&self, waiting: &mut VecDeque<ManyEntry>) -> Vec<ManyEntry>;
    fn append(&self, group: Vec<ManyEntry>, deadline: Instant) -> impl Future<Output = Settled> + Send;
}

impl Groups for Ledger {
    fn accepts(&self, entry: &ManyEntry) -> Result<(), Error> {
        self.check(&entry.entry, entry.idempotency_key.as_deref())
    }

    fn next(&self, waiting: &mut VecDeque<ManyEntry>) -> Vec<ManyEntry> {
        self.next_group(waiting)
    }

    fn append(&self, group: Vec<ManyEntry>, deadline: Instant) -> impl Future<Output = Settled> + Send {
        self.append_group(group, deadline)
    }
}

/// The messages of a stream, one by one.
struct Requests<B> {
    body: RequestBody<B>,
    /// What is not decoded: whole messages, but for one whose pieces are still handed over.
    rest: BytesMut,
}

/// What comes of a client's side of a stream.
enum Came {
    Message(AppendStreamRequest, usize),
    End,
    /// It cannot be read on.
    Refused(Status),
    /// The client is gone.
    Gone,
}

impl<B> Requests<B>
where
    B: Body<Data = bytes::Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    /// What comes next. Loses nothing where it is dropped.
    async fn next(&mut self) -> Came {
        loop {
            if let Some(came) = self.pop() {
                return came;
            }
            match poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                None => return Came::End,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => self.put(&piece),
                    Err(_trailers) => return Came::End,
                },
                Some(Err(error)) => match error.downcast::<Status>() {
                    Ok(status) => return Came::Refused(*status),
                    Err(_) => return Came::Gone,
                },
            }
        }
    }

    fn put(&mut self, piece: &[u8]) {
        self.rest.extend_from_slice(piece);
        if let Some(length) = length(&self.rest) {
            // All of it has come already, and is charged: a buffer that doubles would take more.
            self.rest.reserve((PREFIX_BYTES + length).saturating_sub(self.rest.len()));
        }
    }

    /// The next message that is there.
    fn pop(&mut self) -> Option<Came> {
        let bytes = PREFIX_BYTES + length(&self.rest)?;
        if self.rest.len() < bytes {
            return None;
        }
        let mut message = self.rest.split_to(bytes).freeze();
        if message[0] != 0 {
            let why = "a message is compressed: a stream takes none that are";
            return Some(Came::Refused(refused(Code::Unimplemented, why)));
        }
        message.advance(PREFIX_BYTES);
        Some(match AppendStreamRequest::decode(message) {
            Ok(request) => Came::Message(request, bytes),
            Err(error) => Came::Refused(refused(Code::InvalidArgument, format!("a message is none: {error}"))),
        })
    }
}

/// The length that the first five bytes say.
fn length(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>()?;
    let [_, length @ ..] = *prefix;
    Some(u32::from_be_bytes(length) as usize)
}

/// What ends a stream besides its client.
pub(super) struct Ends {
    call: Arc<Call>,
    drain: CancellationToken,
    deadline: Option<Instant>,
}

impl Ends {
    pub(super) fn new(call: Arc<Call>, drain: CancellationToken, deadline: Option<Instant>) -> Ends {
        Ends { call, drain, deadline }
    }

    async fn next(&self) -> Status {
        let late = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.drain.cancelled() => {
                refused(Code::Unavailable, "the node is stopping: go on with the first entry that is not acknowledged, on another node")
            }
            () = late => {
                let message = "the deadline passed: go on with the first entry that is not acknowledged";
                refused(Code::DeadlineExceeded, message)
            }
            status = self.call.goes() => status,
        }
    }
}

/// One stream.
pub(super) struct AppendStream<B, G> {
    groups: G,
    /// What a group may take at most.
    group_time: Duration,
    requests: Requests<B>,
    ends: Ends,
    window: Granted,
    /// What came, and is not with the ledger.
    waiting: VecDeque<ManyEntry>,
    /// What each of them takes.
    weights: VecDeque<usize>,
    waiting_bytes: usize,
    /// And what the entries take that are with the ledger.
    flying_bytes: usize,
    /// Entries that are in the ledger and not acknowledged yet.
    places: Vec<Placed>,
    /// In the ledger, from the stream's first entry on.
    settled: u64,
    /// It was told to end.
    hurries: bool,
    /// What the stream ends with, once all before is settled and told.
    last: Option<Status>,
}

impl<B, G> AppendStream<B, G>
where
    G: Groups,
    B: Body<Data = bytes::Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    pub(super) fn new(groups: G, body: RequestBody<B>, ends: Ends, window: Granted, group_time: Duration) -> Self {
        AppendStream {
            groups,
            group_time,
            requests: Requests { body: body.backed_by(window.backed), rest: BytesMut::new() },
            ends,
            window,
            waiting: VecDeque::new(),
            weights: VecDeque::new(),
            waiting_bytes: 0,
            flying_bytes: 0,
            places: Vec::new(),
            settled: 0,
            hurries: false,
            last: None,
        }
    }

    /// Runs it to its end.
    pub(super) async fn run(mut self, to: mpsc::Sender<Fed>) {
        let window = Window { entries: 2 * GROUP_ENTRIES as u32, bytes: self.window.bytes() as u64 };
        let first = AppendStreamResponse { window: Some(window), ..AppendStreamResponse::default() };
        let mut untaken = send(&to, &first).await;
        let mut flight: Option<Flight> = None;
        loop {
            if untaken.is_none() && !self.places.is_empty() {
                let places = self.places.drain(..).map(place).collect();
                let answer = AppendStreamResponse { acknowledged: self.settled, window: None, places };
                untaken = send(&to, &answer).await;
            }
            if flight.is_none() && self.places.is_empty() {
                flight = self.take_off();
            }
            self.ends.call.set_at_work(flight.is_some());
            if flight.is_none()
                && self.places.is_empty()
                && let Some(status) = self.last.take()
            {
                return drop(to.send(Fed::End(self.with_place(status))).await);
            }
            let wants_more = self.last.is_none() && self.has_room();
            tokio::select! {
                biased;
                () = to.closed() => return,
                () = taken(&mut untaken) => untaken = None,
                settled = landed(&mut flight) => {
                    flight = None;
                    self.settle(settled);
                }
                status = self.ends.next(), if !self.hurries => self.hurry(status),
                came = self.requests.next(), if wants_more => {
                    if !self.take(came) {
                        return;
                    }
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < GROUP_ENTRIES && self.waiting_bytes < self.window.bytes() / 2
    }

    /// What came, and what else is there already; false when the client is gone.
    fn take(&mut self, came: Came) -> bool {
        let mut next = Some(came);
        while let Some(came) = next {
            match came {
                Came::Gone => return false,
                Came::End => self.last = Some(Status::ok("")),
                Came::Refused(status) => self.last = Some(status),
                Came::Message(request, bytes) => {
                    if let Err(status) = self.take_entry(request, bytes) {
                        self.last = Some(status);
                    }
                }
            }
            let wants_more = self.last.is_none() && self.has_room();
            next = if wants_more { self.requests.pop() } else { None };
        }
        true
    }

    /// One more that waits. It came in so many bytes, which its payload keeps.
    fn take_entry(&mut self, request: AppendStreamRequest, bytes: usize) -> Result<(), Status> {
        convert::context_id(&request.context_id)?;
        let entry = convert::streamed_entry(request);
        self.groups.accepts(&entry).map_err(|error| from_error(&error))?;
        let made = made_bytes(&entry);
        self.requests.body.charge(made)?;
        self.waiting.push_back(entry);
        self.weights.push_back(bytes + made);
        self.waiting_bytes += bytes + made;
        Ok(())
    }

    /// The next group, on its way.
    fn take_off(&mut self) -> Option<Flight> {
        if self.waiting.is_empty() {
            return None;
        }
        let group = self.groups.next(&mut self.waiting);
        self.flying_bytes = self.weights.drain(..group.len()).sum();
        self.waiting_bytes -= self.flying_bytes;
        let latest = Instant::now() + self.group_time;
        let deadline = self.ends.deadline.map_or(latest, |deadline| deadline.min(latest));
        let groups = self.groups.clone();
        Some(Box::pin(async move { groups.append(group, deadline).await }))
    }

    fn settle(&mut self, (places, failed): Settled) {
        self.requests.body.gave(std::mem::take(&mut self.flying_bytes));
        self.settled += places.len() as u64;
        self.places = places;
        if let Some(error) = failed {
            self.stop(from_error(&error));
        }
    }

    /// It is to end, also where all has come: what waits does not go to the ledger any more. Where nothing waits, what came
    /// says how it ends.
    fn hurry(&mut self, status: Status) {
        self.hurries = true;
        if self.last.is_none() || !self.waiting.is_empty() {
            self.stop(status);
        }
    }

    /// Nothing more goes to the ledger.
    fn stop(&mut self, status: Status) {
        self.waiting.clear();
        self.requests.body.gave(std::mem::take(&mut self.waiting_bytes));
        self.weights.clear();
        self.last = Some(status);
    }

    /// Where the stream stood.
    fn with_place(&self, mut status: Status) -> Status {
        status.metadata_mut().insert(names::ACKNOWLEDGED, self.settled.into());
        if status.code() != Code::Ok {
            status.metadata_mut().insert(names::STREAM_POSITION, (self.settled + 1).into());
        }
        status
    }
}

/// What was made of a message, but for the payload, which is a part of it.
fn made_bytes(entry: &ManyEntry) -> usize {
    let NewEntry { context_id, key, payload: _, metadata } = &entry.entry;
    let pairs = metadata.iter().map(|(name, value)| name.len() + value.len() + PAIR_BYTES);
    let texts = context_id.len() + key.len() + entry.idempotency_key.as_ref().map_or(0, String::len);
    size_of::<ManyEntry>() + texts + pairs.sum::<usize>()
}

fn place(placed: Placed) -> Place {
    let Placed { sequence: Sequence(sequence), position, deduplicated } = placed;
    Place { sequence, position: position.get(), deduplicated }
}

/// Hands over an answer; tells when it is taken. The client may be gone, which others notice.
async fn send(to: &mpsc::Sender<Fed>, answer: &AppendStreamResponse) -> Option<oneshot::Receiver<()>> {
    let (sender, taken) = oneshot::channel();
    let _ = to.send(Fed::Bytes(encode::message(answer), sender)).await;
    Some(taken)
}

async fn taken(untaken: &mut Option<oneshot::Receiver<()>>) {
    match untaken {
        Some(taken) => _ = taken.await,
        None => pending().await,
    }
}

async fn landed(flight: &mut Option<Flight>) -> Settled {
    match flight {
        Some(flight) => flight.await,
        None => pending().await,
    }
}
