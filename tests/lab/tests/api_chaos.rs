//! The API's own actors die under load: a client that retries once with its idempotency key sees no failure, and
//! nothing is doubled. And a stop drains.
#![allow(missing_docs, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use converge_ledger::api::grpc::names;
use converge_ledger::api::grpc::pb::context::context_service_client::ContextServiceClient;
use converge_ledger::api::grpc::pb::context::{AppendRequest, GetRequest, WatchEvent, WatchRequest};
use converge_ledger::config::{Config, IntensityConfig};
use converge_ledger::supervisors::Callback;
use converge_ledger::supervisors::chaos::{Point, Sweep, Target, sweep_awaits};
use converge_ledger::{Node, supervisors};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const CONTEXT: &str = "chaos";
const CLIENTS: usize = 8;
const ROUNDS: usize = 20;
const CALL: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

struct Served {
    node: Node,
    _directory: tempfile::TempDir,
}

async fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.data_dir = directory.path().join("data");
    config.listen.grpc = "127.0.0.1:0".into();
    let many = IntensityConfig { restarts: 10_000, seconds: 1 };
    (config.supervision.root, config.supervision.api) = (many, many);
    Served { node: Node::start(config).await.unwrap(), _directory: directory }
}

impl Served {
    fn channel(&self) -> Channel {
        let url = format!("http://{}", self.node.grpc_addr().unwrap());
        Endpoint::from_shared(url).unwrap().connect_timeout(CALL).connect_lazy()
    }

    fn client(&self) -> ContextServiceClient<Channel> {
        ContextServiceClient::new(self.channel())
    }

    /// A client that has appended an entry and watches, and has been told of that one.
    async fn watched(&self) -> (ContextServiceClient<Channel>, Streaming<WatchEvent>) {
        let mut client = self.client();
        client.append(append(0)).await.unwrap();
        let watch = WatchRequest { context_id: CONTEXT.into(), ..WatchRequest::default() };
        let mut stream = client.watch(watch).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
        (client, stream)
    }

