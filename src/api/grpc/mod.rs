//! The gRPC API: `converge.context.v1`, `converge.ledger.v1`, `converge.admin.v1`, health, reflection.
//!
//! Owns the client port's accept loop and its connections, as two actors that
//! [`children`] describes, and the translation between wire messages and
//! [`Ledger`] calls. Every call ends in a typed status, and every refusal says
//! so in the trailer `x-ledger-outcome: refused`, because client libraries make
//! up `UNAVAILABLE` themselves when a connection breaks.
//!
//! What it holds is bounded, each kind of call by itself so that none leaves the
//! others no place: connections and streams, calls (`places`), bytes of requests
//! being received, which are unpacked and decoded only when all have come, what a
//! load unpacks, and every byte of an answer from before it is read until it is in
//! the socket (`budget`, `body`). Every call is over by its deadline, also where its
//! client neither sends nor reads, and before that where it waits for its client
//! and others want what it holds (`crowd`). A limit that is reached is an alarm.
//!
//! Deliberately decides nothing: limits of entries, deduplication, consistency
//! are the ledger's.

mod admin;
mod append_stream;
mod body;
mod budget;
mod call;
mod cluster;
mod connection;
mod connections;
mod context;
mod convert;
mod crowd;
mod encode;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod health;
mod ledger;
mod listener;
mod metadata;
mod places;
mod reflection;
mod status;
mod streams;
#[cfg(test)]
mod tests;
mod transaction_fits;
mod transport;
mod watch;
mod whole;
mod windows;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use converge_supervisors::{ChildSpec, Restart, Service, Shutdown};

use crate::{Config, Ledger};

/// Generated from `proto/`.
#[allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, clippy::pedantic)]
pub mod pb {
    /// The client contract.
    pub mod context {
        tonic::include_proto!("converge.context.v1");
    }
    /// Many appends over one call, transactions, and what an operator has a cluster do.
    pub mod ledger {
        tonic::include_proto!("converge.ledger.v1");
    }
    /// What an operator asks a node.
    pub mod admin {
        tonic::include_proto!("converge.admin.v1");
    }
    /// All files, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/converge_descriptor.bin"));
}

/// The name that health checks know the context service by.
pub const CONTEXT_SERVICE: &str = "converge.context.v1.ContextService";

/// The service of many appends over one call, of transactions and fences, and of reads of the whole ledger.
pub const LEDGER_SERVICE: &str = "converge.ledger.v1.LedgerService";

/// The service by which an operator changes a cluster.
pub const CLUSTER_SERVICE: &str = "converge.ledger.v1.ClusterService";

/// Names of the metadata that goes beside requests and answers.
pub mod names {
    /// Request: one entry per key and context, however often it is sent.
    pub const IDEMPOTENCY_KEY: &str = "x-idempotency-key";
    /// Request: the context's latest sequence before the append.
    pub const EXPECTED_SEQUENCE: &str = "x-expected-sequence";
    /// Request: `linearizable`, `lease` or `stale`.
    pub const CONSISTENCY: &str = "x-consistency";
    /// Request: a read is answered when the node has applied the entry at this position.
    pub const MIN_POSITION: &str = "x-min-position";
    /// Answer: to an append, the entry's position over the whole ledger; to a read, the position that the node had applied.
    pub const POSITION: &str = "x-ledger-position";
    /// Answer: the term that the answer belongs to.
    pub const TERM: &str = "x-ledger-term";
    /// Answer: `true` when the entry stood there before the call.
    pub const DEDUPLICATED: &str = "x-ledger-deduplicated";
    /// Error: `refused`, `condition` or `fence` when nothing was written, `unknown` when it may have been.
    pub const OUTCOME: &str = "x-ledger-outcome";
    /// The value of [`OUTCOME`] on every refusal.
    pub const REFUSED: &str = "refused";
    /// The value of [`OUTCOME`] when the entry may have been written.
    pub const UNKNOWN: &str = "unknown";
    /// The value of [`OUTCOME`] when nothing was written, for a condition did not hold.
    pub const CONDITION_FAILED: &str = "condition";
    /// The value of [`OUTCOME`] when nothing was written, for the context has another fence epoch.
    pub const FENCED: &str = "fence";
    /// Error: which condition did not hold, counted from 1.
    pub const CONDITION: &str = "x-ledger-condition";
    /// Error: the context's fence epoch, where another was expected.
    pub const FENCE_EPOCH: &str = "x-ledger-fence-epoch";

