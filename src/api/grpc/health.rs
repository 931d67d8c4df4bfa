//! `grpc.health.v1`: whether a load balancer should send clients here.

use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::CONTEXT_SERVICE;
use crate::Ledger;

/// How often the node's state is looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// Reports one state for the port and for the context service.
#[derive(Clone)]
pub(super) struct Health(HealthReporter);

impl Health {
    /// Serving until told otherwise.
    pub(super) async fn new() -> (Self, HealthServer<HealthService>) {
        let reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        let health = Health(reporter);
        health.set(true).await;
        (health, HealthServer::new(service))
    }

    /// Both names at once.
    pub(super) async fn set(&self, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.0.set_service_status("", status).await;
        self.0.set_service_status(CONTEXT_SERVICE, status).await;
    }

    /// Follows the node until dropped: a fenced node serves nothing.
    pub(super) async fn follow(self, ledger: Ledger) {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut last = None;
        loop {
            ticks.tick().await;
            let serving = ledger.status().phase != "fenced";
            if last != Some(serving) {
                self.set(serving).await;
                last = Some(serving);
            }
        }
    }
}