    /// Kills an actor and waits for its next incarnation.
    async fn kill(&self, path: &str) {
        let tree = self.node.tree();
        let incarnation = || {
            let node = tree.snapshot().nodes.into_iter().find(|node| node.path == path)?;
            (node.state == supervisors::ChildState::Running).then_some(node.incarnation)
        };
        let end = Instant::now() + PATIENCE;
        let before = loop {
            match incarnation() {
                Some(incarnation) => break incarnation,
                None => sleep(Duration::from_millis(1)).await,
            }
        };
        tree.find(path).expect("it runs").kill();
        while incarnation().is_none_or(|now| now <= before) {
            assert!(Instant::now() < end, "{path} did not come back");
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn append(number: u64) -> Request<AppendRequest> {
    let mut request = Request::new(AppendRequest {
        context_id: CONTEXT.into(),
        payload: number.to_string().into_bytes().into(),
        ..AppendRequest::default()
    });
    request.set_timeout(CALL);
    request.metadata_mut().insert(names::IDEMPOTENCY_KEY, number.into());
    request
}

/// What the clients share, and how far each of them is.
struct Work {
    /// Retries of one entry, at most.
    retries_max: u64,
    next: AtomicU64,
    end: AtomicBool,
    done: [AtomicU64; CLIENTS],
}

/// Clients at work.
struct Clients {
    work: Arc<Work>,
    tasks: Vec<JoinHandle<Result<u64, Status>>>,
}

impl Work {
    /// Appends until told to stop; gives the number of retries.
    async fn run(self: Arc<Self>, me: usize, mut client: ContextServiceClient<Channel>) -> Result<u64, Status> {
        let mut retries = 0;
        while !self.end.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let mut left = self.retries_max;
            while let Err(error) = client.append(append(number)).await {
                eprintln!("{number}: {error:?}");
                left = left.checked_sub(1).ok_or(error)?;
                retries += 1;
                // The client's library gives calls to a connection that is gone until it has noticed.
                sleep(RETRY_PAUSE).await;
            }
            self.done[me].fetch_add(1, Ordering::Relaxed);
        }
        Ok(retries)
    }

    fn done(&self) -> Vec<u64> {
        self.done.iter().map(|done| done.load(Ordering::Relaxed)).collect()
    }
}

impl Clients {
    fn start(served: &Served, retries_max: u64) -> Clients {
        let work =
            Work { retries_max, next: AtomicU64::default(), end: AtomicBool::default(), done: Default::default() };
        let work = Arc::new(work);
        let tasks = (0..CLIENTS).map(|me| tokio::spawn(work.clone().run(me, served.client()))).collect();
        Clients { work, tasks }
    }

    /// Waits until every client has two more entries in: no call is from before.
    async fn progress(&self) {
        let before = self.work.done();
        while self.work.done().iter().zip(&before).any(|(now, before)| now < &(before + 2)) {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a client gave up");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends them; every entry is there once. Gives the number of retries.
    async fn finish(self, served: &Served) -> u64 {
        self.work.end.store(true, Ordering::Relaxed);
        let mut retries = 0;
        for client in self.tasks {
            retries += client.await.unwrap().unwrap();
        }
        let count = self.work.next.load(Ordering::Relaxed);
        let get = GetRequest { context_id: CONTEXT.into(), ..GetRequest::default() };
        let read = served.client().get(get).await.unwrap().into_inner();
        let payloads: BTreeSet<_> = read.entries.iter().map(|entry| entry.payload.clone()).collect();
        assert_eq!((read.entries.len() as u64, payloads.len() as u64), (count, count), "each exactly once");
        retries
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_retries_once_sees_no_death_of_the_api() {
    let served = served().await;
    let clients = Clients::start(&served, 1);
    for _ in 0..ROUNDS {
        for path in ["root/api/listener", "root/api/connections", "root/api"] {
            served.kill(path).await;
            // Every client is past this death before the next one: no call meets two.
            clients.progress().await;
        }
    }
    let retries = clients.finish(&served).await;
    assert!(retries > 0, "the deaths were seen, or this test shows nothing");
    served.node.stop(PATIENCE).await.unwrap();
}

/// At every await of both actors and of their supervisor, which drains in its stop. A death that makes a start, and one in
/// that start, are two: calls may need more than one retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_is_killed_at_each_of_its_awaits() {
    let served = served().await;
    let clients = Clients::start(&served, 5);
    let load = async || {
        // A connection of its own, so that one is accepted and handed over.
        let mut fresh = served.client();
        let _ = fresh.get(GetRequest::default()).await;
        clients.progress().await;
    };
    let check = async |_: &Point| {
        clients.progress().await;
        Ok(())
    };
    let sweep = Sweep::new().target(Target::path("root/api/**")).patience(PATIENCE).tries(2);
    let table = sweep_awaits(&served.node.tree(), sweep, load, check).await;
    eprintln!("{table}");
    clients.finish(&served).await;
    assert!(table.failures().next().is_none() && table.cut.is_empty() && table.orphans.is_empty(), "{table}");
    for path in ["root/api", "root/api/listener", "root/api/connections"] {
        let stops = table.rows.iter().filter(|row| row.reached && row.point.path == path);
        let waits = stops.filter(|row| row.point.callback == Callback::PostStop).count();
        assert!(waits >= 2, "{path} was never killed in its stop: {table}");
    }
    assert!(table.reached() >= 25, "{} points: {table}", table.reached());
    served.node.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_connections_serve_dies_with_it_and_nothing_else() {
    let served = served().await;
    let (mut client, mut stream) = served.watched().await;
    served.kill("root/api/listener").await;
    client.append(append(1)).await.unwrap();
    assert!(timeout(PATIENCE, stream.message()).await.unwrap().unwrap().is_some(), "a listener holds no connection");
    served.kill("root/api/connections").await;
    let broken = timeout(PATIENCE, stream.message()).await.expect("no task of the killed actor goes on");
    assert!(broken.is_err() || broken.is_ok_and(|event| event.is_none()));
    served.node.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_watches_with_a_refusal_and_health_says_so() {
    let served = served().await;
    let (_client, mut stream) = served.watched().await;
    let mut health = HealthClient::new(served.channel());
    let context = HealthCheckRequest { service: "converge.context.v1.ContextService".to_owned() };
    let mut states = health.watch(context).await.unwrap().into_inner();
    // It may have been asked before the node was seen to lead.
    let serving = async { while states.message().await.unwrap().unwrap().status() != ServingStatus::Serving {} };
    timeout(PATIENCE, serving).await.unwrap();
    let alive = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(alive.status(), ServingStatus::Serving);

    let begin = Instant::now();
    let stopped = tokio::spawn(served.node.stop(PATIENCE));
    let ended = timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(ended.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
    let state = timeout(PATIENCE, states.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(state.status, i32::from(ServingStatus::NotServing));
    stopped.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "open watches do not use up the drain");
}
