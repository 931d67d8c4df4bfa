//! Clients that append and read under faults, and remember what they were told.
//!
//! While they work they hold two things against each other in real time: an append gets a higher
//! sequence than any that was acknowledged before it began, and a linearizable read of any node
//! sees every append that was acknowledged before the read began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::wire::{self, AppendRequest, Entry, GetRequest};

/// Deadline of one attempt; a call that meets a dead leader is sent again with its key.
const ATTEMPT: Duration = Duration::from_secs(3);
/// No client may wait longer for one append while a majority is there.
const APPEND: Duration = Duration::from_secs(40);
/// Between two attempts of one client, at most.
const RETRY_MS: u64 = 40;
/// Clients that only read, and how often one does.
const READERS: usize = 2;
const READ_EVERY: Duration = Duration::from_millis(5);

/// The highest acknowledged sequence of each context.
type Latest = Arc<BTreeMap<String, AtomicU64>>;

/// What the clients did.
#[derive(Default)]
pub struct History {
    /// Acknowledged, in the order in which each client was told.
    pub acknowledged: Vec<(String, Entry)>,
    /// The payload of every append that was begun, by context.
    pub attempted: BTreeMap<String, BTreeSet<Vec<u8>>>,
    /// Attempts that ended in an error and were repeated.
    pub retries: u64,
    /// Linearizable reads that were answered.
    pub reads: u64,
}

impl History {
    pub fn merge(&mut self, other: History) {
        self.acknowledged.extend(other.acknowledged);
        for (context, payloads) in other.attempted {
            self.attempted.entry(context).or_default().extend(payloads);
        }
        self.retries += other.retries;
        self.reads += other.reads;
    }

    /// Acknowledged ⊆ stored ⊆ attempted, sequences 1..n, nothing twice, and each client's own
    /// appends in the order in which it made them.
    pub fn hold_against(&self, stored: &BTreeMap<String, Vec<Entry>>) {
        for (context, entries) in stored {
            let attempted = self.attempted.get(context).cloned().unwrap_or_default();
            let mut payloads = BTreeSet::new();
            for (entry, expected) in entries.iter().zip(1..) {
                assert_eq!(entry.sequence, expected, "{context} has a gap or a repeat");
                assert!(attempted.contains(&entry.payload), "{context} {expected} was never appended");
                assert!(payloads.insert(&entry.payload), "{context} {expected} was written twice");
            }
        }
        let mut last: BTreeMap<(&str, String), u64> = BTreeMap::new();
        for (context, entry) in &self.acknowledged {
            let found = stored[context].get(entry.sequence as usize - 1);
            assert_eq!(found, Some(entry), "acknowledged in {context} and lost");
            let last = last.entry((context, entry.key.clone())).or_default();
            assert!(entry.sequence > *last, "{context}: a later append has an earlier sequence");
            *last = entry.sequence;
        }
    }
}

/// Clients at work.
pub struct Load {
    stop: watch::Sender<bool>,
    acknowledged: watch::Receiver<u64>,
    tasks: JoinSet<History>,
}

impl Load {
    /// Starts clients that append to the contexts in turn, each on a channel of its own choice.
    pub fn start(clients: usize, contexts: &[String], channels: &[Channel], seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (count, acknowledged) = watch::channel(0);
        let count = Arc::new(count);
        let latest: Latest = Arc::new(contexts.iter().map(|name| (name.clone(), AtomicU64::new(0))).collect());
        let mut tasks = JoinSet::new();
        for number in 0..READERS {
            let dice = StdRng::seed_from_u64(!seed ^ number as u64);
            tasks.spawn(read(latest.clone(), channels.to_vec(), dice, stopped.clone()));
        }
        for number in 0..clients {
            let client = Client {
                name: format!("{seed:x}-client{number}"),
                contexts: contexts.to_vec(),
                channels: channels.to_vec(),
                turn: number,
                dice: StdRng::seed_from_u64(seed ^ number as u64),
                latest: latest.clone(),
                history: History::default(),
            };
            tasks.spawn(client.run(stopped.clone(), count.clone()));
        }
        Self { stop, acknowledged, tasks }
    }

    pub fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits for that many more acknowledgements.
    pub async fn more(&mut self, number: u64, deadline: Duration) {
        let target = self.acknowledged() + number;
        let reached = self.acknowledged.wait_for(|count| *count >= target);
        match tokio::time::timeout(deadline, reached).await {
            Ok(result) => drop(result.expect("clients are at work")),
            Err(_) => panic!("not {number} more acknowledgements within {deadline:?}"),
        }
    }

