//! Nodes over loopback, a sink that remembers, a proxy that can stall, and bytes sent by hand.
#![allow(missing_docs, dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use converge_actors::distribution::{
    Distribution, Identity, Inbound, Lane, LinkEvent, PeerStatus, SendError, Settings, Sink,
};
use converge_ledger_core::{ClusterId, NodeId};
use converge_supervisors::{Intensity, Strategy, SupervisorSpec, Tree};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longer than anything here takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(15);
pub const CLUSTER: ClusterId = ClusterId([7; 16]);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Frame { from: u64, lane: Lane, epoch: u64, payload: Bytes },
    Up { peer: u64, lane: Lane, epoch: u64 },
    Down { peer: u64, lane: Lane, epoch: u64 },
}

/// Remembers everything in order; can hold on to permits like a slow consumer, or panic like a broken one.
pub struct Recorder {
    seen: Mutex<Vec<Seen>>,
    held: Mutex<Vec<Inbound>>,
    pub hold: AtomicBool,
    pub panic_once: AtomicBool,
    changed: watch::Sender<()>,
}

impl Recorder {
    pub fn new() -> Arc<Recorder> {
        Arc::new(Recorder {
            seen: Mutex::default(),
            held: Mutex::default(),
            hold: AtomicBool::new(false),
            panic_once: AtomicBool::new(false),
            changed: watch::Sender::new(()),
        })
    }

    fn note(&self, seen: Seen) {
        self.seen.lock().unwrap().push(seen);
        self.changed.send_replace(());
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn release(&self) {
        self.hold.store(false, SeqCst);
        self.held.lock().unwrap().clear();
    }

    pub fn held_bytes(&self) -> usize {
        self.held.lock().unwrap().iter().map(|inbound| inbound.payload.len()).sum()
    }

    pub fn frames(&self, from: u64, lane: Lane) -> Vec<(u64, Bytes)> {
        self.seen().iter().filter_map(|seen| frame(seen, from, lane)).collect()
    }

    /// Waits until what was seen satisfies `enough`, which must not look at the recorder itself.
    pub async fn until(&self, what: &str, enough: impl Fn(&[Seen]) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !enough(&self.seen.lock().unwrap()) {
                changed.changed().await.unwrap();
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("never came: {what}");
        }
    }

    /// Per link: Up and Down alternate, epochs rise, frames lie within their epoch.
    pub fn check_protocol(&self) {
        let mut open: BTreeMap<(u64, Lane), Option<u64>> = BTreeMap::new();
        let mut last: BTreeMap<(u64, Lane), u64> = BTreeMap::new();
        for seen in self.seen() {
            match seen {
                Seen::Up { peer, lane, epoch } => {
                    let before = open.insert((peer, lane), Some(epoch)).flatten();
                    assert_eq!(before, None, "up without the down of {peer} {lane}");
                    let older = last.insert((peer, lane), epoch);
                    assert!(older.is_none_or(|older| older < epoch), "an epoch did not rise");
                }
                Seen::Down { peer, lane, epoch } => {
                    let before = open.insert((peer, lane), None).flatten();
                    assert_eq!(before, Some(epoch), "a down of something else");
                }
                Seen::Frame { from, lane, epoch, .. } => {
                    let now = open.get(&(from, lane)).copied().flatten();
                    assert_eq!(now, Some(epoch), "a frame outside its epoch");
                }
            }
        }
    }
}

fn frame(seen: &Seen, of: u64, over: Lane) -> Option<(u64, Bytes)> {
    match seen {
        Seen::Frame { from, lane, epoch, payload } if (*from, *lane) == (of, over) => Some((*epoch, payload.clone())),
        _ => None,
    }
}

/// How many frames came from there.
pub fn frames(seen: &[Seen], from: u64, lane: Lane) -> usize {
    seen.iter().filter_map(|seen| frame(seen, from, lane)).count()
}

/// Whether this frame came last from there.
pub fn last_is(seen: &[Seen], from: u64, lane: Lane, payload: &[u8]) -> bool {
    let last = seen.iter().rev().find_map(|seen| frame(seen, from, lane));
    last.is_some_and(|(_, last)| last == payload)
}

impl Sink for Recorder {
    fn deliver(&self, inbound: Inbound) {
        if self.panic_once.swap(false, SeqCst) {
            panic!("the consumer panics, as the test asked");
        }
        self.note(Seen::Frame {
            from: inbound.from.get(),
            lane: inbound.lane,
            epoch: inbound.epoch,
            payload: inbound.payload.clone(),
        });
        if self.hold.load(SeqCst) {
            self.held.lock().unwrap().push(inbound);
        }
    }

