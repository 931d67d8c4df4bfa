//! `get --all` and `watch --all`: the entries of all contexts by position, across lost connections.

use std::ops::ControlFlow;

use comfy_table::Table;
use serde_json::{Map, Value};
use tokio::time::{Duration, Instant, timeout};
use tonic::{Status, Streaming};

use super::client::{Client, NodeClient, may_retry, retry_after};
use super::get::Consistency;
use super::lines::entry::entry_json;
use super::retry::Patience;
use super::watch::LIVED;
use super::{Failure, Format, Global, output};
use crate::api::grpc::pb::context;
use crate::api::grpc::pb::ledger::read_stream_request::Of;
use crate::api::grpc::pb::ledger::{All, Direction, Entry, ReadStreamRequest, WatchAllRequest};

/// JSON is written in pieces of about so many bytes.
const TEXT_BYTES: usize = 64 << 10;

/// What is read of all contexts.
pub(super) struct Wanted {
    /// In the direction of reading; 0: from the end that it starts from.
    pub(super) after: u64,
    /// 0: all.
    pub(super) limit: u32,
    pub(super) key: String,
    pub(super) reverse: bool,
    pub(super) consistency: Consistency,
    pub(super) min_position: u64,
}

/// What the ledger held when the first stream began. One that is lost goes on where it was, at another endpoint where there is one.
pub(super) async fn get(global: &Global, wanted: Wanted) -> Result<(), Failure> {
    let client = global.client()?.slow();
    let direction = if wanted.reverse { Direction::Backwards } else { Direction::Forwards };
    let from = match (wanted.after, wanted.reverse) {
        (0, _) => Some(0),
        (after, false) => after.checked_add(1),
        (after, true) => Some(after - 1),
    };
    let request = ReadStreamRequest {
        of: Some(Of::All(All {})),
        from: from.unwrap_or_default(),
        direction: direction.into(),
        limit: wanted.limit,
        max_bytes: 0,
        key: wanted.key,
        consistency: wanted.consistency.number(),
        min_position: wanted.min_position,
    };
    // Nothing is before the first entry, or behind the last that there can be.
    let is_over = from.is_none() || (from == Some(0) && wanted.after > 0);
    let mut shown = Shown::new(global.output);
    let mut reading = Reading { request, last: None, is_over };
    let mut patience = Patience::new(client.timeout());
    while !reading.is_over {
        let node = client.preferred();
        let Some((status, got_on)) = reading.stream(&client, node, &patience, &mut shown).await? else { break };
        if got_on {
            patience.renew();
        }
        client.turn_away();
        if !may_retry(&status) || !patience.pause(retry_after(&status)).await {
            return Err(Failure::from_status("get", &node.endpoint, &status));
        }
    }
    shown.end(reading.last.unwrap_or_default())
}

struct Reading {
    /// Moves on with what was shown.
    request: ReadStreamRequest,
    /// The ledger's last position when the first stream began.
    last: Option<u64>,
    is_over: bool,
}

impl Reading {
    /// Shows entries until there are no more, or the stream ends: then why, and whether it brought something.
    async fn stream(
        &mut self,
        client: &Client,
        node: &NodeClient,
        patience: &Patience,
        shown: &mut Shown,
    ) -> Result<Option<(Status, bool)>, Failure> {
        let mut ledger = node.ledger.clone();
        // The time is not the request's: that would end the stream, too.
        let answer = timeout(client.share(patience.left()), ledger.read_stream(self.request.clone())).await;
        let mut stream = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Some((status, false))),
        };
        let mut got_on = false;
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Some((Status::unavailable("the node ended the stream"), got_on))),
                Err(status) => return Ok(Some((status, got_on))),
            };
            if message.position > 0 {
                // Whoever goes on with it has at least what this node has.
                self.request.min_position = self.request.min_position.max(message.position);
                self.last.get_or_insert(message.last);
                if message.next == 0 {
                    self.is_over = true;
                    return Ok(None);
                }
                self.request.from = message.next;
            }
            if message.end {
                return Ok(None);
            }
            for entry in message.entries {
                got_on = true;
                // What came in since belongs to the next command.
                if self.last.is_none_or(|last| entry.position > last) {
                    return Ok(None);
                }
                shown.add(&entry)?;
                self.is_over = message.next == 0 || self.request.limit == 1;
                self.request.limit = self.request.limit.saturating_sub(1);
                self.request.from = message.next;
                if self.is_over {
                    return Ok(None);
                }
            }
        }
    }
}

