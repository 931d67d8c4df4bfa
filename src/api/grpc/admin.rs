//! `AdminService`: what a node says about itself, from state that is shared,
//! so that it answers whatever the actors are doing.

use tonic::{Request, Response, Status};

use super::convert;
use super::pb::admin::admin_service_server::AdminService;
use super::pb::admin::{StatusRequest, StatusResponse, TreeRequest, TreeResponse};
use crate::Ledger;

pub(super) struct Admin(pub(super) Ledger);

#[tonic::async_trait]
impl AdminService for Admin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(convert::status(self.0.status())))
    }

    async fn tree(&self, _: Request<TreeRequest>) -> Result<Response<TreeResponse>, Status> {
        let nodes = self.0.tree().nodes;
        let nodes = nodes.into_iter().map(convert::tree_node).collect();
        Ok(Response::new(TreeResponse { nodes }))
    }
}