    fn event(&self, event: LinkEvent) {
        self.note(match event {
            LinkEvent::Up { peer, lane, epoch } => Seen::Up { peer: peer.get(), lane, epoch },
            LinkEvent::Down { peer, lane, epoch } => Seen::Down { peer: peer.get(), lane, epoch },
        });
    }
}

pub struct PeerNode {
    pub id: u64,
    pub distribution: Distribution,
    pub sink: Arc<Recorder>,
    pub tree: Tree,
}

impl PeerNode {
    pub async fn start(
        id: u64,
        cluster: ClusterId,
        settings: Settings,
        socket: Option<std::net::TcpListener>,
        peers: &[(u64, String)],
    ) -> PeerNode {
        let sink = Recorder::new();
        let distribution = Distribution::new(
            settings,
            Identity { cluster_id: cluster, node_id: NodeId(id) },
            peers.iter().map(|(id, address)| (NodeId(*id), address.clone())).collect(),
            socket,
            sink.clone(),
        );
        let spec = SupervisorSpec::new(
            Strategy::OneForOne,
            Intensity { restarts: 1000, period: Duration::from_secs(1) },
            distribution.children(),
        );
        let tree = Tree::start("root", spec).await.unwrap();
        PeerNode { id, distribution, sink, tree }
    }

    /// Waits until every lane to every peer is up.
    pub async fn connected(&self) {
        // Without the lane of calls a peer counts as connected.
        let up = |peer: &PeerStatus| peer.lanes.values().all(|lane| lane.epoch.is_some());
        let all_up = |_: &[Seen]| self.distribution.status().iter().all(up);
        self.sink.until("a connection on every lane", all_up).await;
    }

    pub fn send(&self, peer: u64, lane: Lane, payload: &[u8]) -> Result<(), SendError> {
        self.distribution.send(NodeId(peer), lane, vec![Bytes::copy_from_slice(payload)])
    }

    pub fn epoch(&self, peer: u64, lane: Lane) -> Option<u64> {
        self.distribution.epoch(NodeId(peer), lane)
    }

