//! A gRPC client for the commands: several endpoints, one deadline, retries
//! that cannot append twice. It does not care who leads: every node takes calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::api::grpc::names;
use crate::api::grpc::pb::admin::admin_service_client::AdminServiceClient;
use crate::api::grpc::pb::context::context_service_client::ContextServiceClient;
use crate::api::grpc::pb::context::{AppendRequest, Entry};
use crate::api::grpc::pb::ledger::cluster_service_client::ClusterServiceClient;
use crate::api::grpc::pb::ledger::ledger_service_client::LedgerServiceClient;
use crate::config::Address;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Response, Status};

use super::Failure;
use super::retry::Patience;

/// The largest message a node may answer with.
const ANSWER_BYTES_MAX: usize = 2 << 30;
/// A connection that does not come about in this time is tried elsewhere.
const CONNECT: Duration = Duration::from_secs(2);
/// With several endpoints, one that does not answer for this long is left.
const ATTEMPT: Duration = Duration::from_secs(3);
/// A silent connection is pinged this often, and given up after as long again.
const PING: Duration = Duration::from_secs(5);

/// One node to talk to.
#[derive(Clone)]
pub struct NodeClient {
    pub endpoint: String,
    pub context: ContextServiceClient<Channel>,
    pub ledger: LedgerServiceClient<Channel>,
    pub admin: AdminServiceClient<Channel>,
    pub cluster: ClusterServiceClient<Channel>,
}

/// See the module.
pub struct Client {
    nodes: Vec<NodeClient>,
    timeout: Duration,
    /// Its calls take their time.
    is_slow: bool,
    /// The node that answered last.
    preferred: AtomicUsize,
}

/// What is called, for messages; what only reads can have written nothing.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    Read(&'static str),
    Write(&'static str),
}

/// A done append.
pub struct Appended {
    pub entry: Entry,
    pub position: u64,
    pub term: u64,
    pub deduplicated: bool,
}

