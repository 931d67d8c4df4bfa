//! `status`: what the nodes say about themselves and the cluster.

use std::collections::BTreeMap;

use crate::api::grpc::pb::admin::{Peer, StatusRequest, StatusResponse};
use serde_json::{Value, json};
use tonic::Request;

use super::client::{Client, NodeClient};
use super::{Failure, Format, Global, output};

/// Asks every endpoint, the silent ones included: the exit code is that of the
/// first one without an answer, or says that the answers are not those of one cluster.
pub(crate) async fn run(global: &Global) -> Result<(), Failure> {
    let client = global.client()?;
    let mut answers = Vec::new();
    for node in client.nodes() {
        answers.push((node.endpoint.as_str(), ask(&client, node).await));
    }
    let printed = match global.output {
        Format::Json => print_json(&answers),
        Format::Table => print_tables(&answers),
    };
    // First, for a node that is waited for comes back, and what is read off several clusters stays wrong.
    one_cluster(&answers)?;
    answers.into_iter().try_for_each(|(_, answer)| answer.map(drop)).and(printed)
}

/// The clusters of the nodes that answered, each with its nodes' endpoints.
fn clusters<'a>(answers: &[(&'a str, Answer<StatusResponse>)]) -> Vec<(String, Vec<&'a str>)> {
    let mut clusters: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (endpoint, answer) in answers {
        if let Ok(status) = answer {
            clusters.entry(status.cluster_id.clone()).or_default().push(endpoint);
        }
    }
    clusters.into_iter().collect()
}

fn one_cluster(answers: &[(&str, Answer<StatusResponse>)]) -> Result<(), Failure> {
    match clusters(answers).len() {
        0 | 1 => Ok(()),
        count => Err(Failure::error(format!(
            "status: the nodes that answered are of {count} different clusters; name those of one with --endpoint"
        ))),
    }
}

pub(crate) type Answer<T> = Result<T, Failure>;

/// One node's status, with the client's time-out.
pub(crate) async fn ask(client: &Client, node: &NodeClient) -> Answer<StatusResponse> {
    let mut request = Request::new(StatusRequest {});
    request.set_timeout(client.timeout());
    match node.admin.clone().status(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(Failure::from_status("status", &node.endpoint, &status)),
    }
}

fn print_json(answers: &[(&str, Answer<StatusResponse>)]) -> Result<(), Failure> {
    answers.iter().try_for_each(|(endpoint, answer)| {
        output::json(&match answer {
            Ok(status) => status_json(endpoint, status),
            Err(failure) => json!({ "endpoint": endpoint, "error": failure.to_string() }),
        })
    })
}

fn status_json(endpoint: &str, status: &StatusResponse) -> Value {
    let peer = |peer: &Peer| {
        let mut value = json!({
            "id": peer.id,
            "address": peer.address,
            "connected": peer.connected,
        });
        if let Some(index) = peer.match_index {
            value["match_index"] = index.into();
        }
        value
    };
    json!({
        "endpoint": endpoint,
        "node_id": status.node_id,
        "cluster_id": status.cluster_id,
        "role": status.role,
        "leader_id": status.leader_id,
        "term": status.term,
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
        "last_index": status.last_index,
        "last_position": status.last_position,
        "level": status.level,
        "key_window": status.key_window,
        "digest": status.digest,
        "phase": status.phase,
        "journal_bytes": status.journal_bytes,
        "segment_bytes": status.segment_bytes,
        "database_bytes": status.database_bytes,
        "peers": status.peers.iter().map(peer).collect::<Vec<_>>(),
        "alarms": status.alarms,
    })
}

fn print_tables(answers: &[(&str, Answer<StatusResponse>)]) -> Result<(), Failure> {
    let mut nodes = output::table(&[
        "node", "endpoint", "role", "leader", "term", "commit", "applied", "position", "storage", "on disk",
    ]);
    let mut links = output::table(&["node", "peer", "address", "link", "match index"]);
    let mut alarms = Vec::new();
    for (endpoint, answer) in answers {
        let status = match answer {
            Ok(status) => status,
            Err(_) => {
                nodes.add_row(["?", endpoint, "no answer", "", "", "", "", "", "", ""]);
                alarms.push(format!("{endpoint} does not answer"));
                continue;
            }
        };
        nodes.add_row([
            status.node_id.to_string(),
            (*endpoint).to_owned(),
            status.role.clone(),
            known(status.leader_id),
            status.term.to_string(),
            status.commit_index.to_string(),
            status.applied_index.to_string(),
            status.last_position.to_string(),
            status.phase.clone(),
            mebibytes(status.journal_bytes + status.segment_bytes + status.database_bytes),
        ]);
        for peer in &status.peers {
            links.add_row([
                status.node_id.to_string(),
                peer.id.to_string(),
                peer.address.clone(),
                if peer.connected { "up" } else { "down" }.to_owned(),
                peer.match_index.map(|index| index.to_string()).unwrap_or_default(),
            ]);
        }
        let id = status.node_id;
        alarms.extend(status.alarms.iter().map(|alarm| format!("node {id}: {alarm}")));
    }
    let clusters = clusters(answers);
    match &clusters[..] {
        [] => {}
        [(id, _)] => output::line(format!("cluster {id}"))?,
        several => {
            output::line(format!("{} different clusters:", several.len()))?;
            several.iter().try_for_each(|(id, nodes)| output::line(format!("cluster {id}: {}", nodes.join(", "))))?;
        }
    }
    output::line(nodes.to_string())?;
    if !links.is_empty() {
        output::line(links.to_string())?;
    }
    match (clusters.is_empty(), alarms.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => output::line("no alarms"),
        (false, false) => output::line(format!("alarms:\n{}", alarms.join("\n"))),
    }
}

fn known(id: u64) -> String {
    match id {
        0 => "unknown".into(),
        id => id.to_string(),
    }
}

fn mebibytes(bytes: u64) -> String {
    // A table for people: tenths are enough, and exact as integers.
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
