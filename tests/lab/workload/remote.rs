//! Real nodes, over gRPC.

use std::sync::Arc;
use std::time::Duration;

use converge_ledger::api::grpc::names;
use converge_ledger::api::grpc::pb::context::{AppendRequest, GetRequest, WatchRequest};
use converge_ledger::api::grpc::pb::ledger::AppendStreamRequest;
use converge_ledger::cli::Failure;
use converge_ledger::cli::client::{Client, NodeClient, number};
use converge_ledger::{AppendOptions, Consistency, ManyEntry, NewEntry, Position, ReadOptions, Sequence};
use converge_ledger_core::chance::Dice;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::{Code, Request, Status};

use super::{Acknowledged, Api, Missed, Record};
use crate::history::{Done, Operation, Outcome, Refused, Seen, Time};

/// Once in so many calls it goes to another node, though all is well.
const TURNS_ONE_IN: u64 = 8;
/// A watch that breaks goes on at the next node, behind what it has seen, after this.
const RESUME: Duration = Duration::from_millis(50);

/// Some nodes: it stays with one of them until a call fails, and goes to any then.
pub struct Remote {
    nodes: Vec<NodeClient>,
    at: u64,
    has_failed: bool,
    record: Arc<Record>,
}

impl Remote {
    /// Begins at the node of this number. What is seen goes into the record.
    ///
    /// # Errors
    /// An endpoint is none.
    pub fn new(endpoints: &[String], at: u64, record: &Arc<Record>) -> Result<Remote, Failure> {
        // Each call has a deadline of its own.
        let nodes = Client::new(endpoints, Duration::ZERO)?.nodes().to_vec();
        Ok(Remote { at: at % nodes.len() as u64, nodes, has_failed: false, record: record.clone() })
    }

    fn missed(&mut self, at: &NodeClient, status: &Status) -> Missed {
        self.has_failed = true;
        self.record.failed();
        let said = || format!("{} answered {:?}: {}", at.endpoint, status.code(), status.message());
        Missed { outcome: outcome(status), finding: (!is_excused(status)).then(said) }
    }
}

impl Api for Remote {
    type Place = NodeClient;

    fn place(&mut self, _: Option<u64>, dice: &mut Dice) -> Option<NodeClient> {
        if dice.one_in(TURNS_ONE_IN) || self.has_failed {
            return self.another(dice);
        }
        Some(self.nodes[self.at as usize].clone())
    }

    fn another(&mut self, dice: &mut Dice) -> Option<NodeClient> {
        (self.at, self.has_failed) = (dice.below(self.nodes.len() as u64), false);
        Some(self.nodes[self.at as usize].clone())
    }

    fn is_over(&self) -> bool {
        self.record.is_over()
    }

    fn now(&self) -> Time {
        self.record.now()
    }

    fn record(&self, _: &NodeClient, operation: Operation) {
        self.record.add(operation);
    }

    fn violated(&self, what: String) {
        self.record.trouble(what);
    }

    async fn append(
        &mut self,
        at: &NodeClient,
        entry: NewEntry,
        options: AppendOptions,
    ) -> Result<Acknowledged, Missed> {
        let context = entry.context_id.clone();
        let mut request = with_deadline(request(entry), options.deadline);
        let metadata = request.metadata_mut();
        if let Some(key) = options.idempotency_key.and_then(|key| AsciiMetadataValue::try_from(key).ok()) {
            metadata.insert(names::IDEMPOTENCY_KEY, key);
        }
        if let Some(expected) = options.expected_sequence {
            metadata.insert(names::EXPECTED_SEQUENCE, expected.get().into());
        }
        let answer = at.context.clone().append(request).await.map_err(|status| self.missed(at, &status))?;
        let position = number(answer.metadata(), names::POSITION).map(Position);
        let deduplicated = answer.metadata().get(names::DEDUPLICATED).is_some_and(|flag| flag == "true");
        let seen = self.record.seen(&context, &answer.into_inner().entry.unwrap_or_default());
        Ok(Acknowledged { seen: Seen { position, ..seen }, deduplicated })
    }

