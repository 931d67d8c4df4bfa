//! `watch`: what a context holds, then what comes, across lost connections.

use std::ops::ControlFlow;

use clap::Args;
use converge_ledger::api::grpc::pb::context::{Entry, WatchRequest};
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};
use tonic::Status;

use super::client::{Client, may_retry};
use super::{Failure, Format, Global, output};

/// Between two attempts to watch again.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The context to follow.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    context: String,
    /// Only entries after this sequence; 0 begins with all history.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only entries with this key.
    #[arg(long, default_value = "")]
    key: String,
    /// End after this many entries.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    tokio::select! {
        outcome = follow(global, arguments) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Watches until the count is reached; a lost stream goes on after the last
/// entry that arrived, at another endpoint where there is one, and gives up
/// after `--timeout` without one.
async fn follow(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    let mut view = View {
        format: global.output,
        left: arguments.count,
        request: WatchRequest { context_id: arguments.context, key: arguments.key, from_sequence: arguments.from },
    };
    let mut lost: Option<Instant> = None;
    loop {
        let node = client.preferred();
        let before = view.request.from_sequence;
        let status = match view.stream(&client).await? {
            ControlFlow::Break(()) => return Ok(()),
            ControlFlow::Continue(status) => status,
        };
        if view.request.from_sequence > before {
            lost = None;
        }
        let since = *lost.get_or_insert_with(Instant::now);
        if !may_retry(&status) || since.elapsed() + PAUSE > client.timeout() {
            return Err(Failure::from_status("watch", &node.endpoint, &status));
        }
        client.turn_away();
        sleep(PAUSE).await;
    }
}

struct View {
    format: Format,
    left: Option<u64>,
    /// Moves on with what was shown.
    request: WatchRequest,
}

impl View {
    /// Shows entries until there are enough, or the stream ends with a status.
    async fn stream(&mut self, client: &Client) -> Result<ControlFlow<(), Status>, Failure> {
        let mut node = client.preferred().clone();
        let mut stream = match node.context.watch(self.request.clone()).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(ControlFlow::Continue(status)),
        };
        loop {
            let event = match stream.message().await {
                Ok(Some(event)) => event,
                Ok(None) => {
                    let status = Status::unavailable("the node ended the stream");
                    return Ok(ControlFlow::Continue(status));
                }
                Err(status) => return Ok(ControlFlow::Continue(status)),
            };
            let entry = event.entry.unwrap_or_default();
            self.show(&entry)?;
            self.request.from_sequence = entry.sequence;
            if let Some(left) = &mut self.left {
                *left -= 1;
                if *left == 0 {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }

    fn show(&self, entry: &Entry) -> Result<(), Failure> {
        if self.format == Format::Json {
            let context_id = &self.request.context_id;
            return output::json(&Value::Object(output::entry_json(context_id, entry)));
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
