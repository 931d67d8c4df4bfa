//! Bodies that count: what is being received and sent stays within budgets and deadlines.
//!
//! A request is given to its decoder when all of it has come, and not before: a message can be a thousand times as large
//! as what came of it, and more, packed or not, and nobody is charged for that. So nothing is unpacked or decoded for a
//! client that the node still waits for. Only a conversation is decoded message by message.
//!
//! An answer is handed to HTTP/2 piece by piece: the next one, and the trailers, only when the last one went into the
//! socket. So an answer that nobody reads holds one piece there, its call lives and can be ended, and what it is
//! charged for is given back when its last byte is gone, and not before. Small pieces are gone when HTTP/2 has put them beside
//! others, of which it and [`super::connection::Metered`] hold 20 KiB for a connection.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::HeaderMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status};

use super::budget::{Budget, Held};
use super::call::{Call, CallKind, STALLED};
use super::crowd::Entered;
use super::places::Places;
use super::status::{overloaded, refused};
use super::transaction_fits::transaction_fits;
use super::whole::{Misfit, Whole};

/// When to come back after a shed request.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// An answer goes into HTTP/2 in pieces of at most so many bytes.
const PIECE_BYTES: usize = 64 << 10;
/// A message of a conversation has so long from its first byte to its last, while the node reads.
pub(super) const MESSAGE_TIME: Duration = Duration::from_secs(30);
/// Of a request that is not whole, so much is a sign that its client goes on.
const PROGRESS_BYTES: usize = 4 << 10;
/// The trailers go right behind a piece that is not larger than this: one write for the answer to an append.
const SMALL_BYTES: usize = 4 << 10;

/// Gives the call its places, or says why there is none.
pub(super) type Admit = Box<dyn FnOnce() -> Result<(), Status> + Send>;

/// A request's body; what arrived of it counts until it was decoded.
pub(super) struct RequestBody<B> {
    pub(super) inner: B,
    /// None where its kind's places bound it well enough.
    budget: Option<Budget>,
    /// So much of what was received is charged elsewhere.
    backed: usize,
    held: Option<(Held, Entered)>,
    received: usize,
    /// Bytes since the last sign that its client goes on, and whether a message was whole.
    progress: (usize, bool),
    whole: Whole,
    /// All of it has come; in front of this, what is left to decode.
    ended: Option<Option<Frame<Bytes>>>,
    /// Why a conversation cannot be read on: said once the messages before that are handed over.
    failed: Option<Status>,
    message_bytes_max: usize,
    call: Arc<Call>,
    /// Called when a message is whole: until then it takes no place.
    admit: Option<Admit>,
    patience: Option<Pin<Box<Sleep>>>,
    /// What is left to the message that has begun, of a conversation, and since when it is waited for.
    message_left: Duration,
    waits_since: Option<Instant>,
}

impl<B> RequestBody<B> {
    pub(super) fn new(inner: B, budget: Option<Budget>, message_bytes_max: usize, call: Arc<Call>) -> Self {
        let (held, received, progress, whole, ended, patience) = (None, 0, (0, false), Whole::default(), None, None);
        let (failed, admit) = (None, None);
        RequestBody {
            inner,
            budget,
            backed: 0,
            held,
            received,
            progress,
            whole,
            ended,
            failed,
            message_bytes_max,
            call,
            admit,
            patience,
            message_left: MESSAGE_TIME,
            waits_since: None,
        }
    }

    pub(super) fn admitted_by(self, admit: Option<Admit>) -> Self {
        RequestBody { admit, ..self }
    }

    /// So much of it is charged elsewhere.
    pub(super) fn backed_by(self, bytes: usize) -> Self {
        RequestBody { backed: bytes, ..self }
    }

    fn is_conversation(&self) -> bool {
        self.call.kind.is_conversation()
    }

    /// So much of what was received is needed no more.
    pub(super) fn gave(&mut self, bytes: usize) {
        self.received = self.received.saturating_sub(bytes);
        match (self.received.saturating_sub(self.backed), &mut self.held) {
            (0, held) => *held = None,
            (left, Some((held, _))) => held.shrink(left),
            (_, None) => {}
        }
    }

