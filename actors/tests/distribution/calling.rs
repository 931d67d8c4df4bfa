//! Nodes that are called, a handler that waits to be let go, and what came of many calls.
#![allow(missing_docs, dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use converge_actors::distribution::calls::{
    CallAnswer, CallContext, Handler, HostCalls, MESSAGE_BYTES_MAX, MayHaveRun, NodeEvent, NodeEvents, Registration,
    RemoteError,
};
use converge_actors::distribution::{
    Distribution, Identity, Inbound, Lane, LinkEvent, Settings, Sink, WeakDistribution,
};
use converge_ledger_core::NodeId;
use converge_supervisors::{Intensity, Strategy, SupervisorSpec, Tree};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Routes as a node does, and looks at nothing else.
struct Routed {
    calls: Arc<HostCalls>,
    links: OnceLock<WeakDistribution>,
}

impl Sink for Routed {
    fn deliver(&self, inbound: Inbound) {
        let Inbound { from, lane, epoch, .. } = inbound;
        if lane == Lane::Call
            && let Err(error) = self.calls.deliver(inbound)
        {
            self.links.get().unwrap().upgrade().unwrap().reject(from, lane, epoch, &error.to_string());
        }
    }

    fn event(&self, event: LinkEvent) {
        let (LinkEvent::Up { lane, .. } | LinkEvent::Down { lane, .. }) = event;
        if lane == Lane::Call {
            self.calls.event(event);
        }
    }
}

pub struct CallNode {
    pub calls: Arc<HostCalls>,
    pub distribution: Distribution,
    pub tree: Tree,
}

impl CallNode {
    pub async fn start(
        id: u64,
        settings: Settings,
        socket: Option<std::net::TcpListener>,
        peers: &[(u64, String)],
    ) -> CallNode {
        let calls = HostCalls::new(NodeId(id), peers.iter().map(|(peer, _)| NodeId(*peer)));
        let sink = Arc::new(Routed { calls: calls.clone(), links: OnceLock::new() });
        let identity = Identity { cluster_id: CLUSTER, node_id: NodeId(id) };
        let addresses = peers.iter().map(|(id, address)| (NodeId(*id), address.clone())).collect();
        let distribution = Distribution::new(settings, identity, addresses, socket, sink.clone());
        calls.attach(distribution.downgrade());
        let _ = sink.links.set(distribution.downgrade());
        let intensity = Intensity { restarts: 1000, period: Duration::from_secs(1) };
        let spec = SupervisorSpec::new(Strategy::OneForOne, intensity, distribution.children());
        let tree = Tree::start("root", spec).await.unwrap();
        CallNode { calls, distribution, tree }
    }

    /// Waits until so many nodes can be called.
    pub async fn sees(&self, count: usize) {
        let mut events = self.calls.events();
        while self.calls.nodes().len() != count {
            next(&mut events).await;
        }
    }

    pub async fn call(&self, node: u64, name: &str, body: &str, deadline: Duration) -> Result<String, RemoteError> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let reply = self.calls.call(NodeId(node), name, TAG, body, Instant::now() + deadline).await;
        reply.map(|reply| String::from_utf8(reply.to_vec()).unwrap())
    }

    pub async fn stop(self) {
        self.tree.stop(PATIENCE).await.unwrap();
        self.calls.stop();
    }
}

pub const TAG: &str = "test.Text";
pub const UNKNOWN: RemoteError = RemoteError::Unknown(MayHaveRun::LinkLost);

/// Node 1, and node 2 that reaches it through a proxy.
pub struct Pair {
    pub one: CallNode,
    pub two: CallNode,
    pub proxy: Proxy,
}

impl Pair {
    pub async fn start() -> Pair {
        Pair::of(settings()).await
    }

    /// Two nodes that take no silence for an end.
    pub async fn patient() -> Pair {
        Pair::of(Settings { heartbeats_missed_max: 1000, ..settings() }).await
    }

