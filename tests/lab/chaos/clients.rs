//! Clients that append, read and watch without pause, on any node, and write down what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use converge_lab::history::{self, Done, Operation, Outcome, Refused, Seen};
use converge_ledger::api::grpc::names;
use converge_ledger::api::grpc::pb::context::{AppendRequest, AppendResponse, Entry, GetRequest, WatchRequest};
use converge_ledger::{Position, Sequence};
use converge_ledger_core::chance::Dice;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::{Code, Request, Response, Status};

use super::crowd;
use super::record::Record;
use converge_ledger::cli::client::{Client, number};

/// Contexts that the clients share: few, so that they meet, and several, so that the ledger's order counts, too.
const CONTEXTS: u64 = 8;
/// A client may take at least this long between two operations, and most of the time takes less.
const THINK_MS: u64 = 10;
/// A long run has as many operations as a short one that is busy: they are all held in memory in the end.
const OPERATIONS_MAX: u64 = 1_000_000;
const DEADLINE_MS: std::ops::Range<u64> = 100..2_000;
/// How often what ended as unknown is tried again under its key.
const TRIES: u64 = 5;
const RETRY_MS: u64 = 100;
const PADDING: u64 = 600;
/// How far behind the latest sequence most reads and watches begin, and what a read may answer.
const BEHIND: u64 = 30;
const PAGE: u64 = 200;
const WATCH_MS: u64 = 4_000;

/// What the final states are read of.
pub(super) fn contexts() -> impl Iterator<Item = String> {
    (0..CONTEXTS).map(|number| format!("context-{number}")).chain([crowd::CONTEXT.to_owned()])
}

/// The longest time that a client thinks.
pub(super) fn think_ms(time: Duration, clients: u64) -> u64 {
    let all_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_mul(clients);
    THINK_MS.max(2 * all_ms / OPERATIONS_MAX)
}

/// One client.
pub(super) struct Worker {
    pub(super) id: u64,
    pub(super) client: Client,
    pub(super) dice: Dice,
    pub(super) think_ms: u64,
    pub(super) record: Arc<Record>,
    written: u64,
    /// What it knows of each context's latest sequence.
    latest: BTreeMap<String, u64>,
}

/// What a client wants to be written, over all tries.
struct Wish {
    context: String,
    value: String,
    key: Option<String>,
    expected: Option<u64>,
    padding: usize,
}

impl Worker {
    pub(super) fn new(id: u64, client: Client, dice: Dice, think_ms: u64, record: Arc<Record>) -> Worker {
        Worker { id, client, dice, think_ms, record, written: 0, latest: BTreeMap::new() }
    }

    /// Goes on until the record is over.
    pub(super) async fn run(mut self) {
        while !self.record.is_over() {
            sleep(Duration::from_millis(self.dice.below(self.think_ms + 1))).await;
            let context = format!("context-{}", self.dice.below(CONTEXTS));
            if self.dice.one_in(8) {
                self.turn();
            }
            match self.dice.below(200) {
                0 => self.watch(context).await,
                1..=49 => self.read(context).await,
                _ => self.append(context).await,
            }
        }
    }

    /// To any node, the same one included.
    fn turn(&mut self) {
        for _ in 0..self.dice.below(self.client.nodes().len() as u64) {
            self.client.turn_away();
        }
    }

    fn deadline(&mut self) -> Duration {
        Duration::from_millis(DEADLINE_MS.start + self.dice.below(DEADLINE_MS.end - DEADLINE_MS.start))
    }

    async fn append(&mut self, context: String) {
        self.written += 1;
        let value = format!("{}/{}", self.id, self.written);
        let expect = self.dice.one_in(6);
        // Now and then one that cannot be right, or is only by chance.
        let expected = self.latest.get(&context).copied().filter(|_| expect).map(|latest| latest + self.dice.below(2));
        let key = (!self.dice.one_in(3)).then(|| format!("key-{value}"));
        let padding = self.dice.below(PADDING) as usize;
        let wish = Wish { context, value, key, expected, padding };
        for _ in 0..TRIES {
            let outcome = self.try_append(&wish).await;
            // One that is done is sent again now and then: the answer must be the first one's.
            let again = match outcome {
                Outcome::Unknown => true,
                Outcome::Done(_) => self.dice.one_in(50),
                Outcome::Refused(_) => false,
            };
            if !again || wish.key.is_none() || self.record.is_over() {
                return;
            }
            sleep(Duration::from_millis(self.dice.below(RETRY_MS))).await;
        }
    }

    async fn try_append(&mut self, wish: &Wish) -> Outcome {
        let mut request = Request::new(AppendRequest {
            context_id: wish.context.clone(),
            key: format!("client-{}", self.id),
            payload: format!("{}|{}", wish.value, "x".repeat(wish.padding)).into(),
            metadata: BTreeMap::new(),
        });
        request.set_timeout(self.deadline());
        let metadata = request.metadata_mut();
        if let Some(key) = wish.key.as_deref().and_then(|key| AsciiMetadataValue::try_from(key).ok()) {
            metadata.insert(names::IDEMPOTENCY_KEY, key);
        }
        if let Some(expected) = wish.expected {
            metadata.insert(names::EXPECTED_SEQUENCE, expected.into());
        }
        let mut node = self.client.preferred().clone();
        let start = self.record.now();
        let answer = node.context.append(request).await;
        let end = self.record.now();
        let outcome = match answer {
            Ok(response) => self.done(wish, response),
            Err(status) => self.failed(&wish.context, &status),
        };
        self.record.add(Operation::Append(history::Append {
            client: self.id,
            start,
            end: Some(end),
            context: wish.context.clone(),
            value: wish.value.clone(),
            idempotency_key: wish.key.clone(),
            expected: wish.expected.map(Sequence),
            outcome: outcome.clone(),
        }));
        outcome
    }