    /// For all that was received: a client may send it byte by byte. And for what was made of it.
    ///
    /// # Errors
    /// There is no room. What was received counts all the same.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Status> {
        match self.has_room(bytes) {
            true => Ok(()),
            false => Err(overloaded("the node is receiving as many bytes as it may: try again", RETRY_AFTER)),
        }
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        let Some(budget) = &self.budget else { return true };
        self.received += bytes;
        let charged = self.received.saturating_sub(self.backed);
        if charged == 0 {
            return true;
        }
        if let Some((held, _)) = &mut self.held {
            let grown = held.grow_to(budget, charged);
            if !grown {
                budget.is_short();
            }
            return grown;
        }
        self.held = budget.hold(charged).map(|held| {
            let waits = held.waits_for(&self.call);
            (held, waits)
        });
        self.held.is_some()
    }

    /// What came, charged and put to its message.
    fn take(&mut self, data: Bytes) -> Result<(), Status> {
        if !data.is_empty() {
            self.charge(data.len())?;
        }
        let bytes = data.len();
        let (limit, one) = (self.message_bytes_max, !self.is_conversation());
        self.whole.push(data, limit, one).map_err(|misfit| match misfit {
            Misfit::TooLong(bytes) => {
                let message = format!("a message of {bytes} bytes is larger than the limit of {limit} bytes: split it");
                refused(Code::ResourceExhausted, message)
            }
            Misfit::Second => {
                refused(Code::InvalidArgument, "the request has more than one message: make a call for each")
            }
        })?;
        if !self.whole.is_within() || self.whole.is_ready() {
            self.message_left = MESSAGE_TIME;
        }
        self.progress(bytes);
        Ok(())
    }

    /// A message that is whole is a sign that the client goes on, once; after that, and before, so are many bytes.
    fn progress(&mut self, came: usize) {
        let (bytes, was_whole) = self.progress;
        let bytes = bytes + came;
        let is_whole = was_whole || (came > 0 && !self.whole.is_within());
        let much = bytes >= PROGRESS_BYTES;
        let moves = is_whole != was_whole || much;
        self.progress = (if moves { 0 } else { bytes }, is_whole);
        match (moves, much && self.whole.is_within()) {
            (true, true) => self.call.sends(),
            (true, false) => self.call.moved(),
            (false, _) => {}
        }
    }

    /// Nothing came: only so long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        self.call.seems_at_work(false);
        if self.call.kind != CallKind::AppendStream
            && let Some(status) = self.call.farewell()
        {
            return Poll::Ready(status);
        }
        let is_conversation = self.is_conversation();
        // Between two messages it is as silent as it likes: others end it where they want its place.
        if is_conversation && !self.whole.is_within() {
            return Poll::Pending;
        }
        let now = Instant::now();
        let until = match is_conversation {
            true => *self.waits_since.get_or_insert(now) + self.message_left,
            false => self.call.request_until.min(now + STALLED),
        };
        // What comes again and again just before a timer fires is late all the same.
        if until > now {
            let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            ready!(patience.as_mut().poll(cx));
        }
        let message = match is_conversation {
            true => format!("a message took longer than {MESSAGE_TIME:?} to arrive: send it again"),
            false => "the request did not arrive within its deadline: send it again, with more time".to_owned(),
        };
        Poll::Ready(refused(Code::DeadlineExceeded, message))
    }

    /// Something came. While nobody asks for more, the time of a message stands still.
    fn came(&mut self) {
        self.call.seems_at_work(true);
        self.patience = None;
        let waited = self.waits_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.message_left = self.message_left.saturating_sub(waited);
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if this.ended.is_some() || this.is_conversation() {
                if this.call.kind == CallKind::Transact && this.admit.is_some() {
                    // As one piece, so that it is looked through before a decoder makes much of it.
                    if let Err(status) = transaction_fits(this.whole.join()) {
                        return Poll::Ready(Some(Err(status.into())));
                    }
                }
                if let Some(piece) = this.whole.pop() {
                    if let Some(Err(status)) = this.admit.take().map(|admit| admit()) {
                        return Poll::Ready(Some(Err(status.into())));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                if let Some(status) = this.failed.take() {
                    return Poll::Ready(Some(Err(status.into())));
                }
                if let Some(end) = this.ended.take() {
                    return Poll::Ready(end.map(Ok));
                }
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Pending => return this.wait(cx).map(|status| Some(Err(status.into()))),
                Poll::Ready(frame) => frame,
            };
            this.came();
            let ends = match frame {
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        match this.take(data) {
                            Err(status) if this.is_conversation() => this.failed = Some(status),
                            Err(status) => return Poll::Ready(Some(Err(status.into()))),
                            Ok(()) => {}
                        }
                        continue;
                    }
                    Err(trailers) => Some(trailers),
                },
                None => None,
            };
            if this.whole.is_within() {
                let status = refused(Code::InvalidArgument, "the request ends within its message: send all of it");
                return Poll::Ready(Some(Err(status.into())));
            }
            this.ended = Some(ends);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.whole.is_empty() && self.ended.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A piece of an answer. HTTP/2 drops it when its last byte is in the socket, or with its stream.
pub(super) struct Piece {
    bytes: Bytes,
    call: Arc<Call>,
    /// What the answer was charged for.
    _held: Option<Arc<Held>>,
    /// Dropped with the piece: that it was taken.
    _taken: Option<oneshot::Sender<()>>,
    /// The trailers are behind it already: its connection sees that it is read.
    alone: Option<usize>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(turn) = self.alone {
            self.call.connection().read(turn);
        }
        self.call.piece_taken();
    }
}

