//! What is called: nodes over gRPC, or one in this process.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Request, Streaming};

use crate::api::grpc::names;
use crate::api::grpc::pb::context::{AppendRequest, GetRequest, WatchEvent, WatchRequest};
use crate::cli::client::{NodeClient, number};
use crate::cli::ledger_thread::LedgerThread;
use crate::cli::{Failure, Global, Kind};
use crate::{AppendOptions, Config, Ledger, NewEntry, Node, ReadOptions, Sequence, Watch, WatchOptions};

/// A node that takes no append is asked again after this pause.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What must never be.
pub(super) const LOST: &str = "an acknowledged entry was not read";

pub(super) struct NewAppend {
    pub(super) context: String,
    pub(super) payload: Bytes,
    /// For idempotency.
    pub(super) key: Option<String>,
}

/// A connection, or a handle.
#[derive(Clone)]
pub(super) enum Target {
    Grpc(Box<NodeClient>),
    Embedded(Ledger),
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Grpc(node) => out.write_str(&node.endpoint),
            Target::Embedded(_) => out.write_str("the embedded node"),
        }
    }
}

impl Target {
    /// So many connections to each node, in turn.
    pub(super) fn connect(global: &Global, connections: usize) -> Result<Vec<Target>, Failure> {
        let mut targets = Vec::new();
        for _ in 0..connections {
            let client = global.client()?;
            let nodes = client.nodes().iter();
            targets.extend(nodes.map(|node| Target::Grpc(Box::new(node.clone()))));
        }
        Ok(targets)
    }

    /// Starts a node for it, with its data in this directory.
    pub(super) async fn embed(directory: &Path) -> Result<(Target, Node, LedgerThread), Failure> {
        let mut config = Config::default();
        config.node.data_dir = directory.to_owned();
        config.listen.grpc = "off".into();
        let thread = LedgerThread::start()?;
        let node = Node::builder(config).ledger_runtime(thread.runtime()).start().await;
        let node = node.map_err(|error| Failure::error(format!("the embedded node did not start: {error}")))?;
        Ok((Target::Embedded(node.ledger()), node, thread))
    }

    /// Waits until it takes an append.
    pub(super) async fn probe(&self, context: &str, timeout: Duration) -> Result<(), Failure> {
        let end = tokio::time::Instant::now() + timeout;
        loop {
            let append = NewAppend { context: context.to_owned(), payload: Bytes::new(), key: None };
            let Err(why) = self.append(append, timeout).await else { return Ok(()) };
            if tokio::time::Instant::now() >= end {
                return Err(Failure::new(Kind::Unavailable, format!("{self} takes no append: {why}")));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The sequence of the new entry; or why not, without what differs from call to call.
    pub(super) async fn append(&self, append: NewAppend, timeout: Duration) -> Result<u64, String> {
        let NewAppend { context, payload, key } = append;
        match self {
            Target::Grpc(node) => {
                let message = AppendRequest { context_id: context, payload, ..Default::default() };
                let mut request = Request::new(message);
                request.set_timeout(timeout);
                if let Some(key) = key {
                    let key = key.parse().map_err(|_| "the key is no metadata".to_owned())?;
                    request.metadata_mut().insert(names::IDEMPOTENCY_KEY, key);
                }
                let response = node.context.clone().append(request).await.map_err(|status| short(&status))?;
                Ok(response.into_inner().entry.map_or(0, |entry| entry.sequence))
            }
            Target::Embedded(ledger) => {
                let entry = NewEntry { context_id: context, payload, ..Default::default() };
                let options = AppendOptions { idempotency_key: key, deadline: Some(timeout), ..Default::default() };
                let done = ledger.append(entry, options).await.map_err(|error| error.to_string())?;
                Ok(done.entry.sequence.get())
            }
        }
    }

    /// Reads that entry; [`LOST`] where there is another one, or none.
    pub(super) async fn read(&self, context: &str, sequence: u64, timeout: Duration) -> Result<(), String> {
        let after = sequence.saturating_sub(1);
        let found = match self {
            Target::Grpc(node) => {
                let (context_id, key) = (context.to_owned(), String::new());
                let mut request = Request::new(GetRequest { context_id, key, after_sequence: after, limit: 1 });
                request.set_timeout(timeout);
                node.context
                    .clone()
                    .get(request)
                    .await
                    .map_err(|status| short(&status))?
                    .into_inner()
                    .entries
                    .first()
                    .map(|entry| entry.sequence)
            }
            Target::Embedded(ledger) => {
                let options =
                    ReadOptions { after: Sequence(after), limit: 1, deadline: Some(timeout), ..Default::default() };
                ledger
                    .read(context, options)
                    .await
                    .map_err(|error| error.to_string())?
                    .entries
                    .first()
                    .map(|entry| entry.sequence.get())
            }
        };
        (found == Some(sequence)).then_some(()).ok_or_else(|| LOST.to_owned())
    }

    /// Watches a context from behind an entry; it has begun when this returns.
    pub(super) async fn watch(&self, context: &str, from: u64) -> Result<Watching, String> {
        match self {
            Target::Grpc(node) => {
                let (context_id, key) = (context.to_owned(), String::new());
                let request = WatchRequest { context_id, key, from_sequence: from };
                let events = node.context.clone().watch(request).await.map_err(|status| short(&status))?;
                Ok(Watching::Grpc(Box::new(events.into_inner())))
            }
            Target::Embedded(ledger) => {
                let options = WatchOptions { from: Sequence(from), key: None };
                Ok(Watching::Embedded(Box::new(ledger.watch(context, options))))
            }
        }
    }
}

/// A watch that has begun.
pub(super) enum Watching {
    Grpc(Box<Streaming<WatchEvent>>),
    Embedded(Box<Watch>),
}

impl Watching {
    /// The next entry's sequence and payload; none when the watch is over.
    pub(super) async fn next(&mut self) -> Option<(u64, Bytes)> {
        match self {
            Watching::Grpc(events) => {
                let entry = events.message().await.ok()??.entry?;
                Some((entry.sequence, entry.payload))
            }
            Watching::Embedded(watch) => {
                let entry = watch.next().await?.ok()?;
                Some((entry.sequence.get(), entry.payload))
            }
        }
    }
}

/// What a node says, with the code that a client gets.
pub(super) fn short(status: &tonic::Status) -> String {
    let hint = number(status.metadata(), names::RETRY_AFTER_MS).map(|_| " (it says when to come back)");
    format!("{:?}: {}{}", status.code(), status.message(), hint.unwrap_or_default())
}