    async fn of(settings: Settings) -> Pair {
        let (socket, address) = bind();
        let proxy = Proxy::start(address).await;
        let peers = [(1, proxy.address.clone()), (2, "unused.invalid:1".to_owned())];
        // Links are cut often here: they come back soon.
        let quick =
            Settings { backoff_first: Duration::from_millis(2), backoff_max: Duration::from_millis(20), ..settings };
        let one = CallNode::start(1, quick.clone(), Some(socket), &peers).await;
        let two = CallNode::start(2, quick, None, &peers).await;
        let pair = Pair { one, two, proxy };
        pair.connected().await;
        pair
    }

    pub async fn connected(&self) {
        self.one.sees(1).await;
        self.two.sees(1).await;
    }

    /// Cuts every connection, and waits until both nodes have noticed and are connected again.
    pub async fn cut(&self) {
        let mut heard = [self.one.calls.events(), self.two.calls.events()];
        self.proxy.cut();
        for events in &mut heard {
            assert!(matches!(next(events).await, NodeEvent::Down { .. }));
            assert!(matches!(next(events).await, NodeEvent::Up { .. }));
        }
        self.connected().await;
    }

    pub async fn stop(self) {
        self.one.stop().await;
        self.two.stop().await;
    }
}

pub async fn next(events: &mut NodeEvents) -> NodeEvent {
    timeout(PATIENCE, events.next()).await.expect("no event came").expect("it has stopped").expect("too slow")
}

/// How often a handler ran, by what it was told, and whom it lets go on.
#[derive(Clone, Default)]
pub struct Shop {
    runs: Arc<Mutex<BTreeMap<String, u32>>>,
    dropped: Arc<Mutex<Vec<String>>>,
    changed: watch::Sender<()>,
    open: watch::Sender<bool>,
}

/// Notes that a handler's future ended, however it did.
struct Ends(Shop, String);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.dropped.lock().unwrap().push(std::mem::take(&mut self.1));
        self.0.changed.send_replace(());
    }
}

impl Shop {
    /// Answers with what it is told. `wait …` waits until the shop is open, `fail …` fails, `panic …` panics, `long …`
    /// answers more than there may be.
    pub fn open_at(&self, node: &CallNode) -> Registration {
        let shop = self.clone();
        let handler: Handler = Arc::new(move |_: CallContext, body: Bytes| {
            let (shop, text) = (shop.clone(), String::from_utf8(body.to_vec()).unwrap());
            Box::pin(async move {
                *shop.runs.lock().unwrap().entry(text.clone()).or_default() += 1;
                shop.changed.send_replace(());
                let _ends = Ends(shop.clone(), text.clone());
                match text.split(' ').next() {
                    Some("fail") => return CallAnswer::Failed("as it was told".into()),
                    Some("long") => return CallAnswer::Done(vec![0; MESSAGE_BYTES_MAX + 1].into()),
                    Some("panic") => panic!("as it was told"),
                    Some("wait") => _ = shop.open.subscribe().wait_for(|open| *open).await,
                    _ => {}
                }
                CallAnswer::Done(text.into())
            })
        });
        node.calls.register("shop", TAG, handler).unwrap()
    }

    /// Whoever waits in the shop, now or later, goes on.
    pub fn let_go(&self) {
        self.open.send_replace(true);
    }

    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn runs(&self, text: &str) -> u32 {
        self.runs.lock().unwrap().get(text).copied().unwrap_or(0)
    }

    pub fn all_runs(&self) -> u32 {
        self.runs.lock().unwrap().values().sum()
    }

    async fn until(&self, what: &str, enough: impl Fn(&Shop) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !enough(self) {
                changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {what}"));
    }

    /// Waits until so many handlers have begun.
    pub async fn begun(&self, count: u32) {
        self.until("the handlers begin", |shop| shop.all_runs() >= count).await;
    }

    /// Waits until the handler of this text has ended.
    pub async fn ended(&self, text: &str) {
        self.until("the handler ends", |shop| shop.dropped.lock().unwrap().iter().any(|ended| ended == text)).await;
    }
}
