//! `tree`: the nodes' supervision trees, once as they are built, or again and again with what is in trouble on top.

mod rows;
mod screen;

use std::time::Duration;

use converge_ledger::api::grpc::pb::admin::{TreeNode, TreeRequest, TreeResponse};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Request;

use super::client::{Client, Node};
use super::status::Answer;
use super::{Failure, Format, Global, output, parse_duration, signals};
use rows::{Sample, uptime_text};
use screen::Screen;

/// Whoever asks more often than this sees more of the asking than of the tree.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show it live: what restarts or has a long mailbox first. Ends with Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// How often to look: 200ms, 1s, 5s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration, requires = "watch")]
    interval: Duration,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    if arguments.watch {
        let mut signals = signals()?;
        return tokio::select! {
            outcome = watch(global.output, &client, arguments.interval.max(INTERVAL_MIN)) => outcome,
            () = signals.next() => Ok(()),
        };
    }
    for node in client.nodes() {
        let tree = ask(&client, node).await?;
        match global.output {
            Format::Json => output::json(&tree_json(&node.endpoint, &tree))?,
            Format::Table => print_table(&node.endpoint, &tree)?,
        }
    }
    Ok(())
}

/// Looks at all nodes in every interval. One that does not answer is shown as such, and asked again.
async fn watch(format: Format, client: &Client, every: Duration) -> Result<(), Failure> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = Screen::new();
    let mut before = Sample::default();
    loop {
        ticks.tick().await;
        let now = look(client).await;
        match format {
            Format::Json => now.answers.iter().try_for_each(|(endpoint, answer)| {
                output::json(&match answer {
                    Ok(tree) => tree_json(endpoint, tree),
                    Err(failure) => json!({ "endpoint": endpoint, "error": failure.to_string() }),
                })
            })?,
            Format::Table => screen.show(&rows::live(&before, &now))?,
        }
        before = now;
    }
}

/// One look at every node, all at the same time.
async fn look(client: &Client) -> Sample {
    let mut asking = JoinSet::new();
    for node in client.nodes() {
        let (node, timeout) = (node.clone(), client.timeout());
        asking.spawn(async move { (node.endpoint.clone(), ask_within(timeout, &node).await) });
    }
    Sample { at: Some(tokio::time::Instant::now()), answers: asking.join_all().await.into_iter().collect() }
}

async fn ask(client: &Client, node: &Node) -> Answer<TreeResponse> {
    ask_within(client.timeout(), node).await
}

async fn ask_within(timeout: Duration, node: &Node) -> Answer<TreeResponse> {
    let mut request = Request::new(TreeRequest {});
    request.set_timeout(timeout);
    match node.admin.clone().tree(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(Failure::from_status("tree", &node.endpoint, &status)),
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
            format!("{}{mark}{name}", "  ".repeat(depth)),
            rows::state(node),
            node.mailbox.map(|mailbox| mailbox.to_string()).unwrap_or_default(),
            node.restarts.to_string(),
            uptime.map(uptime_text).unwrap_or_default(),
            output::shown(&node.last_exit),
        ]);
    }
    output::line(format!("{endpoint}\n{table}"))
}