    /// Whether this value of [`OUTCOME`] says that nothing was written.
    #[must_use]
    pub fn is_refusal(outcome: &[u8]) -> bool {
        [REFUSED, CONDITION_FAILED, FENCED].iter().any(|refusal| refusal.as_bytes() == outcome)
    }
    /// Error: the context's latest sequence, where another was expected.
    pub const ACTUAL_SEQUENCE: &str = "x-ledger-actual-sequence";
    /// The end of a watch: the last sequence that was sent, to watch again from.
    pub const LAST_SEQUENCE: &str = "x-ledger-last-sequence";
    /// The end of a watch of the whole ledger: the last position that was sent, to watch again from.
    pub const LAST_POSITION: &str = "x-ledger-last-position";
    /// The end of a stream of appends: so many of its entries are durable, the first ones.
    pub const ACKNOWLEDGED: &str = "x-ledger-acknowledged";
    /// The end of a stream of appends, where it is an error: which entry it is about, counted from 1.
    pub const STREAM_POSITION: &str = "x-ledger-stream-position";
    /// Error: milliseconds after which an overloaded node may be asked again.
    pub const RETRY_AFTER_MS: &str = "x-ledger-retry-after-ms";
}

/// Bounds of the API, all from [`Config`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections open at once.
    pub connections: usize,
    /// Calls open at once on one connection.
    pub streams: u32,
    /// Appends open at once on all connections, and as many reads.
    pub requests: usize,
    /// Watches open at once on all connections.
    pub watches: usize,
    /// Bytes of requests being received: loads, appends, and the rest by themselves.
    pub request_bytes: usize,
    /// The largest payload of an entry.
    pub payload_bytes: usize,
    /// The largest answer to a read.
    pub response_bytes: usize,
    /// The largest snapshot blob.
    pub snapshot_bytes: usize,
    /// Appends admitted and not yet answered.
    pub inflight_bytes: usize,
    /// Answers of reads and watches that are read, encoded, or being sent.
    pub answer_bytes: usize,
    /// The deadline of a call that gives none.
    pub deadline_default: Duration,
    /// A call's deadline is cut to this.
    pub deadline_max: Duration,
    /// How long a stop waits for calls.
    pub drain: Duration,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (grpc, limits) = (&config.grpc, &config.limits);
        Settings {
            connections: size(grpc.connections.into()),
            streams: grpc.streams,
            requests: size(grpc.requests.into()),
            watches: size(grpc.watches.into()),
            request_bytes: size(grpc.request_bytes),
            payload_bytes: size(limits.payload_bytes),
            response_bytes: size(limits.response_bytes),
            snapshot_bytes: size(limits.snapshot_bytes).max(crate::config::ENTRY_BYTES_MAX),
            inflight_bytes: size(limits.inflight_bytes),
            answer_bytes: size(limits.answer_bytes),
            deadline_default: Duration::from_millis(grpc.deadline_default_ms),
            deadline_max: Duration::from_millis(grpc.deadline_max_ms),
            drain: Duration::from_millis(grpc.drain_ms),
        }
    }
}

/// Beyond `drain`, what a stop may take before the actor is killed.
const DRAIN_SLACK: Duration = Duration::from_secs(1);

/// The API's two actors: `listener`, which accepts on a clone of the socket, so
/// that its restart refuses no connection, and `connections`, which serves.
#[must_use]
pub fn children(socket: TcpListener, ledger: Ledger, settings: Settings) -> Vec<ChildSpec> {
    let socket = Arc::new(socket);
    let slot = Service::new("connections");
    let gate = listener::Gate::new(&settings, ledger.clone());
    let drain = settings.drain;

    let listener = {
        let (slot, gate) = (slot.clone(), gate.clone());
        ChildSpec::actor("listener", move || {
            let args = listener::Arguments { socket: socket.clone(), connections: slot.clone(), gate: gate.clone() };
            (listener::Listener, args)
        })
        .shutdown(Shutdown::BrutalKill)
    };
    let connections = ChildSpec::service("connections", &slot, move || {
        let args = connections::Arguments { ledger: ledger.clone(), settings: settings.clone(), gate: gate.clone() };
        (connections::Connections, args)
    })
    .shutdown(Shutdown::Timeout(drain + DRAIN_SLACK));

    [listener, connections].map(|child| child.restart(Restart::Permanent)).into()
}
