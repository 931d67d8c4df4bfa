//! `ContextService`: the client contract over a [`Ledger`].

use std::sync::Arc;
use std::time::Duration;

use converge_ledger_core::Sequence;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Response, Status};

use super::body::{Budget, Held};
use super::metadata::{Arrived, Begun, consistency, expected_sequence, idempotency_key, time_left};
use super::pb::context::context_service_server::ContextService;
use super::pb::context::{
    AppendRequest, AppendResponse, GetRequest, GetResponse, LoadRequest, LoadResponse, SnapshotMetadata,
    SnapshotRequest, SnapshotResponse, WatchRequest,
};
use super::status::{from_error, overloaded, refused};
use super::watch::WatchStream;
use super::{Settings, convert, names};
use crate::ledger::size;
use crate::{AppendOptions, Consistency, Ledger, ReadOptions};

/// Reads that are being put together at once, per kind: each may take up to
/// `limits.response_bytes`. Further ones wait within their deadlines.
const READS_AT_ONCE: usize = 32;
/// Answers being sent hold at most this many times the largest one.
const ANSWERS_HELD: usize = 8;
/// When to come back after a shed read.
const RETRY_AFTER: Duration = Duration::from_millis(200);

pub(super) struct Context {
    ledger: Ledger,
    settings: Settings,
    drain: CancellationToken,
    /// Reads that ask the leader. Apart from stale ones: without a leader they
    /// hold their places until their deadlines.
    fresh_reads: Arc<Semaphore>,
    stale_reads: Arc<Semaphore>,
    answers: Budget,
}

impl Context {
    pub(super) fn new(ledger: Ledger, settings: Settings, drain: CancellationToken) -> Self {
        Context {
            ledger,
            drain,
            fresh_reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            stale_reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            answers: Budget::new(settings.response_bytes.saturating_mul(ANSWERS_HELD)),
            settings,
        }
    }

    fn time_left(&self, metadata: &MetadataMap, of: &Extensions) -> Result<Duration, Status> {
        time_left(metadata, of.get::<Arrived>().copied(), &self.settings)
    }

    /// A place among the reads, and what is left of the deadline then.
    async fn read_place(
        &self,
        consistency: Consistency,
        left: Duration,
    ) -> Result<(OwnedSemaphorePermit, Duration), Status> {
        let places = match consistency {
            Consistency::Stale => &self.stale_reads,
            Consistency::Linearizable | Consistency::Lease => &self.fresh_reads,
        };
        let start = tokio::time::Instant::now();
        match tokio::time::timeout(left, places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok((place, left.saturating_sub(start.elapsed()))),
            _ => Err(refused(
                Code::DeadlineExceeded,
                "other reads took all the time: try again, or read with x-consistency: stale",
            )),
        }
    }

    /// Room for an answer of this size until it was sent.
    fn hold(&self, bytes: usize) -> Result<Held, Status> {
        self.answers.hold(bytes).ok_or_else(|| {
            let message = "too many large answers are being sent: try again, or page";
            overloaded(message, RETRY_AFTER)
        })
    }
}

#[tonic::async_trait]
impl ContextService for Context {
    type WatchStream = WatchStream;

    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let options = AppendOptions {
            idempotency_key: idempotency_key(&metadata)?,
            expected_sequence: expected_sequence(&metadata)?,
            deadline: Some(self.time_left(&metadata, &extensions)?),
        };
        Begun::set(&extensions);
        let appended =
            self.ledger.append(convert::new_entry(message), options).await.map_err(|error| from_error(&error))?;
        let position = appended.entry.position.get();
        let mut response = Response::new(AppendResponse { entry: Some(convert::entry(appended.entry)) });
        let metadata = response.metadata_mut();
        metadata.insert(names::POSITION, position.into());
        metadata.insert(names::TERM, appended.term.get().into());
        let deduplicated = if appended.deduplicated { "true" } else { "false" };
        metadata.insert(names::DEDUPLICATED, tonic::metadata::MetadataValue::from_static(deduplicated));
        Ok(response)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let consistency = consistency(&metadata)?;
        let left = self.time_left(&metadata, &extensions)?;
        let (_place, left) = self.read_place(consistency, left).await?;
        let options = ReadOptions {
            after: Sequence(message.after_sequence),
            limit: message.limit,
            key: convert::key_filter(message.key),
            consistency,
            deadline: Some(left),
        };
        let page = self.ledger.read(&message.context_id, options).await.map_err(|error| from_error(&error))?;
        let bytes = page.entries.iter().map(size).sum();
        let held = self.hold(bytes)?;
        let mut response = Response::new(GetResponse {
            entries: page.entries.into_iter().map(convert::entry).collect(),
            latest_sequence: page.latest.get(),
        });
        let term = page.term.get();
        response.metadata_mut().insert(names::TERM, term.into());
        response.extensions_mut().insert(held);
        Ok(response)
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<SnapshotResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let left = self.time_left(&metadata, &extensions)?;
        let snapshot =
            self.ledger.snapshot(&message.context_id, Some(left)).await.map_err(|error| from_error(&error))?;
        let metadata = SnapshotMetadata {
            created_at_ns: snapshot.created_at_ns,
            entry_count: snapshot.entry_count,
            version: snapshot.version,
        };
        Ok(Response::new(SnapshotResponse {
            snapshot: snapshot.bytes,
            sequence: snapshot.sequence.get(),
            metadata: Some(metadata),
        }))
    }

    async fn load(&self, request: Request<LoadRequest>) -> Result<Response<LoadResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let left = self.time_left(&metadata, &extensions)?;
        let LoadRequest { context_id, snapshot, fail_if_exists } = message;
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
        let watch = self.ledger.watch(&context_id, convert::watch_options(message));
        Ok(Response::new(WatchStream::new(watch, self.drain.clone(), timeout)))
    }
}
