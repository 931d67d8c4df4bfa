//! `move-leader`: leadership goes to another node, without a failed call.

use clap::Args;
use serde_json::json;
use tonic::metadata::MetadataMap;

use super::client::Call;
use super::{Failure, Format, Global, number, output};
use crate::api::grpc::pb::ledger::MoveLeaderRequest;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The node that is to lead; without it, one that was heard of and has most of the log.
    #[arg(value_parser = number::<u64>(1..=u64::MAX))]
    node: Option<u64>,
}

/// Asks node by node, for only the leader can do it.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    let message = MoveLeaderRequest { node_id: arguments.node.unwrap_or_default() };
    let none = MetadataMap::new();
    let call = client.call(Call::Read("move-leader"), &none, &message, |mut node, request| async move {
        node.cluster.move_leader(request).await
    });
    let leader = call.await?.into_inner().leader_id;
    match global.output {
        Format::Json => output::line(json!({ "leader_id": leader }).to_string()),
        Format::Table => output::line(format!("node {leader} leads")),
    }
}
