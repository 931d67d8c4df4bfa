//! `bench`: appends, reads and watches, at a rate or as fast as they are answered, and how long each takes.
//!
//! Without a rate each client calls again when it has its answer. A node that pauses is then asked less, and the pause
//! shows in few latencies. With a rate (open loop) calls are due at fixed times, whatever became of those before them,
//! and a latency counts from when its call was due: so a pause shows in every call that it delays.
//!
//! A run is a warm-up and a measured time for each number of clients and each rate. It writes into contexts of its own.

mod load;
mod measure;
mod plot;
mod report;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use converge_ledger_core::Limits;

use self::load::{Bench, Mix};
use self::report::{BenchReport, BenchStep};
use self::target::Target;
use super::files::{Existing, OutputFile};
use super::{Failure, Global, Kind, number, parse_duration, signals};

/// A payload begins with when it was due, for those who watch.
const STAMP_BYTES: usize = 8;
/// Payloads of all clients together.
const HELD_BYTES_MAX: usize = 1 << 30;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Clients, each with one call at a time; several numbers make a step each.
    #[arg(long, value_delimiter = ',', default_value = "64", value_parser = number::<usize>(1..=65_536))]
    clients: Vec<usize>,
    /// Calls a second, due at fixed times; several numbers make a step each. Without it clients call as fast as they are
    /// answered.
    #[arg(long, value_delimiter = ',', value_parser = number::<u64>(1..=10_000_000))]
    rate: Vec<u64>,
    /// How long each step is measured.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    time: Duration,
    /// How long each step runs before it is measured. A call has `--timeout` for its answer.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,
    /// Bytes of a payload: random ones, which a client repeats.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = number::<usize>(STAMP_BYTES as u64..=payload_max()))]
    payload: usize,
    /// Contexts that the appends go to.
    #[arg(long, default_value = "100", value_parser = number::<u64>(1..=100_000_000))]
    contexts: u64,
    /// Of 100 calls so many read an entry that their client appended, linearizable; its first is an
    /// append.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = number::<u64>(0..=99))]
    reads: u64,
    /// Of 100 appends so many have an idempotency key.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = number::<u64>(0..=100))]
    keys: u64,
    /// Watches of the first contexts, one each in turn; measured from when an append was due to its
    /// arrival.
    #[arg(long, default_value = "0", value_parser = number::<u64>(0..=100_000))]
    watchers: u64,
    /// Connections to each node.
    #[arg(long, default_value = "8", conflicts_with = "embedded", value_parser = number::<usize>(1..=1024))]
    connections: usize,
    /// Each client appends over a stream, and does not wait for each.
    #[arg(long, conflicts_with_all = ["rate", "reads", "embedded"])]
    stream: bool,
    /// No gRPC: a node alone in this process, with its data in this directory, which stays.
    #[arg(long, value_name = "DIR")]
    embedded: Option<PathBuf>,
    /// Plots latency over throughput into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Replace the file of the plot.
    #[arg(long, requires = "plot")]
    force: bool,
}

const fn payload_max() -> u64 {
    Limits::CONTRACT.payload_bytes as u64
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    arguments.check(global)?;
    let mut signals = signals()?;
    let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
    let plot = arguments.plot.as_deref().map(|file| OutputFile::find(file, existing)).transpose()?;
    let (targets, watched, embedded) = match &arguments.embedded {
        Some(directory) => {
            let (target, node, thread) = Target::embed(directory).await?;
            (vec![target.clone()], vec![target], Some((node, thread)))
        }
        None => {
            let connect = || Target::connect(global, arguments.connections);
            (connect()?, connect()?, None)
        }
    };
    let mut report = BenchReport::default();
    let ended = tokio::select! {
        ended = measure(global, &arguments, targets, &watched, &mut report) => ended,
        () = signals.next() => Err(Failure::error("interrupted")),
    };
    // First what was measured, whatever comes then.
    let printed = if report.steps.is_empty() { Ok(()) } else { report.print(global.output) };
    let plotted = match plot.filter(|_| !report.steps.is_empty()) {
        Some(file) => file.write(plot::svg(&report)).await,
        None => Ok(()),
    };
    let stopped = match embedded {
        Some((node, _thread)) => node.stop(global.timeout).await,
        None => Ok(()),
    };
    let stopped = stopped.map_err(|error| Failure::error(format!("the embedded node did not stop: {error}")));
    report.verdict().and(ended).and(printed).and(plotted).and(stopped)
}

impl Arguments {
    fn check(&self, global: &Global) -> Result<(), Failure> {
        let usage = |message: String| Err(Failure::new(Kind::Usage, message));
        if self.embedded.is_some() && !global.endpoint.is_empty() {
            return usage("--embedded starts a node of its own: leave --endpoint out".to_owned());
        }
        let clients = self.clients.iter().copied().max().unwrap_or_default();
        if clients.saturating_mul(self.payload) > HELD_BYTES_MAX {
            return usage(format!(
                "{clients} clients with payloads of {} bytes would hold more than {HELD_BYTES_MAX} bytes: lower one of them",
                self.payload
            ));
        }
        Ok(())
    }
}

/// All steps, one after the other.
async fn measure(
    global: &Global,
    arguments: &Arguments,
    targets: Vec<Target>,
    watched: &[Target],
    report: &mut BenchReport,
) -> Result<(), Failure> {
    let mix = Mix {
        run: rand::random(),
        contexts: arguments.contexts,
        payload: arguments.payload,
        reads: arguments.reads,
        keys: arguments.keys,
        streams: arguments.stream,
    };
    let mut load = Bench::new(mix, targets, global.timeout);
    load.probe().await?;
    load.watch(arguments.watchers, watched).await?;
    (report.contexts, report.payload) = (load.contexts(), arguments.payload);
    let rates: Vec<_> = match &arguments.rate[..] {
        [] => vec![None],
        rates => rates.iter().copied().map(Some).collect(),
    };
    for &clients in &arguments.clients {
        for &rate in &rates {
            let measured = load.step(clients, rate, arguments.warmup, arguments.time).await;
            report.steps.push(BenchStep { clients, rate, time: arguments.time, measured });
        }
    }
    Ok(())
}
