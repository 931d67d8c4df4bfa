//! What nodes say about themselves, and all that one of them holds.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::api::grpc::names;
use crate::api::grpc::pb::admin::{StatusRequest, StatusResponse};
use crate::api::grpc::pb::context::{Entry, GetRequest};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::super::Failure;
use super::super::client::{Client, NodeClient, may_retry, retry_after};
use super::super::retry::Patience;

/// A node that answers at all does so within this time.
const ANSWER: Duration = Duration::from_millis(500);
/// Entries read at once.
const PAGE: u32 = 500;

/// What the nodes say that answer, by node id.
pub async fn statuses(client: &Client) -> Vec<StatusResponse> {
    let mut asked = JoinSet::new();
    for node in client.nodes() {
        let mut admin = node.admin.clone();
        asked.spawn(async move {
            let answer = timeout(ANSWER, admin.status(Request::new(StatusRequest {}))).await;
            answer.ok()?.ok().map(tonic::Response::into_inner)
        });
    }
    let mut answers: Vec<StatusResponse> = asked.join_all().await.into_iter().flatten().collect();
    answers.sort_by_key(|status| status.node_id);
    answers
}

/// The id of the node that leads, by its own word and in the latest term of those that say so.
pub fn leader(statuses: &[StatusResponse]) -> Option<u64> {
    let leaders = statuses.iter().filter(|status| status.role == "leader");
    leaders.max_by_key(|status| status.term).map(|status| status.node_id)
}

/// All of so many nodes have applied the same, and all there is.
pub fn are_level(statuses: &[StatusResponse], nodes: usize) -> bool {
    let places: BTreeSet<_> = statuses.iter().flat_map(|status| [status.commit_index, status.applied_index]).collect();
    statuses.len() == nodes && places.len() == 1
}

/// One state on all of them.
pub fn digests_agree(statuses: &[StatusResponse]) -> bool {
    statuses.windows(2).all(|pair| pair[0].digest == pair[1].digest)
}

/// Everything that this very node has of a context; each page within the time, however often it takes.
pub async fn read_all(node: &NodeClient, context_id: &str, page_time: Duration) -> Result<Vec<Entry>, Failure> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut patience = Patience::new(page_time);
    loop {
        let mut request = Request::new(GetRequest {
            context_id: context_id.to_owned(),
            key: String::new(),
            after_sequence: entries.last().map_or(0, |entry| entry.sequence),
            limit: PAGE,
        });
        request.set_timeout(patience.left());
        request.metadata_mut().insert(names::CONSISTENCY, MetadataValue::from_static("stale"));
        let page = match node.context.clone().get(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if may_retry(&status) && patience.pause(retry_after(&status)).await => continue,
            Err(status) => return Err(Failure::from_status("get", &node.endpoint, &status)),
        };
        patience.renew();
        if page.entries.is_empty() {
            return Ok(entries);
        }
        entries.extend(page.entries);
    }
}