/// What people or programs get to see of it.
struct Shown {
    format: Format,
    count: u64,
    table: Table,
    /// What is not written yet.
    text: String,
}

impl Shown {
    fn new(format: Format) -> Shown {
        let table = output::table(&["position", "context", "sequence", "appended", "key", "payload", "metadata"]);
        Shown { format, count: 0, table, text: String::new() }
    }

    fn add(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.count += 1;
        match self.format {
            Format::Json => {
                self.text += if self.count == 1 { "{\"entries\":[" } else { "," };
                self.text += &Value::Object(json(entry)).to_string();
                if self.text.len() < TEXT_BYTES {
                    return Ok(());
                }
                output::bytes(std::mem::take(&mut self.text).as_bytes())
            }
            Format::Table => {
                self.table.add_row([
                    entry.position.to_string(),
                    output::shown(&entry.context_id),
                    entry.sequence.to_string(),
                    output::time(entry.appended_at_ns),
                    output::shown(&entry.key),
                    output::payload(&entry.payload),
                    output::metadata(&entry.metadata),
                ]);
                Ok(())
            }
        }
    }

    fn end(self, last: u64) -> Result<(), Failure> {
        let count = self.count;
        match self.format {
            Format::Json => {
                let before = if count == 0 { "{\"entries\":[" } else { &self.text };
                output::line(format!("{before}],\"last_position\":{last}}}"))
            }
            Format::Table => {
                output::line(self.table.to_string())?;
                output::line(format!("{count} entries; the last position is {last}"))
            }
        }
    }
}

/// Follows the ledger until the count is reached, as a watch of one context does.
pub(super) async fn watch(global: &Global, from: u64, mut left: Option<u64>) -> Result<(), Failure> {
    let client = global.client()?;
    let mut request = WatchAllRequest { from_position: from };
    let mut patience = Patience::new(client.timeout());
    loop {
        let (node, opened, before) = (client.preferred(), Instant::now(), request.from_position);
        let mut ledger = node.ledger.clone();
        let share: Duration = client.share(patience.left());
        let answer = timeout(share, ledger.watch_all(request)).await;
        let status = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(response) => match follow(global.output, response.into_inner(), &mut request, &mut left).await? {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(status) => {
                    if opened.elapsed() >= LIVED || request.from_position > before {
                        patience.renew();
                    }
                    status
                }
            },
            Err(status) => status,
        };
        client.turn_away();
        if !may_retry(&status) || !patience.pause(retry_after(&status)).await {
            return Err(Failure::from_status("watch", &node.endpoint, &status));
        }
    }
}

async fn follow(
    format: Format,
    mut stream: Streaming<crate::api::grpc::pb::ledger::WatchAllEvent>,
    request: &mut WatchAllRequest,
    left: &mut Option<u64>,
) -> Result<ControlFlow<(), Status>, Failure> {
    loop {
        let event = match stream.message().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(ControlFlow::Continue(Status::unavailable("the node ended the stream"))),
            Err(status) => return Ok(ControlFlow::Continue(status)),
        };
        let entry = event.entry.unwrap_or_default();
        if format == Format::Json {
            output::json(&Value::Object(json(&entry)))?;
        } else {
            let (context, key) = (output::shown(&entry.context_id), output::shown(&entry.key));
            let (time, payload) = (output::time(entry.appended_at_ns), output::payload(&entry.payload));
            output::line(format!("{:>8}  {context}  {:>8}  {time}  {key}  {payload}", entry.position, entry.sequence))?;
        }
        request.from_position = entry.position;
        if let Some(left) = left {
            *left -= 1;
            if *left == 0 {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
}

fn json(entry: &Entry) -> Map<String, Value> {
    let Entry { context_id, key, payload, metadata, id, sequence, position, appended_at_ns, .. } = entry.clone();
    let mut object = entry_json(&context_id, &context::Entry { id, key, payload, sequence, appended_at_ns, metadata });
    object.insert("position".into(), position.into());
    object
}
