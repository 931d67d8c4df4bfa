//! Three nodes whose links pass through proxies that can fall silent: what the smaller side answers, and what is left
//! of it when the sides meet again.
#![allow(missing_docs)]

use crate::inprocess;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::inprocess::{PATIENCE, all, config, entry, eventually, level};
use converge_ledger::{AppendOptions, Consistency, Error, Ledger, Node, ReadOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

const ELECTION: Duration = Duration::from_millis(300);
/// A linearizable read waits for a majority at most so long, see `Ledger`; and a machine under load.
const READ_BOUND: Duration = Duration::from_secs(5);

/// Between two nodes. Silent: what is sent is held back, as by a network that loses it until TCP tries again.
struct Proxy {
    open: watch::Sender<bool>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn new(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (open, opened) = watch::channel(true);
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = TcpStream::connect(to).await else { continue };
                let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
                pipes.spawn(pipe(from_read, to_write, opened.clone()));
                pipes.spawn(pipe(to_read, from_write, opened.clone()));
            }
        });
        Proxy { open, address, _tasks: tasks }
    }
}

async fn pipe(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

struct Split {
    nodes: Vec<Node>,
    /// From a node to another.
    proxies: Vec<((usize, usize), Proxy)>,
    _dirs: Vec<tempfile::TempDir>,
}

impl Split {
    async fn start() -> Split {
        let own: Vec<String> = inprocess::peers(3);
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let (mut nodes, mut proxies) = (Vec::new(), Vec::new());
        for (at, dir) in dirs.iter().enumerate() {
            let mut peers = own.clone();
            for (other, peer) in peers.iter_mut().enumerate().filter(|(other, _)| *other != at) {
                let (id, address) = peer.split_once('=').unwrap();
                let proxy = Proxy::new(address.parse().unwrap()).await;
                *peer = format!("{id}={}", proxy.address);
                proxies.push(((at, other), proxy));
            }
            nodes.push(Node::start(config(at as u64 + 1, dir.path(), &peers)).await.unwrap());
        }
        Split { nodes, proxies, _dirs: dirs }
    }

    fn ledger(&self, at: usize) -> Ledger {
        self.nodes[at].ledger()
    }

    /// The node that all three take for their leader.
    async fn leader(&self) -> usize {
        let mut leader = 0;
        eventually("one leader for all", || {
            let seen: BTreeSet<u64> = (0..3).map(|at| self.ledger(at).status().leader_id).collect();
            leader = seen.first().copied().unwrap_or(0);
            seen.len() == 1 && leader != 0
        })
        .await;
        usize::try_from(leader - 1).unwrap()
    }

    fn isolate(&self, node: usize, cut: bool) {
        for (_, proxy) in self.proxies.iter().filter(|((a, b), _)| [*a, *b].contains(&node)) {
            proxy.open.send_replace(!cut);
        }
    }

    async fn one_state(&self) {
        level(&self.nodes.iter().map(Node::ledger).collect::<Vec<_>>()).await;
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop(PATIENCE).await.unwrap();
        }
    }
}

fn within(deadline: Duration) -> AppendOptions {
    AppendOptions { deadline: Some(deadline), ..AppendOptions::default() }
}

fn payloads(entries: &[converge_ledger::Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8(entry.payload.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_refuses_in_time_and_no_fork_is_left() {
    let split = Split::start().await;
    let cut_off = split.leader().await;
    let (minority, majority) = (split.ledger(cut_off), split.ledger((cut_off + 1) % 3));
    majority.append(entry("c", "before"), within(PATIENCE)).await.unwrap();
    eventually("the leader has applied it", || minority.status().last_position == 1).await;

    split.isolate(cut_off, true);
    // It still takes itself for the leader: this one is proposed, and nobody can know what becomes of it.
    let proposed = AppendOptions { idempotency_key: Some("in doubt".into()), ..within(ELECTION) };
    let in_doubt = minority.append(entry("c", "in doubt"), proposed.clone()).await;
    assert!(matches!(in_doubt, Err(Error::Unknown(_))), "{in_doubt:?}");

    eventually("the cut-off leader steps down", || minority.status().leader_id == 0).await;
    let began = Instant::now();
    let deadline = Duration::from_millis(500);
    let refused = minority.append(entry("c", "refused"), within(deadline)).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "never proposed, so nothing was written: {refused:?}");
    assert!(began.elapsed() < deadline * 4, "within its deadline, not after {:?}", began.elapsed());

    let began = Instant::now();
    let read = minority.read("c", ReadOptions { deadline: Some(PATIENCE), ..ReadOptions::default() }).await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    assert!(began.elapsed() < READ_BOUND, "bounded, not after {:?}", began.elapsed());
    assert_eq!(payloads(&all(&minority, "c").await), ["before"], "a stale read works");

    majority.append(entry("c", "meanwhile"), within(PATIENCE)).await.unwrap();
    let linearizable = majority.read("c", ReadOptions::default()).await.unwrap();
    assert_eq!(payloads(&linearizable.entries), ["before", "meanwhile"]);

    split.isolate(cut_off, false);
    let retried = AppendOptions { deadline: Some(PATIENCE), ..proposed };
    minority.append(entry("c", "in doubt"), retried).await.unwrap();
    split.one_state().await;
    for at in 0..3 {
        let read = ReadOptions { consistency: Consistency::Linearizable, ..ReadOptions::default() };
        let entries = split.ledger(at).read("c", read).await.unwrap().entries;
        assert_eq!(payloads(&entries), ["before", "meanwhile", "in doubt"], "on node {}", at + 1);
    }
    split.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_through_a_partition_is_done_as_soon_as_it_heals() {
    let split = Split::start().await;
    let leader = split.leader().await;
    let cut_off = (leader + 1) % 3;
    let minority = split.ledger(cut_off);
    minority.append(entry("c", "before"), within(PATIENCE)).await.unwrap();
    split.isolate(cut_off, true);
    eventually("it has no leader", || minority.status().leader_id == 0).await;
    let waiting = {
        let minority = minority.clone();
        tokio::spawn(async move { minority.append(entry("c", "waited"), within(PATIENCE)).await })
    };
    split.ledger(leader).append(entry("c", "meanwhile"), within(PATIENCE)).await.unwrap();
    split.isolate(cut_off, false);
    let done = waiting.await.unwrap().unwrap();
    assert_eq!(done.entry.sequence.get(), 3);
    split.one_state().await;
    split.stop().await;
}
