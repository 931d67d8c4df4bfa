//! `chaos`: real nodes, real clients, real faults; then everything that the clients saw is checked.
//!
//! Starts processes of `converge-ledger`, lets clients work on them over gRPC while faults come and go that a seed
//! drew, heals, reads every node, and holds the history of all clients against the model of [`converge_lab::history`].
//!
//! Where the machine lets it, all this happens in namespaces of its own ([`isolate`]), in which packets can be lost and
//! disks be full, and which leave nothing behind. Where it does not, it says so and does without. A seed repeats the
//! faults and what clients intend; what comes of them is up to the kernel's scheduling.

mod crowd;
mod disk;
mod faults;
mod isolate;
mod network;
mod report;
mod settle;
mod system;
#[cfg(test)]
mod tests;
mod world;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use converge_lab::workload::{Load, Mix, Record, Remote};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, interval};

use converge_ledger::cli::client::Client;
use converge_ledger::cli::processes::Directory;
use converge_ledger::cli::{Failure, Format, Kind, any_number, files, limits, number, output, parse_duration, signals};
use report::Report;
use world::World;

/// Contexts that the clients share: few, so that they meet, and several, so that the ledger's order counts, too.
const CONTEXTS: u64 = 8;
/// A client may take at least this long between two operations, and most of the time takes less.
const THINK_MS: u64 = 10;
/// A long run has as many operations as a short one that is busy: they are all held in memory in the end.
const OPERATIONS_MAX: u64 = 1_000_000;
/// Clients set a deadline for each call; this one is for looks at the nodes.
const CALL: Duration = Duration::from_secs(3);
const HISTORY: &str = "history.jsonl";
const PROGRESS: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long faults come: 60s, 10m.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    time: Duration,
    /// Nodes of the cluster, all of them voters: 3 or 5.
    #[arg(long, default_value_t = 3, value_parser = voters, allow_negative_numbers = true)]
    nodes: u64,
    /// Clients that work at the same time.
    #[arg(long, default_value_t = 16, value_parser = number::<u64>(1..=256), allow_negative_numbers = true)]
    clients: u64,
    /// Draws the faults; one is made up and printed where none is given.
    #[arg(long, value_parser = any_number, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Write what the clients saw to this file; `check-history` reads it.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Keep the nodes' data and logs in this directory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The program whose nodes are tried. Without it: `converge-ledger` beside this one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The nodes run in this program, in which bugs can be planted.
    #[arg(long, hide = true, conflicts_with = "program")]
    planted: bool,
    /// Set by the command itself: it runs in namespaces of its own, and works here.
    #[arg(long, hide = true, value_name = "DIR")]
    inside: Option<PathBuf>,
}

impl Arguments {
    /// The program of a node, and what stands before its arguments.
    fn program(&self) -> Result<Vec<OsString>, Failure> {
        let failed = |error| Failure::error(format!("cannot find this program's own file: {error}"));
        let own = std::env::current_exe().map_err(failed)?;
        if self.planted {
            return Ok(vec![own.into(), "node".into()]);
        }
        let path = self.program.clone().unwrap_or_else(|| own.with_file_name("converge-ledger"));
        let found = path.canonicalize().ok().filter(|path| path.is_file());
        let hint = "build it with `cargo build --release`, or name its file with --program";
        let missing = || Failure::new(Kind::Usage, format!("there is no program {path:?}: {hint}"));
        Ok(vec![found.ok_or_else(missing)?.into()])
    }
}

/// What voters can be, and more than one.
fn voters(text: &str) -> Result<u64, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("possible is 3 or 5".into()),
    }
}

pub(crate) async fn run(format: Format, arguments: Arguments) -> Result<(), Failure> {
    let mut signals = signals()?;
    let program = arguments.program()?;
    // A crowd is more than many systems let a process have by default.
    let _ = limits::raise();
    if let Some(directory) = &arguments.inside {
        return tokio::select! {
            outcome = chaos(format, &arguments, program, directory, Ok(())) => outcome,
            () = signals.next() => Err(Failure::error("interrupted")),
            // Whoever started us holds the other end as long as it lives.
            _ = async { tokio::io::stdin().read(&mut [0]).await } => Err(Failure::error("interrupted")),
        };
    }
    let mut directory = Directory::new("chaos", arguments.data_dir.clone(), "--data-dir")?;
    let here = Path::new(".");
    let program_path = Path::new(&program[0]);
    let paths = [directory.path(), arguments.history.as_deref().unwrap_or(here), program_path, here];
    let outcome = match isolate::flags(&paths).await {
        Ok(flags) => {
            let code = isolate::run(&flags, directory.path(), signals.next()).await?;
            if code == Kind::Integrity as i32 {
                directory.keep();
            }
            drop(directory);
            // What ran inside has said everything.
            std::process::exit(code);
        }
        Err(why) => tokio::select! {
            outcome = chaos(format, &arguments, program, directory.path(), Err(why)) => outcome,
            () = signals.next() => Err(Failure::error("interrupted")),
        },
    };
    if outcome.as_ref().is_err_and(|failure| failure.kind() == Kind::Integrity) {
        directory.keep();
    }
    outcome
}

