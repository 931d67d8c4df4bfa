//! `tree`: the nodes' supervision trees.

use std::time::Duration;

use converge_ledger::api::grpc::pb::admin::{TreeNode, TreeRequest, TreeResponse};
use serde_json::{Value, json};
use tonic::Request;

use super::client::{Client, Node};
use super::status::Answer;
use super::{Failure, Format, Global, output};

pub(crate) async fn run(global: &Global) -> Result<(), Failure> {
    let client = global.client()?;
    for node in client.nodes() {
        let tree = ask(&client, node).await?;
        match global.output {
            Format::Json => output::json(&tree_json(&node.endpoint, &tree))?,
            Format::Table => print_table(&node.endpoint, &tree)?,
        }
    }
    Ok(())
}

async fn ask(client: &Client, node: &Node) -> Answer<TreeResponse> {
    let mut request = Request::new(TreeRequest {});
    request.set_timeout(client.timeout());
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
            "actor": node.actor,
            "incarnation": node.incarnation,
            "restarts": node.restarts,
            "last_exit": node.last_exit,
            "uptime_ms": node.uptime_ms,
        })
    };
    json!({
        "endpoint": endpoint,
        "nodes": tree.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

fn print_table(endpoint: &str, tree: &TreeResponse) -> Result<(), Failure> {
    let mut table = output::table(&["actor", "state", "restarts", "uptime", "last exit"]);
    for node in &tree.nodes {
        let depth = node.path.matches('/').count();
        let name = node.path.rsplit('/').next().unwrap_or_default();
        let mark = if node.kind == "supervisor" { "▸ " } else { "" };
        let uptime = node.uptime_ms.map(Duration::from_millis);
        table.add_row([
            format!("{}{mark}{name}", "  ".repeat(depth)),
            node.state.clone(),
            node.restarts.to_string(),
            uptime.map(uptime_text).unwrap_or_default(),
            output::shown(&node.last_exit),
        ]);
    }
    output::line(format!("{endpoint}\n{table}"))
}

fn uptime_text(uptime: Duration) -> String {
    let seconds = uptime.as_secs();
    match seconds {
        0..60 => format!("{}.{} s", seconds, uptime.subsec_millis() / 100),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} m", seconds / 3600, seconds / 60 % 60),
    }
}
