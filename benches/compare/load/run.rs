//! One measured run: connect, warm up, measure, write a line.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::session::{self, Session, Work};
use crate::{RunArguments, cpu};

/// What one run measured. Times are microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) label: String,
    pub(crate) round: usize,
    pub(crate) clients: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) reads: bool,
    pub(crate) calls: u64,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    /// Processor time of the servers for each call, all nodes added up.
    pub(crate) cpu_us: f64,
}

/// Calls that begin in it are counted.
#[derive(Clone, Copy)]
struct Span {
    from: Instant,
    to: Instant,
}

pub(crate) fn main(arguments: &RunArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(arguments))?;
    let line = serde_json::to_string(&measured)?;
    match &arguments.out {
        None => writeln!(std::io::stdout(), "{line}")?,
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
            writeln!(file, "{line}")?;
        }
    }
    Ok(())
}

async fn measure(arguments: &RunArguments) -> anyhow::Result<Measured> {
    ensure!(arguments.clients > 0, "--clients must be at least 1");
    let work: Vec<Work> = (0..arguments.clients)
        .map(|number| Work {
            context: format!("load-{}-{number}", std::process::id()),
            payload: payload(arguments.payload_bytes, number),
        })
        .collect();
    let sessions = session::open(arguments, &work).await?;
    let from = Instant::now() + Duration::from_millis(arguments.warmup_ms);
    let span = Span { from, to: from + Duration::from_millis(arguments.measure_ms) };
    let pids = if arguments.pids.is_empty() { vec![std::process::id()] } else { arguments.pids.clone() };
    // A thread, so that it is not late where the runtime is busy.
    let used = thread::spawn(move || cpu::between(&pids, span.from, span.to));
    let mut tasks = tokio::task::JoinSet::new();
    for (session, work) in sessions.into_iter().zip(work) {
        tasks.spawn(run(session, work, arguments.reads, span));
    }
    let mut latencies = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        latencies.extend(joined??);
    }
    let Ok(used) = used.join() else { bail!("the processor time was not read") };
    summarise(arguments, latencies, used?)
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

/// One call after the other; latencies of the counted ones in nanoseconds.
async fn run(mut session: Session, work: Work, reads: bool, span: Span) -> anyhow::Result<Vec<u64>> {
    let mut latencies = Vec::with_capacity(1 << 16);
    for number in 0u64.. {
        let begin = Instant::now();
        if begin >= span.to {
            break;
        }
        let called = match reads && number > 0 {
            true => session.read(&work).await,
            false => session.append(&work, number).await,
        };
        called.with_context(|| format!("call {number} of client {}", work.context))?;
        if begin >= span.from {
            latencies.push(u64::try_from(begin.elapsed().as_nanos())?);
        }
    }
    Ok(latencies)
}

fn summarise(arguments: &RunArguments, mut latencies: Vec<u64>, used: Duration) -> anyhow::Result<Measured> {
    ensure!(!latencies.is_empty(), "no call ended inside the measured time; raise --measure-ms");
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    let calls = latencies.len() as f64;
    let seconds = arguments.measure_ms as f64 / 1e3;
    Ok(Measured {
        label: arguments.label.clone(),
        round: arguments.round,
        clients: arguments.clients,
        payload_bytes: arguments.payload_bytes,
        reads: arguments.reads,
        calls: latencies.len() as u64,
        seconds,
        per_second: calls / seconds,
        p50_us: at(0.50),
        p99_us: at(0.99),
        max_us: at(1.0),
        cpu_us: used.as_secs_f64() * 1e6 / calls,
    })
}