/// The run itself. Dropped half-way, it kills its nodes.
async fn chaos(
    format: Format,
    arguments: &Arguments,
    program: Vec<OsString>,
    directory: &Path,
    isolated: Result<(), String>,
) -> Result<(), Failure> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut skipped = Vec::new();
    if let Err(why) = &isolated {
        skipped.push(format!("partitions and full disks: {why}"));
        output::note(format!("skipped: {}", skipped[0]));
    }
    output::note(format!("seed {seed}; the nodes run below {}", directory.display()));
    output::note(format!("their program is {}", program[0].display()));
    let mix = mix(think_ms(arguments.time, arguments.clients));
    let record = Arc::new(Record::default());
    let mut world =
        World::start(program, directory, arguments.nodes, isolated.is_ok(), record.clone(), &mut skipped).await?;
    let endpoints = world.cluster.endpoints();
    let client = Client::new(&endpoints, CALL)?;
    crowd::prepare(&client, &record).await?;
    let apis = (1..=arguments.clients).map(|client| Remote::new(&endpoints, client, &record));
    let load = Load::start(&record, &mix, !seed, apis.collect::<Result<Vec<_>, _>>()?);
    let plan = faults::draw(seed, arguments.time, arguments.nodes, world.abilities());
    output::note("the nodes serve, and clients work");
    let until = Instant::now() + arguments.time;
    tokio::select! {
        driven = world.drive(&plan, &client, until) => driven?,
        () = show(arguments.time, until, &record) => {}
    }
    output::note("no more faults: waiting for the nodes to be equal, and reading all of them");
    settle::settle(&mut world, &client, load, contexts(&mix)).await?;
    world.crowd().await?;
    settle::panics(directory, arguments.nodes, &record);

    let operations = record.operations();
    let mut report = Report::new(&operations, record.troubles());
    report.seed = seed;
    report.time = arguments.time;
    report.nodes = arguments.nodes;
    report.clients = arguments.clients;
    report.faults = std::mem::take(&mut world.faults);
    report.skipped = skipped;
    report.history = match &arguments.history {
        None if report.holds() => None,
        asked => Some(asked.clone().unwrap_or_else(|| directory.join(HISTORY))),
    };
    world.end(arguments.data_dir.is_some() || !report.holds()).await?;
    if let Some(file) = &report.history {
        files::replace(file, |mut to| operations.iter().try_for_each(|operation| operation.write(&mut to)))?;
        output::note(format!("the history is in {}", file.display()));
    }
    // The exit code is the verdict's, whether or not anybody reads the rest.
    let printed = report.print(format);
    report.verdict(directory).and(printed)
}

/// What the clients want.
fn mix(think_ms: u64) -> Mix {
    Mix {
        contexts: CONTEXTS,
        think_ms,
        deadline_ms: (100, 2_000),
        payload_bytes: 600,
        read_one_in: 4,
        watch_one_in: 200,
        expect_one_in: 6,
        page: 100,
        ..Mix::default()
    }
}

/// The longest time that a client thinks.
fn think_ms(time: Duration, clients: u64) -> u64 {
    let all_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_mul(clients);
    THINK_MS.max(2 * all_ms / OPERATIONS_MAX)
}

/// What the final states are read of.
fn contexts(mix: &Mix) -> Vec<String> {
    mix.contexts().chain([crowd::CONTEXT.to_owned()]).collect()
}

/// One line on a terminal, for as long as it is polled.
async fn show(time: Duration, until: Instant, record: &Record) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    let mut ticks = interval(PROGRESS);
    loop {
        ticks.tick().await;
        let left = until.saturating_duration_since(Instant::now());
        let (done, acknowledged) = (time.saturating_sub(left).as_secs(), record.acknowledged());
        bar.set_message(format!("{done} of {} s, {acknowledged} appends acknowledged", time.as_secs()));
        bar.tick();
    }
}
