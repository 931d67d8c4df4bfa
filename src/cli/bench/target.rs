//! What is called: nodes over gRPC, or one in this process.

use std::time::Duration;

use bytes::Bytes;
use tonic::Request;
use tonic::transport::Channel;

use super::Arguments;
use crate::api::grpc::names;
use crate::api::grpc::pb::context::context_service_client::ContextServiceClient;
use crate::api::grpc::pb::context::{AppendRequest, GetRequest, WatchRequest};
use crate::cli::client::number;
use crate::cli::{Failure, Global, Kind};
use crate::{AppendOptions, Config, Ledger, NewEntry, Node, ReadOptions, Sequence, WatchOptions};

/// A watch that ended is begun again after this pause.
const WATCH_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct NewAppend {
    pub(super) context: String,
    pub(super) payload: Bytes,
    /// For idempotency.
    pub(super) key: Option<String>,
}

/// A connection, or a handle.
#[derive(Clone)]
pub(super) enum Callee {
    Grpc(ContextServiceClient<Channel>),
    Embedded(Ledger),
}

impl Callee {
    /// All connections, one to each node in turn; or the node that was started for it.
    pub(super) async fn open(global: &Global, arguments: &Arguments) -> Result<(Vec<Callee>, Option<Node>), Failure> {
        let Some(directory) = &arguments.embedded else {
            let mut connections = Vec::new();
            for _ in 0..arguments.connections {
                connections.extend(global.client()?.nodes().iter().map(|node| Callee::Grpc(node.context.clone())));
            }
            return Ok((connections, None));
        };
        if !global.endpoint.is_empty() {
            return Err(Failure::new(Kind::Usage, "--embedded starts a node of its own: leave --endpoint out"));
        }
        let mut config = Config::default();
        config.node.data_dir.clone_from(directory);
        config.listen.grpc = "off".into();
        let node = Node::start(config).await;
        let node = node.map_err(|error| Failure::error(format!("the embedded node did not start: {error}")))?;
        Ok((vec![Callee::Embedded(node.ledger())], Some(node)))
    }

    /// Waits until it takes an append.
    pub(super) async fn probe(&self, context: &str, timeout: Duration) -> Result<(), Failure> {
        let end = tokio::time::Instant::now() + timeout;
        loop {
            let append = NewAppend { context: context.to_owned(), payload: Bytes::new(), key: None };
            let Err(why) = self.append(append, timeout).await else { return Ok(()) };
            if tokio::time::Instant::now() >= end {
                return Err(Failure::new(Kind::Unavailable, format!("a node takes no append: {why}")));
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }

    /// The sequence of the new entry; or why not, without what differs from call to call.
    pub(super) async fn append(&self, append: NewAppend, timeout: Duration) -> Result<u64, String> {
        let NewAppend { context, payload, key } = append;
        match self {
            Callee::Grpc(client) => {
                let message = AppendRequest { context_id: context, payload, ..Default::default() };
                let mut request = Request::new(message);
                request.set_timeout(timeout);
                if let Some(key) = key {
                    let key = key.parse().map_err(|_| "the key is no metadata".to_owned())?;
                    request.metadata_mut().insert(names::IDEMPOTENCY_KEY, key);
                }
                let response = client.clone().append(request).await.map_err(|status| short(&status))?;
                Ok(response.into_inner().entry.map_or(0, |entry| entry.sequence))
            }
            Callee::Embedded(ledger) => {
                let entry = NewEntry { context_id: context, payload, ..Default::default() };
                let options = AppendOptions { idempotency_key: key, deadline: Some(timeout), ..Default::default() };
                let done = ledger.append(entry, options).await.map_err(|error| error.to_string())?;
                Ok(done.entry.sequence.get())
            }
        }
    }

    /// Reads that entry, and that it is there.
    pub(super) async fn read(&self, context: &str, sequence: u64, timeout: Duration) -> Result<(), String> {
        let after = sequence.saturating_sub(1);
        let count = match self {
            Callee::Grpc(client) => {
                let (context_id, key) = (context.to_owned(), String::new());
                let mut request = Request::new(GetRequest { context_id, key, after_sequence: after, limit: 1 });
                request.set_timeout(timeout);
                client.clone().get(request).await.map_err(|status| short(&status))?.into_inner().entries.len()
            }
            Callee::Embedded(ledger) => {
                let options =
                    ReadOptions { after: Sequence(after), limit: 1, deadline: Some(timeout), ..Default::default() };
                ledger.read(context, options).await.map_err(|error| error.to_string())?.entries.len()
            }
        };
        (count == 1).then_some(()).ok_or_else(|| "an acknowledged entry was not read".to_owned())
    }

    /// Watches a context for ever, from its beginning, and goes on behind the last entry when a watch ends.
    pub(super) async fn watch(&self, context: String, mut each: impl FnMut(&[u8])) {
        let mut last = 0;
        loop {
            match self {
                Callee::Grpc(client) => {
                    let (context_id, key) = (context.clone(), String::new());
                    let request = WatchRequest { context_id, key, from_sequence: last };
                    if let Ok(events) = client.clone().watch(request).await {
                        let mut events = events.into_inner();
                        while let Ok(Some(event)) = events.message().await {
                            let Some(entry) = event.entry else { continue };
                            last = entry.sequence;
                            each(&entry.payload);
                        }
                    }
                }
                Callee::Embedded(ledger) => {
                    let options = WatchOptions { from: Sequence(last), key: None };
                    let mut watch = ledger.watch(&context, options);
                    while let Some(Ok(entry)) = watch.next().await {
                        last = entry.sequence.get();
                        each(&entry.payload);
                    }
                }
            }
            tokio::time::sleep(WATCH_AGAIN).await;
        }
    }
}

/// What a node says, with the code that a client gets.
fn short(status: &tonic::Status) -> String {
    let hint = number(status.metadata(), names::RETRY_AFTER_MS).map(|_| " (it says when to come back)");
    format!("{:?}: {}{}", status.code(), status.message(), hint.unwrap_or_default())
}
