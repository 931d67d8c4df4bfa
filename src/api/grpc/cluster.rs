//! `ClusterService`: what an operator has a cluster do.

use converge_ledger_core::NodeId;
use tonic::{Code, Request, Response, Status};

use super::Settings;
use super::metadata::{Arrived, Begun, time_left};
use super::pb::ledger::cluster_service_server::ClusterService;
use super::pb::ledger::{MoveLeaderRequest, MoveLeaderResponse};
use super::status::refused;
use crate::{Ledger, NotHandedOver};

pub(super) struct ClusterCalls {
    pub(super) ledger: Ledger,
    pub(super) settings: Settings,
}

#[tonic::async_trait]
impl ClusterService for ClusterCalls {
    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let left = time_left(&metadata, extensions.get::<Arrived>().copied(), &self.settings)?;
        Begun::set(&extensions);
        let to = Some(NodeId(message.node_id)).filter(|id| id.get() != 0);
        let leader = self.ledger.move_leader(to, Some(left)).await.map_err(not_moved)?;
        Ok(Response::new(MoveLeaderResponse { leader_id: leader.get() }))
    }
}

fn not_moved(error: NotHandedOver) -> Status {
    let code = match error {
        NotHandedOver::NotLeader(_) | NotHandedOver::NoAnswer => Code::Unavailable,
        NotHandedOver::NoVoter(_) => Code::InvalidArgument,
        NotHandedOver::Unheard(_) | NotHandedOver::Nobody => Code::FailedPrecondition,
        NotHandedOver::NotElected(_) => Code::Aborted,
    };
    refused(code, error.to_string())
}
