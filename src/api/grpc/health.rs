//! `grpc.health.v1`: whether a load balancer should send clients here.
//!
//! The empty name is liveness: it is `SERVING` for as long as somebody answers. The context service is `SERVING` while
//! this node knows a leader, and is neither fenced, outdated nor draining. A leader that went away is missed only after an
//! election time-out: a hand-over is no reason to send clients elsewhere.

use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::CONTEXT_SERVICE;
use crate::Ledger;
use crate::status::serves;

/// The node's state is looked at this often, and whenever its view of the cluster changes.
const PERIOD: Duration = Duration::from_millis(250);

/// Reports the state of the context service.
#[derive(Clone)]
pub(super) struct Health(HealthReporter);

impl Health {
    /// Not serving until told otherwise, but alive.
    pub(super) async fn new() -> (Self, HealthServer<HealthService>) {
        let reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        reporter.set_service_status("", ServingStatus::Serving).await;
        let health = Health(reporter);
        health.set(false).await;
        (health, HealthServer::new(service))
    }

    /// Whether clients are welcome.
    pub(super) async fn set(&self, serving: bool) {
        let status = match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.0.set_service_status(CONTEXT_SERVICE, status).await;
    }

    /// Follows the node until dropped.
    pub(super) async fn follow(self, ledger: Ledger) {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut view = ledger.inner.replication.view();
        let mut last = false;
        loop {
            let serving = serves(&ledger.inner).unwrap_or(last);
            if last != serving {
                self.set(serving).await;
                last = serving;
            }
            tokio::select! {
                _ = ticks.tick() => {}
                changed = view.changed() => if changed.is_err() { return },
            }
        }
    }
}