    fn done(&mut self, wish: &Wish, response: Response<AppendResponse>) -> Outcome {
        let position = number(response.metadata(), names::POSITION).map(Position);
        let deduplicated = response.metadata().get(names::DEDUPLICATED).is_some_and(|flag| flag == "true");
        let entry = response.into_inner().entry.unwrap_or_default();
        if value_of(&entry) != wish.value || position.is_none() {
            let (value, other) = (&wish.value, value_of(&entry));
            self.record.trouble(format!("{value} was answered with {other:?} at position {position:?}"));
        }
        self.latest.insert(wish.context.clone(), entry.sequence);
        Outcome::Done(Done { sequence: Sequence(entry.sequence), position, deduplicated })
    }

    fn failed(&mut self, context: &str, status: &Status) -> Outcome {
        self.judge(status);
        let outcome = outcome(status);
        match &outcome {
            Outcome::Refused(Refused { actual: Some(actual), .. }) => {
                self.latest.insert(context.to_owned(), actual.get());
            }
            _ => self.turn(),
        }
        outcome
    }

    /// An answer that no fault excuses is a finding, whatever the history says.
    fn judge(&self, status: &Status) {
        if !is_excused(status) {
            let endpoint = &self.client.preferred().endpoint;
            self.record.trouble(format!("{endpoint} answered {:?}: {}", status.code(), status.message()));
        }
    }

    /// Near the end of what it knows, or now and then from the begin.
    fn after(&mut self, context: &str) -> u64 {
        let latest = self.latest.get(context).copied().unwrap_or(0);
        let behind = if self.dice.one_in(100) { latest } else { self.dice.below(BEHIND) };
        latest.saturating_sub(behind)
    }

    async fn read(&mut self, context: String) {
        let stale = self.dice.one_in(4);
        let after = self.after(&context);
        let limit = 1 + self.dice.below(PAGE);
        let mut request = Request::new(GetRequest {
            context_id: context.clone(),
            key: String::new(),
            after_sequence: after,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        });
        request.set_timeout(self.deadline());
        let promised = if stale { "stale" } else { "linearizable" };
        request.metadata_mut().insert(names::CONSISTENCY, MetadataValue::from_static(promised));
        let mut node = self.client.preferred().clone();
        let start = self.record.now();
        let answer = node.context.get(request).await;
        let end = self.record.now();
        let page = match answer {
            Ok(response) => response.into_inner(),
            Err(status) => {
                self.judge(&status);
                return self.turn();
            }
        };
        if !stale {
            self.latest.insert(context.clone(), page.latest_sequence);
        }
        self.record.add(Operation::Read(history::Read {
            client: self.id,
            start,
            end,
            context,
            consistency: if stale { history::Consistency::Stale } else { history::Consistency::Linearizable },
            after: Sequence(after),
            latest: Sequence(page.latest_sequence),
            // A full page alone may have left something out.
            limited: page.entries.len() as u64 == limit,
            entries: page.entries.iter().map(seen).collect(),
        }));
    }

    /// Follows a context for a while, from node to node where one goes away, each time from where it was.
    async fn watch(&mut self, context: String) {
        let mut after = self.after(&context);
        let until = Instant::now() + Duration::from_millis(self.dice.below(WATCH_MS));
        while Instant::now() < until && !self.record.is_over() {
            let start = self.record.now();
            let entries = self.subscribe(&context, after, until).await;
            let end = self.record.now();
            let watch = history::Watch {
                client: self.id,
                start,
                end,
                context: context.clone(),
                after: Sequence(after),
                entries,
            };
            after = watch.entries.last().map_or(after, |seen| seen.sequence.get());
            self.record.add(Operation::Watch(watch));
        }
    }

    /// One subscription: what came until it broke or the time was up.
    async fn subscribe(&mut self, context: &str, after: u64, until: Instant) -> Vec<Seen> {
        let message = WatchRequest { context_id: context.to_owned(), key: String::new(), from_sequence: after };
        let mut node = self.client.preferred().clone();
        let mut entries = Vec::new();
        let broken = async {
            let mut stream = node.context.watch(Request::new(message)).await?.into_inner();
            while let Some(event) = stream.message().await? {
                entries.extend(event.entry.iter().map(seen));
            }
            Err::<(), Status>(Status::unavailable("the stream ended"))
        };
        if let Ok(Err(status)) = timeout_at(until, broken).await {
            self.judge(&status);
            self.turn();
            sleep(Duration::from_millis(self.dice.below(RETRY_MS))).await;
        }
        entries
    }
}

/// What a client knows after a call that was not acknowledged: nothing, but where the node itself says that it refused.
pub(super) fn outcome(status: &Status) -> Outcome {
    let said = status.metadata().get(names::OUTCOME);
    match said.is_some_and(|said| said == names::REFUSED) {
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

/// An entry as a read and a watch show it: its position is not told.
pub(super) fn seen(entry: &Entry) -> Seen {
    Seen { sequence: Sequence(entry.sequence), value: value_of(entry), position: None }
}

fn value_of(entry: &Entry) -> String {
    let text = String::from_utf8_lossy(&entry.payload);
    text.split_once('|').map_or_else(|| text.to_string(), |(value, _)| value.to_owned())
}
