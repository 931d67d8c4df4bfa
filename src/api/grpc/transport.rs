//! Between HTTP/2 and the services: which service a path belongs to, how many
//! calls are open, and that every error says what became of the call.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use converge_ledger_core::Limits;
use http_body::Body;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::admin::Admin;
use super::append_stream::{AppendStream, Ends};
use super::body::{Admit, Charged, Encoded, RequestBody, ResponseBody, Source};
use super::budget::Budget;
use super::call::{Call, CallKind};
use super::cluster::ClusterCalls;
use super::connection::{Connection, Watching};
use super::connections::Tasks;
use super::context::Context;
use super::crowd::Rule;
use super::ledger::LedgerCalls;
use super::metadata::{Arrived, Begun, time_left};
use super::pb::admin::admin_service_server::AdminServiceServer;
use super::pb::context::context_service_server::ContextServiceServer;
use super::pb::ledger::cluster_service_server::ClusterServiceServer;
use super::pb::ledger::ledger_service_server::LedgerServiceServer;
use super::places::{AllPlaces, Places, Pool, Seat};
use super::reflection::{self, Index, QUESTION_BYTES_MAX};
use super::status::{outcome, overloaded, refused};
use super::watch::FeedSlot;
use super::whole::PREFIX_BYTES;
use super::windows::Windows;
use super::{Settings, names};
use crate::{Ledger, Written};

/// What a message may take beside its payload: names, metadata, framing.
const MESSAGE_OVERHEAD_BYTES: usize = 256 << 10;
/// What the operator and health checks ask has names of services, if anything.
const NAMES_BYTES_MAX: usize = 4 << 10;
/// Of the bytes of requests, appends have one part in so many.
const APPENDS_PART: usize = 4;
/// Reads and watches one in so many.
const READS_PART: usize = 8;
/// And streams of appends. Loads have the rest.
const STREAMS_PART: usize = 8;
/// Metadata of one call, counted as HTTP/2 does.
const METADATA_BYTES_MAX: usize = 16 << 10;
/// What HTTP/2 counts for a header besides its texts.
const HEADER_OVERHEAD_BYTES: usize = 32;
/// When to come back after a shed call.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What the paths of [`super::LEDGER_SERVICE`] begin with.
const LEDGER_PATH: &str = "/converge.ledger.v1.LedgerService/";

type AnswerFuture = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;
type ServiceFuture = Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send>>;

/// The largest message of a request, as it comes and unpacked.
pub(super) fn message_bytes_max(kind: CallKind, settings: &Settings) -> usize {
    match kind {
        CallKind::Append | CallKind::AppendStream => settings.payload_bytes + MESSAGE_OVERHEAD_BYTES,
        // What is more for the ledger is refused by it: a message says the same with fewer bytes.
        CallKind::Transact => settings.payload_bytes.max(Limits::CONTRACT.transaction_bytes) + MESSAGE_OVERHEAD_BYTES,
        CallKind::Load => settings.snapshot_bytes + MESSAGE_OVERHEAD_BYTES,
        CallKind::Snapshot | CallKind::Read | CallKind::Watch => MESSAGE_OVERHEAD_BYTES,
        CallKind::Admin | CallKind::Health | CallKind::HealthWatch => NAMES_BYTES_MAX,
        CallKind::Other => QUESTION_BYTES_MAX,
    }
}

/// Bytes of requests that are being received, of each kind by itself: a few loads leave appends and reads their room.
#[derive(Clone)]
pub(super) struct Received {
    appends: Budget,
    streams: Budget,
    loads: Budget,
    reads: Budget,
}

impl Received {
    pub(super) fn new(settings: &Settings, ledger: &Ledger) -> Received {
        let all = settings.request_bytes;
        let budget = |limit, bytes: usize, kind| {
            // One of them always fits.
            Budget::new(limit, bytes.max(PREFIX_BYTES + message_bytes_max(kind, settings)), Rule::Still, ledger)
        };
        let (appends, reads, streams) = (all / APPENDS_PART, all / READS_PART, all / STREAMS_PART);
        Received {
            appends: budget("grpc.request_bytes (appends)", appends, CallKind::Transact),
            // Half of it backs their windows.
            streams: budget("grpc.request_bytes (streams of appends)", streams / 2, CallKind::AppendStream),
            loads: budget("grpc.request_bytes (loads)", all - appends - reads - streams, CallKind::Load),
            reads: budget("grpc.request_bytes (reads)", reads, CallKind::Read),
        }
    }

