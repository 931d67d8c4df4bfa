//! `ContextService`: the client contract over a [`Ledger`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use converge_actors::storage::Ordinal;
use converge_ledger_core::{Position, Sequence};
use tokio::time::Instant;
use tokio_stream::Empty;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataValue, MetadataMap, MetadataValue};
use tonic::{Code, Extensions, Request, Response, Status};

use super::body::{Charged, Encoded};
use super::budget::{Budget, Held, STEP_BYTES};
use super::call::Call;
use super::crowd::Rule;
use super::metadata::{Arrived, Begun, consistency, expected_sequence, idempotency_key, min_position, time_left};
use super::pb::context::context_service_server::ContextService;
use super::pb::context::{
    AppendRequest, AppendResponse, GetRequest, GetResponse, LoadRequest, LoadResponse, SnapshotMetadata,
    SnapshotRequest, SnapshotResponse, WatchEvent, WatchRequest,
};
use super::status::{from_error, overloaded, refused};
use super::watch::{Feed, FeedSlot, Feeding};
use super::{Settings, convert, encode, names};
use crate::config::ENTRY_BYTES_MAX;
use crate::ledger::size;
use crate::pages::Pages;
use crate::snapshots::unpacked_bytes;
use crate::{AppendOptions, Error, Ledger, ReadOptions};

/// When to come back after a shed append.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Of the budget for answers, watches have one part in so many; reads have the rest.
const WATCHES_PART: usize = 3;
/// An append's answer brings its entry back: once as it is, once encoded.
const APPEND_FACTOR: usize = 2;

pub(super) struct Context {
    pub(super) ledger: Ledger,
    settings: Settings,
    drain: CancellationToken,
    appends: Budget,
    reads: Budget,
    /// The most that one read can need.
    read_bytes_max: usize,
    snapshots: Budget,
    /// What is unpacked of snapshots that are loaded.
    loads: Budget,
    watches: Budget,
}

impl Context {
    pub(super) fn new(ledger: Ledger, settings: Settings, drain: CancellationToken) -> Self {
        let read_bytes_max = settings.response_bytes.max(ENTRY_BYTES_MAX) + STEP_BYTES;
        let watches = (settings.answer_bytes / WATCHES_PART).max(STEP_BYTES);
        let reads = settings.answer_bytes.saturating_sub(watches).max(read_bytes_max);
        let appends = settings.inflight_bytes.saturating_mul(APPEND_FACTOR);
        let budget = |limit, bytes| Budget::new(limit, bytes, Rule::Read, &ledger);
        Context {
            appends: budget("limits.inflight_bytes (answers to appends)", appends),
            reads: budget("limits.answer_bytes (reads)", reads),
            read_bytes_max,
            snapshots: budget("limits.snapshot_bytes (answers)", snapshot_bytes_max(&settings)),
            loads: budget("limits.snapshot_bytes (loads)", unpacked_bytes(&ledger)),
            watches: budget("limits.answer_bytes (watches)", watches),
            ledger,
            settings,
            drain,
        }
    }

    pub(super) fn time_left(&self, metadata: &MetadataMap, of: &Extensions) -> Result<Duration, Status> {
        time_left(metadata, of.get::<Arrived>().copied(), &self.settings)
    }

    /// Room for the answer to an append of so many bytes, before anything is proposed.
    pub(super) fn room_for(&self, bytes: usize) -> Result<Held, Status> {
        self.appends.hold(APPEND_FACTOR * bytes).ok_or_else(|| {
            let message = "too many answers to appends are being sent: try again";
            overloaded(message, RETRY_AFTER)
        })
    }

    /// The answer to a read, step by step: with what room there is, or with all that it can need.
    async fn read(&self, mut pages: Pages<'_>, of: &Extensions) -> Result<ReadAnswer, Status> {
        let deadline = pages.deadline();
        let room = within(deadline, of, self.reads.wait(STEP_BYTES)).await?;
        if let Some(read) = self.collect(&mut pages, room).await? {
            return Ok(read);
        }
        // Nothing is held while it waits.
        pages.restart();
        let room = within(deadline, of, self.reads.wait(self.read_bytes_max)).await?;
        let read = self.collect(&mut pages, room).await?;
        read.ok_or_else(|| overloaded("too many large answers are being sent: try again, or page", RETRY_AFTER))
    }

    /// None where the room ran out.
    async fn collect(&self, pages: &mut Pages<'_>, mut held: Held) -> Result<Option<ReadAnswer>, Status> {
        let (mut parts, mut count, mut bytes, mut encoded) = (Vec::new(), 0, 0, 0);
        let bytes_max = self.settings.response_bytes;
        while let Some(step) = pages.next().await.map_err(|error| from_error(&error))? {
            count += step.len();
            bytes += step.iter().map(size).sum::<usize>();
            // What was accepted can be read: one entry always fits.
            if bytes > bytes_max && count > 1 {
                return Err(from_error(&Error::ResponseTooLarge { limit: bytes_max }));
            }
            let part = encode::entries(step);
            encoded += part.len();
            parts.push(part);
            // The next step has room before it is read.
            if !pages.is_over() && !held.grow_to(&self.reads, encoded + STEP_BYTES) {
                return Ok(None);
            }
        }
        held.shrink(encoded + FRAME_BYTES);
        let (latest, position) = (pages.latest().get(), pages.position());
        Ok(Some(ReadAnswer { parts: encode::read(parts, latest), position, held }))
    }

    /// Room for what watches and streams read, and for answers to reads.
    pub(super) fn budgets(&self) -> (Budget, Budget) {
        (self.watches.clone(), self.reads.clone())
    }
}

