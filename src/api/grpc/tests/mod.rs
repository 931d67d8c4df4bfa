//! Tests of the API beside its sockets; with them, see `tests/client_port`.

mod answers;
mod append_streams;
mod connections;
mod requests;
mod words;

use std::time::Duration;

use super::Settings;
use super::call::{Call, CallKind};
use super::connection::Connection;
use crate::Config;
use crate::environment::Environment;

fn settings() -> Settings {
    Settings::from(&Config::default())
}

/// A node without a client port, for what is called beside it.
async fn node() -> (crate::Node, tempfile::TempDir) {
    node_in(Environment::default()).await
}

async fn node_in(environment: Environment) -> (crate::Node, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.data_dir = directory.path().join("data");
    config.listen.grpc = "off".into();
    (crate::Node::builder(config).environment(environment).start().await.unwrap(), directory)
}

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn call(kind: CallKind, connection: &std::sync::Arc<Connection>) -> std::sync::Arc<Call> {
    Call::new(kind, &hyper::HeaderMap::new(), connection, &settings(), &Default::default())
}

/// Whether a call has to be over now.
async fn is_over(call: &Call) -> bool {
    tokio::time::timeout(Duration::ZERO, call.over()).await.is_ok()
}