/// Checks an endpoint's shape; a bare `host:port` is taken as http.
pub fn parse_endpoint(text: &str) -> Result<String, String> {
    const SHAPE: &str = "an endpoint is written http://host:port";
    let text = text.trim();
    let is_scheme = |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let rest = match text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
        None => text,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some(("https", _)) => return Err(format!("nodes speak no TLS; {SHAPE}")),
        Some(_) => return Err(format!("only http:// endpoints are served; {SHAPE}")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    Address::parse(authority, 1).map_err(|why| format!("{why}; {SHAPE}"))?;
    let endpoint = format!("http://{authority}");
    Endpoint::from_shared(endpoint.clone()).map_err(|error| error.to_string())?;
    Ok(endpoint)
}

impl Client {
    pub fn new(endpoints: &[String], timeout: Duration) -> Result<Self, Failure> {
        let nodes = endpoints.iter().map(|endpoint| NodeClient::new(endpoint)).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            let message = "no endpoint: name one with --endpoint";
            return Err(Failure::new(super::Kind::Usage, message));
        }
        Ok(Client { nodes, timeout, is_slow: false, preferred: AtomicUsize::new(0) })
    }

    pub fn nodes(&self) -> &[NodeClient] {
        &self.nodes
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// For calls that carry much: one attempt may take half of the time, not a moment, before another node is asked.
    pub fn slow(self) -> Self {
        Client { is_slow: true, ..self }
    }

    /// Starts at another node than the first, so that clients spread.
    pub fn prefer(self, node: usize) -> Self {
        let at = node % self.nodes.len();
        self.preferred.store(at, Ordering::Relaxed);
        self
    }

    /// The node that answered last.
    pub fn preferred(&self) -> &NodeClient {
        &self.nodes[self.preferred.load(Ordering::Relaxed)]
    }

    /// Turns to the next node.
    pub fn turn_away(&self) {
        self.turn_from(self.preferred.load(Ordering::Relaxed));
    }

    /// Turns to the next node, unless another call did so already.
    fn turn_from(&self, node: usize) {
        let next = (node + 1) % self.nodes.len();
        let _ = self.preferred.compare_exchange(node, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Appends under a key, as often as it takes within the deadline.
    pub async fn append(&self, message: &AppendRequest, key: &str, expected: Option<u64>) -> Result<Appended, Failure> {
        let key: AsciiMetadataValue = key.parse().map_err(|_| {
            let message = "the idempotency key is not printable ASCII: choose another one";
            Failure::new(super::Kind::Usage, message)
        })?;
        let mut extra = MetadataMap::new();
        extra.insert(names::IDEMPOTENCY_KEY, key);
        if let Some(expected) = expected {
            extra.insert(names::EXPECTED_SEQUENCE, expected.into());
        }
        let response = self
            .call(Call::Write("append"), &extra, message, |mut node, request| async move {
                node.context.append(request).await
            })
            .await?;
        let number = |name| number(response.metadata(), name).unwrap_or_default();
        let flag = response.metadata().get(names::DEDUPLICATED);
        Ok(Appended {
            position: number(names::POSITION),
            term: number(names::TERM),
            deduplicated: flag.is_some_and(|flag| flag == "true"),
            entry: response.into_inner().entry.unwrap_or_default(),
        })
    }

    /// Makes a call that may be made twice, until it is answered, refused for
    /// good, or the deadline passes.
    pub async fn call<M, R, F>(
        &self,
        what: Call,
        extra: &MetadataMap,
        message: &M,
        make: impl Fn(NodeClient, Request<M>) -> F,
    ) -> Result<Response<R>, Failure>
    where
        M: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut patience = Patience::new(self.timeout);
        let mut maybe_done = false;
        // The attempt that says most about why none came through, and its node.
        let mut telling: Option<(usize, Status)> = None;
        loop {
            let at = self.preferred.load(Ordering::Relaxed);
            let mut request = Request::new(message.clone());
            *request.metadata_mut() = extra.clone();
            request.set_timeout(self.share(patience.left()));
            let node = self.nodes[at].clone();
            let status = match make(node, request).await {
                Ok(response) => return Ok(response),
                Err(status) => status,
            };
            if !may_retry(&status) {
                return Err(Failure::of_call(what, &self.nodes[at].endpoint, &status, maybe_done));
            }
            self.turn_from(at);
            maybe_done |= may_be_done(&status);
            let wait = retry_after(&status);
            if telling.as_ref().is_none_or(|(_, best)| says(&status) >= says(best)) {
                telling = Some((at, status));
            }
            if !patience.pause(wait).await {
                let (at, status) = telling.expect("this attempt is one");
                return Err(Failure::of_call(what, &self.nodes[at].endpoint, &status, maybe_done));
            }
        }
    }

    /// The time that one attempt gets.
    pub fn share(&self, left: Duration) -> Duration {
        match self.nodes.len() {
            1 => left,
            _ if self.is_slow => left.min(ATTEMPT.max(left / 2)),
            _ => left.min(ATTEMPT),
        }
    }
}

impl NodeClient {
    fn new(endpoint: &str) -> Result<Self, Failure> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| Failure::error(format!("--endpoint {endpoint}: {error}")))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .connect_lazy();
        Ok(NodeClient {
            endpoint: endpoint.to_owned(),
            context: ContextServiceClient::new(channel.clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
            ledger: LedgerServiceClient::new(channel.clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
            admin: AdminServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel),
        })
    }
}

/// Whether a node of ours says this, and not what is between it and us.
pub fn said_by_node(status: &Status) -> bool {
    status.metadata().get(names::OUTCOME).is_some()
}

/// Whether a write may have been carried out that ended like this: it was neither refused nor without a connection.
pub fn may_be_done(status: &Status) -> bool {
    match status.metadata().get(names::OUTCOME) {
        Some(outcome) => !names::is_refusal(outcome.as_encoded_bytes()),
        None => !is_unreached(status),
    }
}

/// No connection came about: nothing was sent.
fn is_unreached(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// How much an attempt says about why a call comes to nothing: a node's word above that its time passed, that above a
/// node that does not answer, and that above one that is not there.
fn says(status: &Status) -> u8 {
    match (said_by_node(status), status.code()) {
        (true, Code::DeadlineExceeded) => 2,
        (true, _) => 3,
        (false, _) => u8::from(!is_unreached(status)),
    }
}

/// Another attempt, under the same key, may fare better.
pub fn may_retry(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => true,
        // Made by the library when a connection breaks in the middle of a call.
        Code::Unknown | Code::Internal => status.metadata().get(names::OUTCOME).is_none(),
        Code::ResourceExhausted => is_overload(status),
        _ => false,
    }
}

/// The node has too much to do; a payload past the limit has the same code.
pub fn is_overload(status: &Status) -> bool {
    retry_after(status).is_some()
}

pub fn retry_after(status: &Status) -> Option<Duration> {
    number(status.metadata(), names::RETRY_AFTER_MS).map(Duration::from_millis)
}

pub fn number(metadata: &MetadataMap, name: &str) -> Option<u64> {
    metadata.get(name)?.to_str().ok()?.parse().ok()
}