/// What is answered to a read.
struct ReadAnswer {
    parts: Vec<Bytes>,
    /// Up to which all of the context is in it.
    position: Position,
    held: Held,
}

fn position_value(position: Position) -> AsciiMetadataValue {
    let mut value = MetadataValue::from(position.get());
    // Another one each time: HTTP/2 is not to keep it for answers to come.
    value.set_sensitive(true);
    value
}

/// What an answer has besides its entries.
const FRAME_BYTES: usize = 64;

/// A blob while it is finished, twice; and the step that is packed.
fn snapshot_bytes_max(settings: &Settings) -> usize {
    settings.snapshot_bytes.saturating_mul(2).saturating_add(STEP_BYTES)
}

/// Waits for room; not past the deadline, nor where others want the call's place.
pub(super) async fn within<T>(deadline: Instant, of: &Extensions, room: impl Future<Output = T>) -> Result<T, Status> {
    let call = of.get::<Arc<Call>>().cloned();
    let _waits = call.clone().map(Call::waits_for_room);
    let farewell = async {
        match &call {
            Some(call) => call.leaves().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        room = tokio::time::timeout_at(deadline, room) => room.map_err(|_| {
            let message = "other calls took all the room until the deadline: try again; a read, in pages";
            refused(Code::DeadlineExceeded, message)
        }),
        status = farewell => Err(status),
    }
}

#[tonic::async_trait]
impl ContextService for Context {
    /// The events are in the response's extensions: they are fed, not streamed.
    type WatchStream = Empty<Result<WatchEvent, Status>>;

    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let options = AppendOptions {
            idempotency_key: idempotency_key(&metadata)?,
            expected_sequence: expected_sequence(&metadata)?,
            deadline: Some(self.time_left(&metadata, &extensions)?),
            ..AppendOptions::default()
        };
        let entry = convert::new_entry(message);
        let held = self.room_for(entry.content_bytes())?;
        Begun::set(&extensions);
        let appended = self.ledger.append(entry, options).await.map_err(|error| from_error(&error))?;
        let position = position_value(appended.entry.position);
        let mut response = Response::new(AppendResponse { entry: Some(convert::entry(appended.entry)) });
        let metadata = response.metadata_mut();
        metadata.insert(names::POSITION, position);
        metadata.insert(names::TERM, appended.term.get().into());
        let deduplicated = if appended.deduplicated { "true" } else { "false" };
        metadata.insert(names::DEDUPLICATED, MetadataValue::from_static(deduplicated));
        response.extensions_mut().insert(Charged(Arc::new(held)));
        Ok(response)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let consistency = consistency(&metadata)?;
        let left = self.time_left(&metadata, &extensions)?;
        let options = ReadOptions {
            after: Sequence(message.after_sequence),
            limit: message.limit,
            key: convert::key_filter(message.key)?,
            consistency,
            min_position: min_position(&metadata)?,
            deadline: Some(left),
        };
        let pages = self.ledger.pages(&message.context_id, options).await.map_err(|error| from_error(&error))?;
        let ReadAnswer { parts, position, held } = self.read(pages, &extensions).await?;
        let mut response = Response::new(GetResponse::default());
        response.metadata_mut().insert(names::TERM, self.ledger.term().get().into());
        response.metadata_mut().insert(names::POSITION, position_value(position));
        response.extensions_mut().insert(Encoded { parts: parts.into(), held: Arc::new(held) });
        Ok(response)
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<SnapshotResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let left = self.time_left(&metadata, &extensions)?;
        let deadline = Instant::now() + left;
        let mut held = within(deadline, &extensions, self.snapshots.wait(usize::MAX)).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let snapshot =
            self.ledger.snapshot(&message.context_id, Some(left)).await.map_err(|error| from_error(&error))?;
        let metadata = SnapshotMetadata {
            created_at_ns: snapshot.created_at_ns,
            entry_count: snapshot.entry_count,
            version: snapshot.version,
        };
        let sequence = snapshot.sequence.get();
        let answer = SnapshotResponse { snapshot: snapshot.bytes, sequence, metadata: Some(metadata) };
        let mut response = Response::new(SnapshotResponse::default());
        held.shrink(answer.snapshot.len() + FRAME_BYTES);
        let parts = encode::snapshot(answer).into();
        response.extensions_mut().insert(Encoded { parts, held: Arc::new(held) });
        Ok(response)
    }

    async fn load(&self, request: Request<LoadRequest>) -> Result<Response<LoadResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let left = self.time_left(&metadata, &extensions)?;
        let LoadRequest { context_id, snapshot, fail_if_exists } = message;
        // How much it unpacks to nobody knows before.
        let deadline = Instant::now() + left;
        let _room = within(deadline, &extensions, self.loads.wait(usize::MAX)).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        Begun::set(&extensions);
        let loaded = self
            .ledger
            .load(&context_id, snapshot, fail_if_exists, Some(left))
            .await
            .map_err(|error| from_error(&error))?;
        Ok(Response::new(LoadResponse {
            entries_restored: loaded.entries_restored,
            latest_sequence: loaded.latest.get(),
        }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        // A watch has no end of its own; only one that the client gave counts.
        let timeout = match metadata.contains_key("grpc-timeout") {
            true => Some(self.time_left(&metadata, &extensions)?),
            false => None,
        };
        let context_id = message.context_id.clone();
        let from = Ordinal(message.from_sequence);
        let watch = self.ledger.watch(&context_id, convert::watch_options(message)?);
        let feed = Feed::new(Feeding::Context(watch), from, self.watches.clone(), self.drain.clone(), timeout);
        let mut response = Response::new(tokio_stream::empty());
        response.extensions_mut().insert(FeedSlot::new(feed));
        Ok(response)
    }
}