    pub async fn stop(self) {
        self.tree.stop(Duration::from_secs(5)).await.unwrap();
        self.sink.check_protocol();
        let open =
            self.distribution.status().into_iter().any(|peer| peer.lanes.values().any(|lane| lane.epoch.is_some()));
        assert!(!open, "a slot outlived its tree");
    }
}

pub fn bind() -> (std::net::TcpListener, String) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// Quick enough for tests, slow enough for a loaded machine.
pub fn settings() -> Settings {
    Settings {
        heartbeat: Duration::from_millis(200),
        heartbeats_missed_max: 10,
        backoff_first: Duration::from_millis(10),
        backoff_max: Duration::from_millis(100),
        links_intensity: Intensity { restarts: 1000, period: Duration::from_secs(1) },
        ..Settings::default()
    }
}

/// A cluster of `count` nodes, all connected.
pub async fn cluster(count: u64, settings: Settings) -> Vec<PeerNode> {
    let bound: Vec<_> = (1..=count).map(|id| (id, bind())).collect();
    let peers: Vec<(u64, String)> = bound.iter().map(|(id, (_, address))| (*id, address.clone())).collect();
    let mut nodes = Vec::new();
    for (id, (socket, _)) in bound {
        nodes.push(PeerNode::start(id, CLUSTER, settings.clone(), Some(socket), &peers).await);
    }
    for node in &nodes {
        node.connected().await;
    }
    nodes
}

/// Forwards connections to `target`; can stop forwarding without closing anything, and close them.
pub struct Proxy {
    pub address: String,
    stalled: watch::Sender<bool>,
    pumps: Arc<Mutex<JoinSet<()>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn start(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stalled = watch::Sender::new(false);
        let gate = stalled.subscribe();
        let (mut tasks, pumps) = (JoinSet::new(), Arc::new(Mutex::new(JoinSet::new())));
        let forwarding = Arc::clone(&pumps);
        tasks.spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let Ok(far) = TcpStream::connect(&target).await else {
                    continue;
                };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let mut pumps = forwarding.lock().unwrap();
                pumps.spawn(pump(near_in, far_out, gate.clone()));
                pumps.spawn(pump(far_in, near_out, gate.clone()));
            }
        });
        Proxy { address, stalled, pumps, _tasks: tasks }
    }

    /// Closes every connection. What comes afterwards is forwarded again.
    pub fn cut(&self) {
        self.pumps.lock().unwrap().abort_all();
    }

    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        let count = tokio::select! {
            _ = stalled.changed() => continue,
            read = from.read(&mut buffer) => match read { Ok(0) | Err(_) => return, Ok(count) => count },
        };
        if stalled.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// The hello as it travels, written down a second time so that a changed layout shows.
#[derive(Debug, Clone, Serialize)]
pub struct RawHello {
    pub protocol_min: u16,
    pub protocol_max: u16,
    pub cluster: ClusterId,
    pub group: u64,
    pub from: u64,
    pub to: u64,
    pub lane: u8,
    pub incarnation: u64,
    pub dial: u64,
    pub levels: (u32, u32),
}

pub fn hello(from: u64, to: u64, dial: u64) -> RawHello {
    let (protocol_min, protocol_max, levels) = (3, 3, (1, 1));
    RawHello { protocol_min, protocol_max, cluster: CLUSTER, group: 0, from, to, lane: 0, incarnation: 5, dial, levels }
}

pub fn raw_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(&[1, kind]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame), payload);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

pub const HELLO: u8 = 1;
pub const HELLO_ACK: u8 = 2;
pub const REFUSE: u8 = 3;
pub const DATA: u8 = 6;

/// Sends a hello by hand; returns the stream and the kind of the answer, if one came.
pub async fn greet(address: &str, hello: &RawHello) -> (TcpStream, Option<u8>) {
    let mut stream = say_hello(address, hello).await;
    let kind = answer(&mut stream).await;
    (stream, kind)
}

/// Sends a hello by hand.
pub async fn say_hello(address: &str, hello: &RawHello) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // One that is crowded out at once gets no answer either.
    let _ = stream.write_all(&raw_frame(HELLO, &postcard::to_stdvec(hello).unwrap())).await;
    stream
}

/// The kind of the answer to a hello, if one came.
pub async fn answer(stream: &mut TcpStream) -> Option<u8> {
    let mut header = [0; 10];
    let read = timeout(PATIENCE, stream.read_exact(&mut header)).await.expect("no answer");
    let kind = read.ok().map(|_| header[5]);
    if kind.is_some() {
        let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
        stream.read_exact(&mut vec![0; length]).await.unwrap();
    }
    kind
}

/// Waits until the other side has closed.
pub async fn closed(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    let drain = async { while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {} };
    timeout(PATIENCE, drain).await.expect("the connection was not closed");
}

pub fn loopback(address: &str) -> SocketAddr {
    address.parse().unwrap()
}
