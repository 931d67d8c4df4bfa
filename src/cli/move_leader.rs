//! `move-leader`: leadership goes to another node, without a failed call.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tonic::{Code, Request};

use super::client::{Client, said_by_node};
use super::{Failure, Format, Global, number, output};
use crate::api::grpc::pb::ledger::MoveLeaderRequest;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The node that is to lead; without it, one that was heard of and has most of the log.
    #[arg(value_parser = number::<u64>(1..=u64::MAX))]
    node: Option<u64>,
}

/// The leader alone can do it. Each node is asked once: to ask again could move the office twice. One that does not answer keeps
/// nobody from asking the next.
async fn ask(client: &Client, node_id: u64, timeout: Duration) -> Result<u64, Failure> {
    let mut told = None;
    for node in client.nodes() {
        let mut request = Request::new(MoveLeaderRequest { node_id });
        request.set_timeout(client.share(timeout));
        match node.cluster.clone().move_leader(request).await {
            Ok(response) => return Ok(response.into_inner().leader_id),
            Err(status) => {
                let failure = Failure::from_status("move-leader", &node.endpoint, &status);
                if said_by_node(&status) && status.code() != Code::Unavailable {
                    return Err(failure);
                }
                // A node's word that another leads says more than that one is not there.
                if told.is_none() || said_by_node(&status) {
                    told = Some(failure);
                }
            }
        }
    }
    Err(told.expect("there is an endpoint"))
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let leader = ask(&global.client()?, arguments.node.unwrap_or_default(), global.timeout).await?;
    match global.output {
        Format::Json => output::line(json!({ "leader_id": leader }).to_string()),
        Format::Table => output::line(format!("node {leader} leads")),
    }
}
