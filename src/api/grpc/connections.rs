//! The connections of the client port: HTTP/2 over each, the services over that.
//!
//! Owns every task that serves a client: all of them end with this actor,
//! however it ends. A stop drains: health says `NOT_SERVING`, fresh connections
//! are turned away, watches end where they are, calls in flight get their answers,
//! within the configured time; an answer that nobody reads is not waited for.
//!
//! ```text
//! Serving --stop--> Draining --no call open, or time is up--> gone
//!    \----------------- kill, panic ----------------------/
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Settings;
use super::body::ResponseBody;
use super::call::STALLED;
use super::connection::{Connection, Metered};
use super::health::Health;
use super::listener::{ConnectionPlace, Gate};
use super::transport::Stack;
use crate::Ledger;

/// A quiet connection is pinged this often, and closed without an answer in time.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What one call may send ahead of being read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What all calls of a connection may send ahead of being read.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Metadata that HTTP/2 lets in, so that a call with more than it may have gets its answer.
const HEADER_BYTES_MAX: u32 = 128 << 10;
/// What HTTP/2 takes of an answer ahead of sending it: a piece.
const SEND_BYTES: usize = 64 << 10;
/// What HTTP/2 still has of an answer whose call is over goes into the socket within this, or nothing does.
const BLOCKED: Duration = Duration::from_secs(2);
/// Time for the last answers to leave the sockets when no call is open.
const FLUSH: Duration = Duration::from_millis(200);
/// How often a drain looks whether calls are open.
const DRAIN_STEP: Duration = Duration::from_millis(10);

pub(super) struct Arguments {
    pub(super) ledger: Ledger,
    pub(super) settings: Settings,
    pub(super) gate: Gate,
}

pub(super) enum Message {
    /// Serve this connection; the place is given back with it.
    Serve(TcpStream, ConnectionPlace),
}

pub(super) struct State {
    settings: Settings,
    gate: Gate,
    health: Health,
    stack: Stack,
    drain: CancellationToken,
    tasks: Tasks,
    _end_tasks: DropGuard,
}

pub(super) struct Connections;

impl Actor for Connections {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Message>, args: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { ledger, settings, gate } = args;
        let tasks = Tasks::default();
        let drain = CancellationToken::new();
        let (health, service) = Health::new().await;
        tasks.spawn(drain.clone().run_until_cancelled_owned(health.clone().follow(ledger.clone())));
        let streams = gate.streams.clone();
        tasks.spawn(drain.clone().run_until_cancelled_owned(async move { streams.keeps_looking().await }));
        gate.set_draining(false);
        Ok(State {
            stack: Stack::new(&ledger, &settings, &drain, &tasks, service),
            _end_tasks: tasks.end.clone().drop_guard(),
            tasks,
            settings,
            gate,
            health,
            drain,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        Message::Serve(stream, place): Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.tasks.spawn(serve(
            stream,
            place,
            state.stack.clone(),
            state.settings.streams,
            state.tasks.clone(),
            state.drain.clone(),
            state.gate.clone(),
        ));
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.gate.set_draining(true);
        state.drain.cancel();
        state.health.set(false).await;
        let drained = tokio::time::timeout(state.settings.drain, state.drained()).await;
        if drained.is_err() {
            let open = state.stack.open_calls();
            tracing::warn!(open, "calls are still open at the end of the drain: dropped");
        }
        Ok(())
    }
}

impl State {
    /// Every connection is closed, or no call is open on any of them.
    async fn drained(&self) {
        self.tasks.tracker.close();
        let quiet = async {
            while self.stack.open_calls() > 0 {
                tokio::time::sleep(DRAIN_STEP).await;
            }
            tokio::time::sleep(FLUSH).await;
        };
        tokio::select! {
            () = self.tasks.tracker.wait() => {}
            () = quiet => {}
        }
    }
}

/// Tasks that end with the actor.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    end: CancellationToken,
}

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output: Send + 'static> + Send + 'static) {
        self.tracker.spawn(self.end.clone().run_until_cancelled_owned(task));
    }
}

/// hyper spawns each call of one connection through it, right after it got the call's future.
#[derive(Clone)]
struct Calls {
    tasks: Tasks,
    connection: Arc<Connection>,
}

impl<F> Executor<F> for Calls
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        let Some(call) = self.connection.begun() else { return self.tasks.spawn(task) };
        let connection = self.connection.clone();
        self.tasks.spawn(async move {
            let is_over = tokio::select! {
                biased;
                _ = task => false,
                // Its stream is reset, and what HTTP/2 has of its answer goes.
                () = call.over() => true,
            };
            // Somebody else wants what it keeps, or the node stops.
            let patience = if call.is_crowded_out() { BLOCKED } else { STALLED };
            let left = Arc::downgrade(&call);
            drop(call);
            if is_over {
                connection.lets_go(&left, patience).await;
            }
        });
    }
}

/// The services, for the calls of one connection.
struct Calling {
    stack: Stack,
    connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for Calling {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.stack.serve(&self.connection, request)
    }
}

async fn serve(
    stream: TcpStream,
    place: ConnectionPlace,
    stack: Stack,
    streams: u32,
    tasks: Tasks,
    drain: CancellationToken,
    gate: Gate,
) {
    let _ = stream.set_nodelay(true);
    let connection = Connection::new(place.is_operators());
    let _listed = gate.open.list(connection.clone());
    let calls = Calls { tasks, connection: connection.clone() };
    let io = Metered::new(stream, connection.clone()).counted(&gate.streams);
    let http = http2::Builder::new(calls)
        .timer(TokioTimer::new())
        // No wall clock in an answer: one that cannot be written as a date would panic there.
        .auto_date_header(false)
        .max_concurrent_streams(streams)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(SEND_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), Calling { stack, connection: connection.clone() });
    let mut http = std::pin::pin!(http);
    let mut outstays = std::pin::pin!(connection.outstays());
    let ended = tokio::select! {
        // After a pause of the node, what has come meanwhile is read before it is judged.
        biased;
        ended = http.as_mut() => ended,
        why = outstays.as_mut() => return tracing::debug!(why, "connection closed"),
        () = connection.leave.cancelled() => {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                // What is ready leaves first.
                biased;
                _ = http => {}
                () = connection.has_left() => {}
            }
            return tracing::debug!("connection closed for others");
        }
        () = drain.cancelled() => {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = http => ended,
                why = outstays => return tracing::debug!(why, "connection closed"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