    async fn append_many(
        &mut self,
        at: &NodeClient,
        entries: Vec<ManyEntry>,
        deadline: Duration,
    ) -> (Vec<Done>, Option<Missed>) {
        let sent = entries.len();
        let messages: Vec<_> = entries.into_iter().map(streamed).collect();
        let mut request = Request::new(tokio_stream::iter(messages));
        request.set_timeout(deadline);
        let mut done = Vec::new();
        let streamed = async {
            let mut answers = at.ledger.clone().append_stream(request).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                done.extend(answer.places.iter().map(|place| Done {
                    sequence: Sequence(place.sequence),
                    position: Some(Position(place.position)),
                    deduplicated: place.deduplicated,
                }));
            }
            Ok::<_, Status>(())
        };
        let ended = streamed.await;
        // Where all are acknowledged, it does not matter how the stream ends: its node may be killed before it says so.
        let broken = ended.err().filter(|_| done.len() < sent);
        (done, broken.map(|status| self.missed(at, &status)))
    }

    async fn read(
        &mut self,
        at: &NodeClient,
        context: &str,
        options: ReadOptions,
    ) -> Result<(Sequence, Vec<Seen>), Missed> {
        let (context_id, after_sequence, limit) = (context.to_owned(), options.after.get(), options.limit);
        let message = GetRequest { context_id, key: String::new(), after_sequence, limit };
        let mut request = with_deadline(message, options.deadline);
        let promised = if options.consistency == Consistency::Stale { "stale" } else { "linearizable" };
        request.metadata_mut().insert(names::CONSISTENCY, MetadataValue::from_static(promised));
        let answer = at.context.clone().get(request).await.map_err(|status| self.missed(at, &status))?;
        let page = answer.into_inner();
        let entries = page.entries.iter().map(|entry| self.record.seen(context, entry)).collect();
        Ok((Sequence(page.latest_sequence), entries))
    }

    async fn watch(
        &mut self,
        at: &NodeClient,
        context: &str,
        from: Sequence,
        until: Instant,
        entries: &mut Vec<Seen>,
    ) -> Result<(), Missed> {
        let mut at = at.clone();
        loop {
            let from = entries.last().map_or(from, |seen| seen.sequence);
            let Ok(status) = timeout_at(until, self.watched(&at, context, from, entries)).await else { return Ok(()) };
            let missed = self.missed(&at, &status);
            if missed.finding.is_some() || timeout_at(until, sleep(RESUME)).await.is_err() {
                return Err(missed);
            }
            self.at = (self.at + 1) % self.nodes.len() as u64;
            at = self.nodes[self.at as usize].clone();
        }
    }
}

impl Remote {
    /// Takes what one node sends, until that ends; says why it did.
    async fn watched(&self, at: &NodeClient, context: &str, from: Sequence, entries: &mut Vec<Seen>) -> Status {
        let (context_id, from_sequence) = (context.to_owned(), from.get());
        let message = WatchRequest { context_id, key: String::new(), from_sequence };
        let mut stream = match at.context.clone().watch(Request::new(message)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status,
        };
        loop {
            match stream.message().await {
                Ok(Some(event)) => entries.extend(event.entry.iter().map(|entry| self.record.seen(context, entry))),
                Ok(None) => return Status::unavailable("the stream ended"),
                Err(status) => return status,
            }
        }
    }
}

fn streamed(one: ManyEntry) -> AppendStreamRequest {
    let NewEntry { context_id, key, payload, metadata } = one.entry;
    AppendStreamRequest {
        context_id,
        key,
        payload,
        metadata,
        idempotency_key: one.idempotency_key.unwrap_or_default(),
        expected_sequence: one.expected_sequence.map(|expected| expected.get()),
    }
}

/// The message that appends an entry.
#[must_use]
pub fn request(entry: NewEntry) -> AppendRequest {
    let NewEntry { context_id, key, payload, metadata } = entry;
    AppendRequest { context_id, key, payload, metadata }
}

fn with_deadline<M>(message: M, deadline: Option<Duration>) -> Request<M> {
    let mut request = Request::new(message);
    deadline.into_iter().for_each(|deadline| request.set_timeout(deadline));
    request
}

/// What a client knows after a call that was not acknowledged: nothing, but where the node itself says that it refused.
pub(super) fn outcome(status: &Status) -> Outcome {
    let said = status.metadata().get(names::OUTCOME);
    match said.is_some_and(|said| names::is_refusal(said.as_encoded_bytes())) {
        true => Outcome::Refused(Refused {
            reason: format!("{:?}: {}", status.code(), status.message()),
            actual: number(status.metadata(), names::ACTUAL_SEQUENCE).map(Sequence),
        }),
        false => Outcome::Unknown,
    }
}

/// What faults and other clients may cause.
pub(super) fn is_excused(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => true,
        Code::FailedPrecondition => status.metadata().contains_key(names::ACTUAL_SEQUENCE),
        // Made by the library when a connection breaks in the middle of a call.
        Code::Unknown | Code::Internal => !status.metadata().contains_key(names::OUTCOME),
        _ => false,
    }
}
