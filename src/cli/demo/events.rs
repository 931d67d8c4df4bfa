//! The events, and the clients that append them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::api::grpc::pb::context::{AppendRequest, Entry};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::client::Client;
use super::super::lines::Lines;
use super::{CALL, Failure};

/// Where the events come from; `demo/README.md` says more.
pub(super) const SOURCE: &str = "packages installed and upgraded on a Debian 12 machine, from its dpkg log";
const EVENTS: &str = include_str!("../../../demo/events.jsonl");
/// Marks an event in what a node holds.
pub(super) const EVENT: &str = "event";
const ACTION: &str = "action";

/// Parses the events. Each goes to the context of its action and carries its number, because real events repeat.
pub(super) async fn read() -> Result<Vec<AppendRequest>, Failure> {
    let mut lines = Lines::new("demo/events.jsonl".into(), "", Box::new(EVENTS.as_bytes()), None);
    let mut events: Vec<AppendRequest> = Vec::new();
    while let Some(line) = lines.next().await? {
        let mut event = line.message;
        let action = event.metadata.get(ACTION).map_or("other", String::as_str);
        event.context_id = format!("packages.{action}");
        event.metadata.insert(EVENT.into(), events.len().to_string());
        events.push(event);
    }
    Ok(events)
}

/// What a client was told about an event.
#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    pub(super) context_id: String,
    pub(super) id: String,
    pub(super) sequence: u64,
    at: Instant,
}

impl Acknowledged {
    pub(super) fn new(context_id: &str, entry: &Entry, at: Instant) -> Self {
        Acknowledged { context_id: context_id.to_owned(), id: entry.id.clone(), sequence: entry.sequence, at }
    }
}

/// The events and what became of them.
pub(super) struct Appends {
    events: Vec<AppendRequest>,
    next: AtomicUsize,
    done: AtomicUsize,
    answers: Mutex<Vec<Option<Acknowledged>>>,
    progress: Notify,
}

/// Clients at work.
pub(super) struct Workers(JoinSet<Vec<String>>);

impl Appends {
    pub(super) fn new(events: Vec<AppendRequest>) -> Self {
        Appends {
            answers: Mutex::new(vec![None; events.len()]),
            events,
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            progress: Notify::new(),
        }
    }

    /// Starts the clients, each of which begins at another node and turns to the next when that one fails.
    pub(super) fn start(this: &Arc<Self>, clients: usize, endpoints: &[String]) -> Result<Workers, Failure> {
        let mut running = JoinSet::new();
        for number in 0..clients {
            let client = Client::new(endpoints, CALL)?.prefer(number);
            running.spawn(this.clone().work(client));
        }
        Ok(Workers(running))
    }

    /// Appends until no event is left; gives what was refused.
    async fn work(self: Arc<Self>, client: Client) -> Vec<String> {
        let mut refused = Vec::new();
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(event) = self.events.get(at) else { return refused };
            match client.append(event, &format!("demo-{at}"), None).await {
                Ok(appended) => {
                    let answer = Acknowledged::new(&event.context_id, &appended.entry, Instant::now());
                    self.answers.lock().expect("nothing panics while it holds this lock")[at] = Some(answer);
                    self.done.fetch_add(1, Ordering::Release);
                }
                Err(failure) => refused.push(failure.to_string()),
            }
            self.progress.notify_one();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The contexts that the events go to.
    pub(super) fn contexts(&self) -> BTreeSet<String> {
        self.events.iter().map(|event| event.context_id.clone()).collect()
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.done.load(Ordering::Acquire)
    }

    /// Returns when so many are acknowledged, or none is left to be.
    pub(super) async fn acknowledged_at_least(&self, count: usize) {
        while self.acknowledged() < count && self.next.load(Ordering::Relaxed) < self.events.len() {
            self.progress.notified().await;
        }
    }

    /// By event number.
    pub(super) fn answers(&self) -> Vec<Option<Acknowledged>> {
        self.answers.lock().expect("nothing panics while it holds this lock").clone()
    }

    /// The longest time in which no client was told anything.
    pub(super) fn longest_pause(&self) -> Duration {
        let mut times: Vec<_> = self.answers().into_iter().flatten().map(|answer| answer.at).collect();
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

impl Workers {
    /// Waits for the clients; gives what was refused.
    pub(super) async fn finish(mut self) -> Vec<String> {
        let mut refused = Vec::new();
        while let Some(answer) = self.0.join_next().await {
            match answer {
                Ok(more) => refused.extend(more),
                Err(error) => refused.push(error.to_string()),
            }
        }
        refused
    }
}
