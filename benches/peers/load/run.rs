//! One measured run: connect, warm up, measure, write a line.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::{Peer, RunArguments, etcd, wire};

/// Clients that share a connection when no number of connections is given.
const CLIENTS_PER_CONNECTION: usize = 16;
/// A call that takes longer has failed.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// What one run measured. Times are microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) label: String,
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) appends: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

/// When a client stops.
#[derive(Clone)]
enum Until {
    /// Calls that begin before `from` are not counted.
    Time { from: Instant, to: Instant },
    /// A shared count of entries that are still to be appended.
    Entries(Arc<AtomicU64>),
}

pub(crate) fn main(arguments: &RunArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(arguments))?;
    let line = serde_json::to_string(&measured)?;
    match &arguments.out {
        None => writeln!(std::io::stdout(), "{line}")?,
        Some(path) => {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            writeln!(file, "{line}")?;
        }
    }
    Ok(())
}

async fn measure(arguments: &RunArguments) -> anyhow::Result<Measured> {
    ensure!(arguments.clients > 0, "--clients must be at least 1");
    let channels = connect(arguments).await?;
    let start = Instant::now();
    let until = match arguments.entries {
        Some(entries) => Until::Entries(Arc::new(AtomicU64::new(entries))),
        None => {
            let from = start + Duration::from_millis(arguments.warmup_ms);
            Until::Time { from, to: from + Duration::from_millis(arguments.measure_ms) }
        }
    };
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..arguments.clients {
        let client = Client {
            channel: channels[number % channels.len()].clone(),
            target: arguments.target,
            name: format!("load-{}-{number}", std::process::id()),
            payload: payload(arguments.payload_bytes, number),
        };
        tasks.spawn(client.run(until.clone()));
    }
    let mut latencies = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        latencies.extend(joined??);
    }
    let elapsed = match until {
        Until::Time { from, to } => to - from,
        Until::Entries(_) => start.elapsed(),
    };
    summarise(arguments, channels.len(), latencies, elapsed)
}

async fn connect(arguments: &RunArguments) -> anyhow::Result<Vec<Channel>> {
    let count = match arguments.connections {
        0 => arguments.clients.div_ceil(CLIENTS_PER_CONNECTION),
        given => given,
    };
    let mut channels = Vec::new();
    for number in 0..count {
        let address = &arguments.endpoints[number % arguments.endpoints.len()];
        let endpoint = Endpoint::from_shared(address.clone())?.tcp_nodelay(true).timeout(CALL_DEADLINE);
        let channel = endpoint.connect().await.with_context(|| format!("cannot connect to {address}"))?;
        channels.push(channel);
    }
    Ok(channels)
}

/// Bytes that do not compress away, other ones for each client.
fn payload(bytes: usize, client: usize) -> Vec<u8> {
    let mut state = (client as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

struct Client {
    channel: Channel,
    target: Peer,
    name: String,
    payload: Vec<u8>,
}

impl Client {
    /// Appends one after the other; latencies of the counted calls in nanoseconds.
    async fn run(self, until: Until) -> anyhow::Result<Vec<u64>> {
        let mut latencies = Vec::with_capacity(1 << 16);
        for number in 0u64.. {
            let begin = Instant::now();
            let counted = match &until {
                Until::Time { to, .. } if begin >= *to => break,
                Until::Time { from, .. } => begin >= *from,
                Until::Entries(left) => {
                    let take = |left: u64| left.checked_sub(1);
                    if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
                        break;
                    }
                    true
                }
            };
            self.append(number).await.with_context(|| format!("call {number} of client {}", self.name))?;
            if counted {
                latencies.push(u64::try_from(begin.elapsed().as_nanos())?);
            }
        }
        Ok(latencies)
    }

    async fn append(&self, number: u64) -> anyhow::Result<()> {
        match self.target {
            Peer::Etcd => {
                let key = format!("{}/{number:010}", self.name).into_bytes();
                let revision = etcd::put(&self.channel, key, self.payload.clone()).await?;
                ensure!(revision > 0, "etcd gave no revision");
            }
            Peer::Converge => {
                let request = wire::AppendRequest {
                    context_id: self.name.clone(),
                    key: format!("{number:010}"),
                    payload: self.payload.clone(),
                    metadata: Default::default(),
                };
                let response = wire::append(&self.channel, Request::new(request)).await?.into_inner();
                let sequence = response.entry.map(|entry| entry.sequence);
                ensure!(sequence == Some(number + 1), "expected sequence {}, got {sequence:?}", number + 1);
            }
        }
        Ok(())
    }
}

fn summarise(
    arguments: &RunArguments,
    connections: usize,
    mut latencies: Vec<u64>,
    elapsed: Duration,
) -> anyhow::Result<Measured> {
    if latencies.is_empty() {
        bail!("no call ended inside the measured time; raise --measure-ms");
    }
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    Ok(Measured {
        label: arguments.label.clone(),
        clients: arguments.clients,
        connections,
        payload_bytes: arguments.payload_bytes,
        appends: latencies.len() as u64,
        seconds: elapsed.as_secs_f64(),
        per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50_us: at(0.50),
        p99_us: at(0.99),
        max_us: at(1.0),
    })
}
