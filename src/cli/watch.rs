//! `watch`: what a context holds, then what comes, across lost connections.

use std::ops::ControlFlow;

use crate::api::grpc::pb::context::{Entry, WatchEvent, WatchRequest};
use clap::Args;
use serde_json::Value;
use tokio::time::{Duration, Instant, timeout};
use tonic::Status;

use super::client::{NodeClient, may_retry, retry_after};
use super::lines::entry::entry_json;
use super::retry::Patience;
use super::{Failure, Format, Global, any_number, number, output};

/// A stream that was open for this long, or brought an entry, got on: one that a node takes and ends at once did not.
pub(super) const LIVED: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The context to follow.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new(), required_unless_present = "all")]
    context: Option<String>,
    /// Follow all contexts, in the order of positions.
    #[arg(long, conflicts_with_all = ["context", "key"])]
    all: bool,
    /// Only entries after this sequence, or position with --all; 0 begins with all history.
    #[arg(long, default_value_t = 0, value_parser = any_number, allow_negative_numbers = true)]
    from: u64,
    /// Only entries with this key.
    #[arg(long, default_value = "")]
    key: String,
    /// End after this many entries.
    #[arg(long, value_parser = number::<u64>(1..=u64::MAX), allow_negative_numbers = true)]
    count: Option<u64>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    tokio::select! {
        outcome = async {
            match arguments.context.clone() {
                Some(context) => follow(global, context, arguments).await,
                None => super::all::watch(global, arguments.from, arguments.count).await,
            }
        } => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = output::unread() => Ok(()),
    }
}

/// Watches until the count is reached; a lost stream goes on after the last
/// entry that arrived, at another endpoint where there is one. It gives up
/// `--timeout` after the end of the last stream that lived.
async fn follow(global: &Global, context: String, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    let mut view = View {
        format: global.output,
        left: arguments.count,
        request: WatchRequest { context_id: context, key: arguments.key, from_sequence: arguments.from },
    };
    let mut patience = Patience::new(client.timeout());
    loop {
        let node = client.preferred();
        let StreamEnd { status, lived } = match view.stream(node, client.share(patience.left())).await? {
            ControlFlow::Break(()) => return Ok(()),
            ControlFlow::Continue(end) => end,
        };
        if lived {
            patience.renew();
        }
        client.turn_away();
        if !may_retry(&status) || !patience.pause(retry_after(&status)).await {
            return Err(Failure::from_status("watch", &node.endpoint, &status));
        }
    }
}

/// How a stream ended.
struct StreamEnd {
    status: Status,
    lived: bool,
}

struct View {
    format: Format,
    left: Option<u64>,
    /// Moves on with what was shown.
    request: WatchRequest,
}

impl View {
    /// Shows entries until there are enough, or the stream ends. One that does not begin in time is left.
    async fn stream(&mut self, node: &NodeClient, begin: Duration) -> Result<ControlFlow<(), StreamEnd>, Failure> {
        let mut context = node.context.clone();
        // The time is not the request's: that would end the stream, too.
        let answer = timeout(begin, context.watch(self.request.clone())).await;
        let mut stream = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(ControlFlow::Continue(StreamEnd { status, lived: false })),
        };
        let (opened, before) = (Instant::now(), self.request.from_sequence);
        loop {
            let status = match stream.message().await {
                Ok(Some(event)) => {
                    if self.take(event)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    continue;
                }
                Ok(None) => Status::unavailable("the node ended the stream"),
                Err(status) => status,
            };
            let lived = opened.elapsed() >= LIVED || self.request.from_sequence > before;
            return Ok(ControlFlow::Continue(StreamEnd { status, lived }));
        }
    }

    /// Shows an entry; breaks when there are enough.
    fn take(&mut self, event: WatchEvent) -> Result<ControlFlow<()>, Failure> {
        let entry = event.entry.unwrap_or_default();
        self.show(&entry)?;
        self.request.from_sequence = entry.sequence;
        let Some(left) = &mut self.left else { return Ok(ControlFlow::Continue(())) };
        *left -= 1;
        Ok(if *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn show(&self, entry: &Entry) -> Result<(), Failure> {
        if self.format == Format::Json {
            let context_id = &self.request.context_id;
            return output::json(&Value::Object(entry_json(context_id, entry)));
        }
        output::line(format!(
            "{:>8}  {}  {}  {}",
            entry.sequence,
            output::time(entry.appended_at_ns),
            output::shown(&entry.key),
            output::payload(&entry.payload),
        ))
    }
}
