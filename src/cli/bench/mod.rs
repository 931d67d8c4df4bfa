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
use self::target::Callee;
use super::files::{Existing, OutputFile};
use super::{Failure, Global, Kind, number, output, parse_duration};

/// A payload begins with when it was sent, for those who watch.
const STAMP_BYTES: usize = 8;

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
    /// How long each step runs before it is measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,
    /// Bytes of a payload, which cannot be compressed.
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = number::<usize>(STAMP_BYTES as u64..=payload_max()))]
    payload: usize,
    /// Contexts that the appends go to.
    #[arg(long, default_value = "100", value_parser = number::<u64>(1..=100_000_000))]
    contexts: u64,
    /// Of 100 calls so many read an entry that their client appended, linearizable.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = number::<u64>(0..=99))]
    reads: u64,
    /// Of 100 appends so many have an idempotency key.
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = number::<u64>(0..=100))]
    keys: u64,
    /// Watches of the first contexts, one each in turn; measured from an append's sending to its arrival.
    #[arg(long, default_value = "0", value_parser = number::<u64>(0..=100_000))]
    watchers: u64,
    /// Connections to each node.
    #[arg(long, default_value = "8", value_parser = number::<usize>(1..=1024))]
    connections: usize,
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
    let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
    let plot = arguments.plot.as_deref().map(|file| OutputFile::find(file, existing)).transpose()?;
    let (targets, node) = Callee::open(global, &arguments).await?;
    let report = measure(global, &arguments, targets).await;
    if let Some(node) = node {
        let stopped = node.stop(global.timeout).await;
        stopped.map_err(|error| Failure::error(format!("the embedded node did not stop: {error}")))?;
    }
    let report = report?;
    if let Some(file) = plot {
        file.write(plot::svg(&report)).await?;
    }
    report.print(global.output)
}

/// All steps, one after the other.
async fn measure(global: &Global, arguments: &Arguments, targets: Vec<Callee>) -> Result<BenchReport, Failure> {
    let mix = Mix {
        run: rand::random(),
        contexts: arguments.contexts,
        payload: arguments.payload,
        reads: arguments.reads,
        keys: arguments.keys,
    };
    let load = Bench::new(mix, targets, global.timeout);
    load.probe().await?;
    load.watch(arguments.watchers);
    let rates: Vec<_> = match &arguments.rate[..] {
        [] => vec![None],
        rates => rates.iter().copied().map(Some).collect(),
    };
    let mut steps = Vec::new();
    for &clients in &arguments.clients {
        for &rate in &rates {
            let measured = load.step(clients, rate, arguments.warmup, arguments.time).await;
            steps.push(BenchStep { clients, rate, time: arguments.time, measured });
        }
    }
    let report = BenchReport { contexts: load.contexts(), payload: arguments.payload, steps };
    match report.first_failure() {
        Some(first) if report.answered() == 0 => {
            Err(Failure::new(Kind::Unavailable, format!("no call was answered; the first failure: {first}")))
        }
        failure => {
            if let Some(first) = failure {
                output::note(format!("some calls failed; the first: {first}"));
            }
            Ok(report)
        }
    }
}
