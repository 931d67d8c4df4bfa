//! The connections of the client port: HTTP/2 over each, the services over that.
//!
//! Owns every task that serves a client: all of them end with this actor,
//! however it ends. A stop drains: health says `NOT_SERVING`, fresh connections
//! are turned away, watches end, calls in flight get their answers, within the
//! configured time.
//!
//! ```text
//! Serving --stop--> Draining --no call open, or time is up--> gone
//!    \----------------- kill, panic ----------------------/
//! ```

use std::future::Future;
use std::time::Duration;

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Settings;
use super::health::Health;
use super::listener::Gate;
use super::transport::Stack;
use crate::Ledger;

/// A connection that has not said a word for this long is closed.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// A quiet connection is pinged this often, and closed without an answer in time.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What one call may send ahead of being read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What all calls of a connection may send ahead of being read.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Metadata of one call.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Time for the last answers to leave the sockets when no call is open.
const FLUSH: Duration = Duration::from_millis(200);
/// How often a drain looks whether calls are open.
const DRAIN_STEP: Duration = Duration::from_millis(10);

pub(super) struct Args {
    pub(super) ledger: Ledger,
    pub(super) settings: Settings,
    pub(super) gate: Gate,
}

pub(super) enum Message {
    /// Serve this connection; the place is given back with it.
    Serve(TcpStream, OwnedSemaphorePermit),
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
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { ledger, settings, gate } = args;
        let tasks = Tasks::default();
        let drain = CancellationToken::new();
        let (health, service) = Health::new().await;
        tasks.spawn(drain.clone().run_until_cancelled_owned(health.clone().follow(ledger.clone())));
        gate.set_draining(false);
        Ok(State {
            stack: Stack::new(&ledger, &settings, &drain, service),
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
        ));
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.gate.set_draining(true);
        state.drain.cancel();
        state.health.set(false).await;
        let drained = tokio::time::timeout(state.settings.drain, state.drained()).await;
        if drained.is_err() {
            let open = state.stack.open_calls(&state.settings);
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
            while self.stack.open_calls(&self.settings) > 0 {
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

/// Tasks that end with the actor. hyper spawns each call through it.
#[derive(Clone, Default)]
struct Tasks {
    tracker: TaskTracker,
    end: CancellationToken,
}

impl Tasks {
    fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        let end = self.end.clone();
        self.tracker.spawn(async move {
            end.run_until_cancelled(task).await;
        });
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

async fn serve(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    stack: Stack,
    streams: u32,
    tasks: Tasks,
    drain: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    // A connection without a word would hold its place for ever.
    let mut byte = [0];
    let first = tokio::time::timeout(FIRST_BYTE, stream.peek(&mut byte));
    match drain.run_until_cancelled(first).await {
        Some(Ok(Ok(1..))) => {}
        _ => return,
    }
    let connection = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(stack));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
