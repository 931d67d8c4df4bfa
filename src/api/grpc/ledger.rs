//! `LedgerService`: transactions, fences, and reads of the whole ledger. Its streams of appends are served before they come here
//! (`append_stream`).

use std::sync::Arc;
use std::time::Duration;

use converge_actors::storage::Ordinal;
use converge_ledger_core::{FenceEpoch, Position, Sequence};
use prost::Message as _;
use tokio::time::Instant;
use tokio_stream::Empty;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use super::body::Charged;
use super::budget::Budget;
use super::context::{Context, within};
use super::metadata::{Arrived, Begun, time_left};
use super::pb::ledger::ledger_service_server::LedgerService;
use super::pb::ledger::{
    AppendBatchRequest, AppendBatchResponse, AppendStreamRequest, AppendStreamResponse, AppendWithReceivedTimeRequest,
    AppendWithReceivedTimeResponse, FenceRequest, FenceResponse, GetHeadRequest, GetHeadResponse, ListContextsRequest,
    ListContextsResponse, ReadStreamRequest, ReadStreamResponse, WatchAllEvent, WatchAllRequest,
};
use super::status::{from_error, refused};
use super::watch::{Feed, FeedSlot, Feeding};
use super::{Settings, convert, names};
use crate::{AppendOptions, Consistency, Ledger, ReadAt, StreamOptions, TransactionEntry};

/// A list while it is read, once in memory and once encoded.
const LIST_BYTES: usize = 4 << 20;

/// What a place in an answer takes besides its texts, in memory and encoded.
const PLACED_BYTES: usize = 256;

pub(super) struct LedgerCalls {
    context: Arc<Context>,
    ledger: Ledger,
    settings: Settings,
    drain: CancellationToken,
    watches: Budget,
    reads: Budget,
}

impl LedgerCalls {
    /// With the budgets of the contract's watches and reads.
    pub(super) fn new(context: &Arc<Context>, ledger: &Ledger, settings: &Settings, drain: &CancellationToken) -> Self {
        let (watches, reads) = context.budgets();
        LedgerCalls {
            context: Arc::clone(context),
            ledger: ledger.clone(),
            settings: settings.clone(),
            drain: drain.clone(),
            watches,
            reads,
        }
    }

    fn time_left(&self, metadata: &MetadataMap, of: &Extensions) -> Result<Duration, Status> {
        time_left(metadata, of.get::<Arrived>().copied(), &self.settings)
    }

    /// The answer that a feed gives. It has no end in time of its own; only one that the client gave counts.
    fn fed<T>(
        &self,
        feeding: Feeding,
        from: Ordinal,
        metadata: &MetadataMap,
        of: &Extensions,
    ) -> Result<Response<Empty<Result<T, Status>>>, Status> {
        let timeout = metadata.contains_key("grpc-timeout").then(|| self.time_left(metadata, of)).transpose()?;
        let feed = Feed::new(feeding, from, self.watches.clone(), self.drain.clone(), timeout);
        let mut response = Response::new(tokio_stream::empty());
        response.extensions_mut().insert(FeedSlot::new(feed));
        Ok(response)
    }
}

#[tonic::async_trait]
impl LedgerService for LedgerCalls {
    type AppendStreamStream = Empty<Result<AppendStreamResponse, Status>>;
    /// Both are in the response's extensions: they are fed, not streamed.
    type ReadStreamStream = Empty<Result<ReadStreamResponse, Status>>;
    type WatchAllStream = Empty<Result<WatchAllEvent, Status>>;

    async fn append_stream(
        &self,
        _: Request<Streaming<AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        Err(Status::unimplemented("a stream of appends is served elsewhere"))
    }