    /// The messages of the other kinds are so small that their places bound them.
    pub(super) fn of(&self, kind: CallKind) -> Option<&Budget> {
        match kind {
            CallKind::Append | CallKind::Transact => Some(&self.appends),
            CallKind::AppendStream => Some(&self.streams),
            CallKind::Load => Some(&self.loads),
            CallKind::Read | CallKind::Snapshot | CallKind::Watch => Some(&self.reads),
            CallKind::Admin | CallKind::Health | CallKind::HealthWatch | CallKind::Other => None,
        }
    }
}

/// Who gives calls their places.
#[derive(Clone)]
struct Admission {
    places: Arc<AllPlaces>,
    ledger: Ledger,
}

impl Admission {
    /// The places of this kind, by what bound, and what they are for.
    fn pool(&self, kind: CallKind) -> (&Arc<Pool>, &'static str, &'static str) {
        let places = &self.places;
        match kind {
            CallKind::Append | CallKind::Transact | CallKind::Load => {
                (&places.appends, "grpc.requests (appends)", "appends")
            }
            CallKind::AppendStream => (&places.append_streams, "streams of appends", "streams of appends"),
            CallKind::Read | CallKind::Snapshot => (&places.reads, "grpc.requests (reads)", "reads"),
            CallKind::Watch => (&places.watches, "grpc.watches", "watches"),
            CallKind::Admin => (&places.admin, "calls of the operator", "calls of the operator"),
            CallKind::Health => (&places.health, "health checks", "health checks"),
            CallKind::HealthWatch => (&places.health_watches, "watches of health", "watches of health"),
            CallKind::Other => (&places.others, "calls of reflection", "calls of reflection"),
        }
    }

    /// Whether a call that arrives may send its request: where there is no place, it would send it in vain.
    fn may_arrive(&self, call: &Arc<Call>, connection: &Arc<Connection>) -> Result<(), Status> {
        if connection.operator && call.kind.is_contract() {
            return Err(self.shed("grpc.connections", "connections", "connect again"));
        }
        if self.pool(call.kind).0.has_room(call) { Ok(()) } else { Err(self.no_place(call)) }
    }

    /// The call's places; an answer holds them until it was sent.
    fn admit(&self, call: &Arc<Call>, connection: &Arc<Connection>) -> Result<Places, Status> {
        let watching = match call.kind {
            CallKind::Watch => Some(self.watching(connection)?),
            _ => None,
        };
        let place = self.pool(call.kind).0.take(call).ok_or_else(|| self.no_place(call))?;
        let bulk = match call.kind {
            CallKind::Load | CallKind::Snapshot => {
                let bulk = self.places.bulk.take(call);
                Some(bulk.ok_or_else(|| self.shed("snapshots made or loaded at once", "snapshots", "try again"))?)
            }
            _ => None,
        };
        Ok(Places { place, bulk, watching })
    }

    /// What gives a call its places when its request is whole, and where they are then. A conversation has them at once: it
    /// is answered message by message.
    fn when_whole(&self, call: &Arc<Call>, connection: &Arc<Connection>) -> Result<(Option<Admit>, Seat), Status> {
        let seat = Seat::default();
        if call.kind.is_conversation() {
            seat.put(self.admit(call, connection)?);
            return Ok((None, seat));
        }
        let (admission, put, call, connection) = (self.clone(), seat.clone(), call.clone(), connection.clone());
        let arriving = (call.kind.is_contract() && call.kind != CallKind::Watch).then(|| self.places.arrives());
        let admit: Admit = Box::new(move || {
            put.put(admission.admit(&call, &connection)?);
            // It is one of those with places from here on.
            drop(arriving);
            Ok(())
        });
        Ok((Some(admit), seat))
    }

    /// The connection's place among those with watches.
    fn watching(&self, connection: &Arc<Connection>) -> Result<Watching, Status> {
        connection.watch(&self.places.watching).ok_or_else(|| {
            self.places.watches.make_room();
            let advice = "watch over fewer connections, or raise grpc.connections";
            self.shed("grpc.connections (with watches)", "connections with watches", advice)
        })
    }

