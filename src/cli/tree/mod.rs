//! `tree`: the nodes' supervision trees, once as they are built, or again and again with what is in trouble on top.

mod rows;
mod screen;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::api::grpc::pb::admin::{TreeNode, TreeRequest, TreeResponse};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tonic::Request;

use super::client::{Client, NodeClient};
use super::status::Answer;
use super::{Failure, Format, Global, output, parse_duration, signals};
use rows::{Look, Sample, uptime_text};
use screen::Screen;

/// Whoever asks more often than this sees more of the asking than of the tree.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A node that has not answered by then, or by the end of the interval, is shown without its answer.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show it live: what restarts or has a long mailbox first. Ends with Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// How often to look: 200ms, 1s, 5s; at least 100ms.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval_of, requires = "watch")]
    interval: Duration,
}

fn interval_of(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        short if short < INTERVAL_MIN => Err(format!("possible is {} ms and more", INTERVAL_MIN.as_millis())),
        interval => Ok(interval),
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    if arguments.watch {
        let mut signals = signals()?;
        return tokio::select! {
            outcome = watch(global.output, &client, arguments.interval) => outcome,
            () = signals.next() => Ok(()),
        };
    }
    show(global.output, &client).await
}

/// Shows every node once, those behind a silent one included: the exit code is that of the first one without an answer.
async fn show(format: Format, client: &Client) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for node in client.nodes() {
        let answer = ask_within(client.timeout(), node).await;
        match (format, &answer) {
            (Format::Json, _) => output::json(&answer_json(&node.endpoint, &answer))?,
            (Format::Table, Ok(tree)) => print_table(&node.endpoint, tree)?,
            (Format::Table, Err(_)) => output::line(format!("{}\nno answer", node.endpoint))?,
        }
        outcome = outcome.and(answer.map(drop));
    }
    outcome
}

/// Looks at all nodes in every interval. One that does not answer is shown as such, and asked again; one that is slow
/// holds up the others no longer than [`WAIT`].
async fn watch(format: Format, client: &Client, every: Duration) -> Result<(), Failure> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Programs get lines: their terminal, if it is one, is left as it is.
    let mut screen = matches!(format, Format::Table).then(Screen::new);
    let mut asking = Asking::default();
    let mut last = Sample::new();
    loop {
        let begun = ticks.tick().await;
        let now = asking.look(client, begun + every.max(WAIT)).await;
        match &mut screen {
            Some(screen) => screen.show(&rows::live(&last, &now))?,
            None => now
                .iter()
                .filter_map(|(endpoint, look)| Some((endpoint, look.as_ref()?)))
                .try_for_each(|(endpoint, look)| output::json(&answer_json(endpoint, &look.answer)))?,
        }
        last.extend(now.into_iter().filter(|(_, look)| look.is_some()));
    }
}

/// Questions under way, one to each node at most.
#[derive(Default)]
struct Asking {
    tasks: JoinSet<(String, Look)>,
    endpoints: BTreeSet<String>,
}

impl Asking {
    /// One look at every node, all at the same time. Who does not answer by the deadline has no answer in it, and is not
    /// asked again before it has.
    async fn look(&mut self, client: &Client, deadline: Instant) -> Sample {
        for node in client.nodes() {
            if self.endpoints.insert(node.endpoint.clone()) {
                let (node, timeout) = (node.clone(), client.timeout());
                self.tasks.spawn(async move {
                    let answer = ask_within(timeout, &node).await;
                    (node.endpoint, Look { at: Instant::now(), answer })
                });
            }
        }
        let mut sample: Sample = self.endpoints.iter().map(|endpoint| (endpoint.clone(), None)).collect();
        while let Ok(Some(answered)) = timeout_at(deadline, self.tasks.join_next()).await {
            let (endpoint, look) = answered.expect("asking neither panics nor is it cancelled");
            self.endpoints.remove(&endpoint);
            sample.insert(endpoint, Some(look));
        }
        sample
    }
}

async fn ask_within(timeout: Duration, node: &NodeClient) -> Answer<TreeResponse> {
    let mut request = Request::new(TreeRequest {});
    request.set_timeout(timeout);
    match node.admin.clone().tree(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(Failure::from_status("tree", &node.endpoint, &status)),
    }
}

fn answer_json(endpoint: &str, answer: &Answer<TreeResponse>) -> Value {
    match answer {
        Ok(tree) => tree_json(endpoint, tree),
        Err(failure) => json!({ "endpoint": endpoint, "error": failure.to_string() }),
    }
}

fn tree_json(endpoint: &str, tree: &TreeResponse) -> Value {
    let node = |node: &TreeNode| {
        json!({
            "path": node.path,
            "kind": node.kind,
            "state": node.state,
            "phase": node.phase,
            "suspended": node.suspended,
            "actor": node.actor,
            "incarnation": node.incarnation,
            "restarts": node.restarts,
            "last_exit": node.last_exit,
            "uptime_ms": node.uptime_ms,
            "mailbox": node.mailbox,
            "handled": node.handled,
            "last_handle_us": node.last_handle_us,
            "busy_ms": node.busy_ms,
        })
    };
    json!({
        "endpoint": endpoint,
        "nodes": tree.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

fn print_table(endpoint: &str, tree: &TreeResponse) -> Result<(), Failure> {
    let mut table = output::table(&["actor", "state", "mailbox", "restarts", "uptime", "last exit"]);
    for node in &tree.nodes {
        let depth = node.path.matches('/').count();
        let name = node.path.rsplit('/').next().unwrap_or_default();
        let mark = if node.kind == "supervisor" { "▸ " } else { "" };
        let uptime = node.uptime_ms.map(Duration::from_millis);
        table.add_row([
            format!("{}{mark}{}", "  ".repeat(depth), output::harmless(name)),
            rows::state(node),
            node.mailbox.map(|mailbox| mailbox.to_string()).unwrap_or_default(),
            node.restarts.to_string(),
            uptime.map(uptime_text).unwrap_or_default(),
            output::shown(&node.last_exit),
        ]);
    }
    output::line(format!("{endpoint}\n{table}"))
}