/// What a watch hands over.
pub(super) enum Fed {
    /// Some bytes; the sender is dropped when they were taken.
    Bytes(Bytes, oneshot::Sender<()>),
    /// The end.
    End(Status),
}

/// An answer that the node has encoded by itself, with what it is charged for. In a response's extensions.
#[derive(Clone)]
pub(super) struct Encoded {
    pub(super) parts: VecDeque<Bytes>,
    pub(super) held: Arc<Held>,
}

/// What an answer of another's encoding is charged for. In a response's extensions.
#[derive(Clone)]
pub(super) struct Charged(#[allow(dead_code, reason = "held for its drop")] pub(super) Arc<Held>);

/// Where an answer comes from.
pub(super) enum Source {
    Tonic(tonic::body::Body),
    Encoded(VecDeque<Bytes>),
    Watch(mpsc::Receiver<Fed>),
}

/// An answer's body; its call has its places until it was sent.
pub(super) struct ResponseBody {
    source: Source,
    /// The rest of what the source gave.
    rest: Bytes,
    /// The last piece was not taken yet.
    outstanding: Option<oneshot::Receiver<()>>,
    ended: bool,
    call: Arc<Call>,
    held: Option<Arc<Held>>,
    _waits: Option<Entered>,
    _places: Option<Places>,
}

impl ResponseBody {
    pub(super) fn new(source: Source, call: Arc<Call>, places: Option<Places>, held: Option<Arc<Held>>) -> Self {
        let (rest, outstanding, ended) = (Bytes::new(), None, false);
        let waits = held.as_ref().map(|held| held.waits_for(&call));
        ResponseBody { source, rest, outstanding, ended, call, held, _waits: waits, _places: places }
    }

    /// The next piece of `self.rest`.
    fn piece(&mut self, taken: Option<oneshot::Sender<()>>) -> Piece {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        let small = bytes.len() <= SMALL_BYTES && self.rest.is_empty() && taken.is_none();
        let taken = taken.or_else(|| {
            if small {
                return None;
            }
            let (sender, receiver) = oneshot::channel();
            self.outstanding = Some(receiver);
            Some(sender)
        });
        let alone = small.then(|| self.call.connection().unread());
        self.call.piece_waits();
        Piece { bytes, call: self.call.clone(), _held: self.held.clone(), _taken: taken, alone }
    }

    fn trailers(&mut self, status: &Status) -> Frame<Piece> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", (Code::Internal as i32).into());
        }
        Frame::trailers(trailers)
    }
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(outstanding) = &mut this.outstanding {
                let _ = ready!(Pin::new(outstanding).poll(cx));
                this.outstanding = None;
            }
            if this.ended {
                return Poll::Ready(None);
            }
            // Only of those that wait and ask: what another has to say, as that its entry was written, stands.
            if this.call.kind.is_idle()
                && let Some(status) = this.call.farewell()
            {
                return Poll::Ready(Some(Ok(this.trailers(&status))));
            }
            if !this.rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(this.piece(None)))));
            }
            match &mut this.source {
                Source::Tonic(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                    None => return Poll::Ready(None),
                    Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => this.rest = bytes,
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap_or_default();
                            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                        }
                    },
                },
                Source::Encoded(parts) => match parts.pop_front() {
                    Some(part) => this.rest = part,
                    None => return Poll::Ready(Some(Ok(this.trailers(&Status::ok(""))))),
                },
                Source::Watch(fed) => match ready!(fed.poll_recv(cx)) {
                    Some(Fed::Bytes(bytes, taken)) => {
                        this.rest = bytes;
                        return Poll::Ready(Some(Ok(Frame::data(this.piece(Some(taken))))));
                    }
                    Some(Fed::End(status)) => return Poll::Ready(Some(Ok(this.trailers(&status)))),
                    // Its task ended with the actor.
                    None => return Poll::Ready(Some(Err(Status::unavailable("the node is stopping")))),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Tonic(_) if self.ended => true,
            Source::Tonic(body) => body.is_end_stream() && self.rest.is_empty() && self.outstanding.is_none(),
            Source::Encoded(_) | Source::Watch(_) => self.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