    async fn append_batch(
        &self,
        request: Request<AppendBatchRequest>,
    ) -> Result<Response<AppendBatchResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        in_the_message(&metadata)?;
        let left = self.context.time_left(&metadata, &extensions)?;
        let transaction = convert::transaction(message);
        let bytes: usize = transaction.entries.iter().map(|one| one.entry.content_bytes() + PLACED_BYTES).sum();
        let held = self.context.room_for(bytes)?;
        Begun::set(&extensions);
        let done = self.context.ledger.transact(transaction, Some(left)).await.map_err(|error| from_error(&error))?;
        let placed = done.entries.into_iter().map(convert::placed).collect();
        let answer = AppendBatchResponse { placed, deduplicated: done.deduplicated, term: done.term.get() };
        let mut response = Response::new(answer);
        response.extensions_mut().insert(Charged(Arc::new(held)));
        Ok(response)
    }

    async fn append_with_received_time(
        &self,
        request: Request<AppendWithReceivedTimeRequest>,
    ) -> Result<Response<AppendWithReceivedTimeResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        in_the_message(&metadata)?;
        let AppendWithReceivedTimeRequest { entry, expected_sequence, fence_epoch, idempotency_key } = message;
        let TransactionEntry { entry, received_lamport } = convert::received_entry(entry.unwrap_or_default());
        convert::context_id(&entry.context_id)?;
        if received_lamport.is_none() {
            let why = "received_lamport is not given: give it, or use converge.context.v1";
            return Err(refused(Code::InvalidArgument, why));
        }
        let options = AppendOptions {
            idempotency_key: convert::given(idempotency_key),
            expected_sequence: expected_sequence.map(Sequence),
            fence_epoch: fence_epoch.map(FenceEpoch),
            received_lamport,
            deadline: Some(self.context.time_left(&metadata, &extensions)?),
        };
        let held = self.context.room_for(entry.content_bytes())?;
        Begun::set(&extensions);
        let done = self.context.ledger.append(entry, options).await.map_err(|error| from_error(&error))?;
        let mut response = Response::new(AppendWithReceivedTimeResponse {
            entry: Some(convert::ledger_entry(done.entry)),
            deduplicated: done.deduplicated,
            term: done.term.get(),
        });
        response.extensions_mut().insert(Charged(Arc::new(held)));
        Ok(response)
    }

    async fn fence(&self, request: Request<FenceRequest>) -> Result<Response<FenceResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        in_the_message(&metadata)?;
        convert::context_id(&message.context_id)?;
        let left = self.context.time_left(&metadata, &extensions)?;
        Begun::set(&extensions);
        let fenced = self.context.ledger.fence(&message.context_id, message.epoch.map(FenceEpoch), Some(left)).await;
        let fenced = fenced.map_err(|error| from_error(&error))?;
        Ok(Response::new(FenceResponse {
            epoch: fenced.epoch.get(),
            latest_sequence: fenced.latest.get(),
            position: fenced.position.get(),
            term: fenced.term.get(),
        }))
    }

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let left = self.time_left(&metadata, &extensions)?;
        let from = convert::stream_from(&message)?;
        let options = StreamOptions { deadline: Some(left), ..convert::stream_options(message)? };
        let stream = self.ledger.stream(from, options).await.map_err(|error| from_error(&error))?;
        let before = stream.before();
        self.fed(Feeding::Stream(Box::new(stream)), before, &metadata, &extensions)
    }

    async fn watch_all(&self, request: Request<WatchAllRequest>) -> Result<Response<Self::WatchAllStream>, Status> {
        let (metadata, extensions, WatchAllRequest { from_position }) = request.into_parts();
        let watch = self.ledger.watch_all(Position(from_position));
        self.fed(Feeding::All(watch), Ordinal(from_position), &metadata, &extensions)
    }

    async fn list_contexts(
        &self,
        request: Request<ListContextsRequest>,
    ) -> Result<Response<ListContextsResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let ListContextsRequest { prefix, after, limit, consistency, min_position } = message;
        let consistency = convert::consistency(consistency)?;
        let deadline = Instant::now() + self.time_left(&metadata, &extensions)?;
        // It holds no room while it waits for the node.
        let reached = self.ledger.may_read(Consistency::Stale, Position(min_position), deadline);
        within(deadline, &extensions, reached).await?.map_err(|error| from_error(&error))?;
        let mut held = within(deadline, &extensions, self.reads.wait(LIST_BYTES)).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let at = ReadAt { consistency, min_position: Position(min_position), deadline: Some(left) };
        let listed = self.ledger.contexts(&prefix, &after, limit, at).await.map_err(|error| from_error(&error))?;
        let answer = ListContextsResponse {
            contexts: listed.contexts.into_iter().map(convert::context_head).collect(),
            next: listed.next.unwrap_or_default(),
            position: listed.position.get(),
            term: listed.term.get(),
        };
        held.shrink(2 * answer.encoded_len());
        let mut response = Response::new(answer);
        response.extensions_mut().insert(Charged(Arc::new(held)));
        Ok(response)
    }

    async fn get_head(&self, request: Request<GetHeadRequest>) -> Result<Response<GetHeadResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let GetHeadRequest { context_id, consistency, min_position } = message;
        let consistency = convert::consistency(consistency)?;
        let left = self.time_left(&metadata, &extensions)?;
        let at = ReadAt { consistency, min_position: Position(min_position), deadline: Some(left) };
        let heads = if context_id.is_empty() {
            self.ledger.ledger_head(at).await.map(|ledger| (None, ledger))
        } else {
            convert::context_id(&context_id)?;
            self.ledger.head(&context_id, at).await
        };
        let (context, ledger) = heads.map_err(|error| from_error(&error))?;
        let (context, ledger) = (context.map(convert::context_head), Some(convert::ledger_head(&ledger)));
        Ok(Response::new(GetHeadResponse { context, ledger }))
    }
}

/// What `converge.context.v1` takes from a call's metadata, this service takes from its message. It is not passed over: whoever
/// gives a key counts on it.
fn in_the_message(metadata: &MetadataMap) -> Result<(), Status> {
    let given =
        [names::IDEMPOTENCY_KEY, names::EXPECTED_SEQUENCE].into_iter().find(|name| metadata.contains_key(*name));
    given.map_or(Ok(()), |name| {
        Err(refused(Code::InvalidArgument, format!("{name} is for converge.context.v1: give it in the message")))
    })
}