    fn no_place(&self, call: &Call) -> Status {
        let (pool, limit, what) = self.pool(call.kind);
        let Some(share) = pool.share_taken(call) else { return self.shed(limit, what, "try again") };
        self.ledger.inner.reached.note(limit, "a connection has its share of them, further ones on it are shed");
        let message = format!("the connection has its share of {what}, which is {share}: end one, or connect again");
        overloaded(message, RETRY_AFTER)
    }

    fn shed(&self, limit: &'static str, what: &str, advice: &str) -> Status {
        self.ledger.inner.reached.note(limit, "further calls are shed, their clients come back");
        overloaded(format!("the node is serving as many {what} as it may: {advice}"), RETRY_AFTER)
    }
}

/// All services of the port. Cloned per connection.
#[derive(Clone)]
pub(super) struct Stack {
    appends: ContextServiceServer<Context>,
    /// A request may hold a whole snapshot.
    loads: ContextServiceServer<Context>,
    /// Get, Snapshot, Watch: names and numbers, also when they are unpacked.
    reads: ContextServiceServer<Context>,
    /// What the ledger service has besides its streams of appends.
    ledger: LedgerServiceServer<LedgerCalls>,
    rest: Routes,
    admission: Admission,
    received: Received,
    windows: Arc<Windows>,
    settings: Settings,
    drain: CancellationToken,
    tasks: Tasks,
}

impl Stack {
    pub(super) fn new(
        ledger: &Ledger,
        settings: &Settings,
        drain: &CancellationToken,
        tasks: &Tasks,
        health: tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>,
    ) -> Self {
        let context = Arc::new(Context::new(ledger.clone(), settings.clone(), drain.clone()));
        let service = |kind: CallKind| {
            ContextServiceServer::from_arc(context.clone())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(message_bytes_max(kind, settings))
                // What an answer may be is judged before it is made.
                .max_encoding_message_size(usize::MAX)
        };
        let rest = Routes::new(AdminServiceServer::new(Admin(ledger.clone())))
            .add_service(ClusterServiceServer::new(ClusterCalls { ledger: ledger.clone(), settings: settings.clone() }))
            .add_service(health);
        Stack {
            appends: service(CallKind::Append),
            loads: service(CallKind::Load),
            reads: service(CallKind::Read),
            ledger: LedgerServiceServer::new(LedgerCalls::new(&context, ledger, settings, drain))
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(message_bytes_max(CallKind::Transact, settings))
                .max_encoding_message_size(usize::MAX),
            rest: with_reflection(rest).prepare(),
            admission: Admission { places: Arc::new(AllPlaces::new(settings)), ledger: ledger.clone() },
            received: Received::new(settings, ledger),
            windows: Arc::new(Windows::new(settings.request_bytes / STREAMS_PART)),
            settings: settings.clone(),
            drain: drain.clone(),
            tasks: tasks.clone(),
        }
    }

    /// Calls that are open and have something to lose.
    pub(super) fn open_calls(&self) -> usize {
        self.admission.places.open_calls()
    }