    pub async fn finish(mut self) -> History {
        self.stop.send_replace(true);
        let mut history = History::default();
        while let Some(part) = self.tasks.join_next().await {
            history.merge(part.expect("a client failed"));
        }
        history
    }
}

struct Client {
    name: String,
    contexts: Vec<String>,
    channels: Vec<Channel>,
    turn: usize,
    dice: StdRng,
    latest: Latest,
    history: History,
}

/// Reads of any node, until it is told to stop.
async fn read(latest: Latest, channels: Vec<Channel>, mut dice: StdRng, stopped: watch::Receiver<bool>) -> History {
    let mut history = History::default();
    while !*stopped.borrow() {
        let (context_id, acknowledged) = latest.iter().nth(dice.random_range(0..latest.len())).unwrap();
        let channel = &channels[dice.random_range(0..channels.len())];
        let floor = acknowledged.load(Ordering::SeqCst);
        let query =
            GetRequest { context_id: context_id.clone(), after_sequence: floor, limit: 1, ..Default::default() };
        let mut request = Request::new(query);
        request.set_timeout(ATTEMPT);
        match wire::get(channel, request).await {
            Ok(page) => {
                let seen = page.into_inner().latest_sequence;
                assert!(seen >= floor, "a read of {context_id} saw {seen}, {floor} was acknowledged before it began");
                history.reads += 1;
            }
            Err(status) => assert!(is_excused(&status), "a read: {status:?}"),
        }
        tokio::time::sleep(READ_EVERY).await;
    }
    history
}

/// What a death may cause. Anything else is an answer that no fault excuses.
fn is_excused(status: &Status) -> bool {
    let expected = [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled, Code::Unknown];
    // tonic's client reports a stream that was reset as `Internal`.
    let reset = status.code() == Code::Internal && status.message().contains("h2 protocol error");
    expected.contains(&status.code()) || reset
}

impl Client {
    async fn run(mut self, stopped: watch::Receiver<bool>, count: Arc<watch::Sender<u64>>) -> History {
        for number in 0u64.. {
            if *stopped.borrow() {
                break;
            }
            let context = self.contexts[number as usize % self.contexts.len()].clone();
            let payload = format!("{} {number}", self.name).into_bytes();
            self.history.attempted.entry(context.clone()).or_default().insert(payload.clone());
            let floor = self.latest[&context].load(Ordering::SeqCst);
            let append = self.append(&context, payload);
            match tokio::time::timeout(APPEND, append).await {
                Ok(entry) => {
                    assert!(entry.sequence > floor, "{} was given out when {floor} had been", entry.sequence);
                    self.latest[&context].fetch_max(entry.sequence, Ordering::SeqCst);
                    self.history.acknowledged.push((context, entry));
                }
                Err(_) => panic!("{} waited {APPEND:?} for append {number}", self.name),
            }
            count.send_modify(|count| *count += 1);
        }
        self.history
    }

    /// Repeats the append under one idempotency key until it is acknowledged.
    async fn append(&mut self, context: &str, payload: Vec<u8>) -> Entry {
        let key = String::from_utf8(payload.clone()).unwrap();
        loop {
            let mut request = Request::new(AppendRequest {
                context_id: context.to_owned(),
                key: self.name.clone(),
                payload: payload.clone(),
                metadata: BTreeMap::new(),
            });
            request.set_timeout(ATTEMPT);
            let value = MetadataValue::try_from(key.as_str()).unwrap();
            request.metadata_mut().insert("x-idempotency-key", value);
            let channel = &self.channels[self.turn % self.channels.len()];
            match wire::append(channel, request).await {
                Ok(response) => {
                    let entry = response.into_inner().entry.expect("an append answers with its entry");
                    assert_eq!(entry.payload, payload, "the answer is another's");
                    return entry;
                }
                Err(status) => self.failed(&status).await,
            }
        }
    }

    async fn failed(&mut self, status: &Status) {
        assert!(is_excused(status), "{}: {status:?}", self.name);
        self.history.retries += 1;
        self.turn += 1;
        tokio::time::sleep(Duration::from_millis(self.dice.random_range(1..=RETRY_MS))).await;
    }
}
