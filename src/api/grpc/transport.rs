//! Between HTTP/2 and the services: which service a path belongs to, how many
//! calls are open, and that every error says what became of the call.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use http_body::Body;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::admin::Admin;
use super::body::{Budget, Held, RequestBody, ResponseBody};
use super::context::Context;
use super::metadata::{Arrived, Begun};
use super::pb::admin::admin_service_server::AdminServiceServer;
use super::pb::context::context_service_server::ContextServiceServer;
use super::reflection::{self, Index};
use super::status::{outcome, overloaded};
use super::{Settings, names};
use crate::{Ledger, Written};

/// What a message may take beside its payload: names, metadata, framing.
const MESSAGE_OVERHEAD_BYTES: usize = 256 << 10;
/// An answer's entries take this much beside their payloads, at most as much
/// again: names and metadata are bounded by the limits of an entry.
const ANSWER_OVERHEAD_FACTOR: usize = 2;
/// Snapshots being made or loaded at once. Each may hold a whole blob, which is
/// why their number is small, and why further ones are shed.
const BULK_AT_ONCE: usize = 4;
/// Calls of health, reflection and the operator at once. Apart from the others:
/// a health watch stays open through a drain.
const REST_AT_ONCE: usize = 1024;
/// When to come back after a shed call.
const RETRY_AFTER: Duration = Duration::from_millis(200);

const PREFIX: &str = "/converge.context.v1.ContextService/";

type Failure = Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send>>;

/// All services of the port. Cloned per connection and per call.
#[derive(Clone)]
pub(super) struct Stack {
    /// Append, Get, Snapshot, Watch: small requests.
    small: ContextServiceServer<Context>,
    /// Load: a request may hold a whole snapshot.
    bulk: ContextServiceServer<Context>,
    rest: Routes,
    calls: Arc<Semaphore>,
    bulk_calls: Arc<Semaphore>,
    rest_calls: Arc<Semaphore>,
    received: Budget,
}

impl Stack {
    pub(super) fn new(
        ledger: &Ledger,
        settings: &Settings,
        drain: &CancellationToken,
        health: tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>,
    ) -> Self {
        let context = Arc::new(Context::new(ledger.clone(), settings.clone(), drain.clone()));
        let answer = settings.response_bytes.saturating_mul(ANSWER_OVERHEAD_FACTOR);
        let answer = answer.max(settings.snapshot_bytes) + MESSAGE_OVERHEAD_BYTES;
        let service = |request_bytes: usize| {
            ContextServiceServer::from_arc(context.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(request_bytes + MESSAGE_OVERHEAD_BYTES)
                .max_encoding_message_size(answer)
        };
        let rest = Routes::new(AdminServiceServer::new(Admin(ledger.clone()))).add_service(health);
        Stack {
            small: service(settings.payload_bytes),
            bulk: service(settings.snapshot_bytes),
            rest: with_reflection(rest).prepare(),
            calls: Arc::new(Semaphore::new(settings.requests)),
            bulk_calls: Arc::new(Semaphore::new(BULK_AT_ONCE)),
            rest_calls: Arc::new(Semaphore::new(REST_AT_ONCE)),
            received: Budget::new(settings.request_bytes),
        }
    }

    /// Calls of the context service that are open.
    pub(super) fn open_calls(&self, settings: &Settings) -> usize {
        settings.requests - self.calls.available_permits()
    }

    /// The call's places; an answer holds them until it was sent.
    fn admit(&self, method: Option<&str>) -> Result<Places, Status> {
        let shed = |what: &str| {
            let message = format!("the node is serving as many {what} as it may: try again");
            overloaded(message, RETRY_AFTER)
        };
        let calls = match method {
            Some(_) => &self.calls,
            None => &self.rest_calls,
        };
        let call = calls.clone().try_acquire_owned();
        let call = call.map_err(|_| shed("calls"))?;
        let bulk = match method {
            Some("Load" | "Snapshot") => {
                let bulk = self.bulk_calls.clone().try_acquire_owned();
                Some(bulk.map_err(|_| shed("snapshots"))?)
            }
            _ => None,
        };
        Ok(Places { call, bulk })
    }

    fn dispatch<B>(&mut self, method: Option<&str>, request: Request<RequestBody<B>>) -> Failure
    where
        B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        match method {
            Some("Load") => Service::call(&mut self.bulk, request),
            Some(_) => Service::call(&mut self.small, request),
            None => {
                let answer = Service::call(&mut self.rest, request);
                Box::pin(answer)
            }
        }
    }
}

/// A call's places among the open ones.
pub(super) struct Places {
    #[allow(dead_code, reason = "held for its drop")]
    call: OwnedSemaphorePermit,
    #[allow(dead_code, reason = "held for its drop")]
    bulk: Option<OwnedSemaphorePermit>,
}

fn with_reflection(routes: Routes) -> Routes {
    match Index::new() {
        Ok(index) => {
            let index = Arc::new(index);
            routes.add_service(reflection::v1::service(&index)).add_service(reflection::v1alpha::service(&index))
        }
        Err(error) => {
            // Made at build time: a test holds that they parse.
            tracing::error!(%error, "gRPC reflection is not served");
            routes
        }
    }
}

impl<B> Service<Request<B>> for Stack
where
    B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let arrived = Arrived(Instant::now());
        let mut request = request.map(|body| RequestBody::new(body, self.received.clone()));
        let begun = Begun::default();
        request.extensions_mut().insert(arrived);
        request.extensions_mut().insert(begun.clone());
        let path = request.uri().path().to_owned();
        let method = path.strip_prefix(PREFIX);
        let places = match self.admit(method) {
            Ok(places) => places,
            Err(status) => {
                let (parts, body) = status.into_http::<tonic::body::Body>().into_parts();
                let body = ResponseBody::new(body, None, None);
                return Box::pin(std::future::ready(Ok(Response::from_parts(parts, body))));
            }
        };
        let answer = self.dispatch(method, request);
        Box::pin(async move {
            let (mut parts, body) = answer.await?.into_parts();
            mark_outcome(&mut parts.headers, begun.written());
            let held = parts.extensions.remove::<Held>();
            let body = ResponseBody::new(body, Some(places), held);
            Ok(Response::from_parts(parts, body))
        })
    }
}

/// An error that the handlers did not mark. In front of them it is a refusal:
/// the message was too large, not decodable, or for no method. Of a call that a
/// handler gave to the ledger, nobody knows what became of it.
/// tonic's code for a message past the limit is made the contract's.
pub(super) fn mark_outcome(headers: &mut HeaderMap, written: Written) {
    const GRPC_STATUS: &str = "grpc-status";
    let Some(code) = headers.get(GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes())) else {
        return;
    };
    if code == Code::Ok || headers.contains_key(names::OUTCOME) {
        return;
    }
    headers.insert(names::OUTCOME, HeaderValue::from_static(outcome(written)));
    if code == Code::OutOfRange {
        let exhausted = HeaderValue::from(Code::ResourceExhausted as i32);
        headers.insert(GRPC_STATUS, exhausted);
    }
}