    fn dispatch<B>(&self, kind: CallKind, request: Request<RequestBody<B>>) -> ServiceFuture
    where
        B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        if request.uri().path().starts_with(LEDGER_PATH) {
            return Service::call(&mut self.ledger.clone(), request);
        }
        match kind {
            CallKind::Append => Service::call(&mut self.appends.clone(), request),
            CallKind::Load => Service::call(&mut self.loads.clone(), request),
            CallKind::Read | CallKind::Snapshot | CallKind::Watch => Service::call(&mut self.reads.clone(), request),
            // Those of the ledger service went their way above.
            CallKind::AppendStream
            | CallKind::Transact
            | CallKind::Admin
            | CallKind::Health
            | CallKind::HealthWatch
            | CallKind::Other => {
                let answer = Service::call(&mut self.rest.clone(), request);
                Box::pin(answer)
            }
        }
    }

    /// Serves a call that came over this connection.
    pub(super) fn serve<B>(&self, connection: &Arc<Connection>, request: Request<B>) -> AnswerFuture
    where
        B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let kind = CallKind::of(request.uri().path());
        let call = Call::new(kind, request.headers(), connection, &self.settings, &self.drain);
        connection.begins(&call);
        let arrives = metadata_fits(request.headers())
            .and_then(|()| self.admission.may_arrive(&call, connection))
            .and_then(|()| self.admission.when_whole(&call, connection));
        let (admit, seat) = match arrives {
            Ok(arrives) => arrives,
            Err(status) => {
                if connection.operator && kind.is_contract() {
                    connection.leave.cancel();
                }
                return not_begun(&status, call);
            }
        };
        let (budget, bytes_max) = (self.received.of(kind).cloned(), message_bytes_max(kind, &self.settings));
        let mut request =
            request.map(|body| RequestBody::new(body, budget, bytes_max, call.clone()).admitted_by(admit));
        if kind == CallKind::AppendStream {
            return self.append_stream(request, call, &seat);
        }
        let begun = Begun::default();
        request.extensions_mut().insert(Arrived(call.arrived.into_std()));
        request.extensions_mut().insert(begun.clone());
        request.extensions_mut().insert(call.clone());
        let answer = self.dispatch(kind, request);
        let tasks = self.tasks.clone();
        Box::pin(async move {
            let (mut parts, body) = answer.await?.into_parts();
            mark_outcome(&mut parts.headers, begun.written());
            let (source, held) = if let Some(encoded) = parts.extensions.remove::<Encoded>() {
                (Source::Encoded(encoded.parts), Some(encoded.held))
            } else if let Some(feed) = parts.extensions.remove::<FeedSlot>().and_then(|slot| slot.take()) {
                let (sender, receiver) = mpsc::channel(1);
                tasks.spawn(feed.run(sender));
                (Source::Watch(receiver), None)
            } else {
                (Source::Tonic(body), parts.extensions.remove::<Charged>().map(|charged| charged.0))
            };
            let body = ResponseBody::new(source, call, seat.take(), held);
            Ok(Response::from_parts(parts, body))
        })
    }
}

impl Stack {
    /// Serves a stream of appends: no decoder and no encoder of others is between it and its bytes.
    fn append_stream<B>(&self, request: Request<RequestBody<B>>, call: Arc<Call>, seat: &Seat) -> AnswerFuture
    where
        B: Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let (parts, body) = request.into_parts();
        let metadata = MetadataMap::from_headers(parts.headers);
        let arrived = Some(Arrived(call.arrived.into_std()));
        // It has no end of its own; only one that the client gave counts.
        let left = metadata.contains_key("grpc-timeout").then(|| time_left(&metadata, arrived, &self.settings));
        let deadline = match left.transpose() {
            Ok(left) => left.map(|left| Instant::now() + left),
            Err(status) => return not_begun(&status, call),
        };
        let (window, ledger) = (self.windows.grant(&call), self.admission.ledger.clone());
        let ends = Ends::new(call.clone(), self.drain.clone(), deadline);
        let stream = AppendStream::new(ledger, body, ends, window, self.settings.deadline_default);
        let (sender, receiver) = mpsc::channel(1);
        self.tasks.spawn(stream.run(sender));
        let body = ResponseBody::new(Source::Watch(receiver), call, seat.take(), None);
        let mut response = Response::new(body);
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Box::pin(std::future::ready(Ok(response)))
    }
}

/// The answer to a call that is refused before anybody looks at its request.
fn not_begun(status: &Status, call: Arc<Call>) -> AnswerFuture {
    let (parts, body) = status.clone().into_http::<tonic::body::Body>().into_parts();
    let body = ResponseBody::new(Source::Tonic(body), call, None, None);
    Box::pin(std::future::ready(Ok(Response::from_parts(parts, body))))
}

/// As many headers as HTTP/2 lets in would be refused by it without a word of what became of the call.
fn metadata_fits(headers: &HeaderMap) -> Result<(), Status> {
    let bytes: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES).sum();
    if bytes <= METADATA_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the call's metadata is {bytes} bytes, the limit is {METADATA_BYTES_MAX}: send less of it");
    Err(refused(Code::ResourceExhausted, message))
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
    if code == Code::Internal && written == Written::Nothing {
        // Bytes that are no message of the method, or not what their compression says.
        headers.insert(GRPC_STATUS, HeaderValue::from(Code::InvalidArgument as i32));
    }
    if code == Code::OutOfRange {
        let exhausted = HeaderValue::from(Code::ResourceExhausted as i32);
        headers.insert(GRPC_STATUS, exhausted);
    }
}
