//! The command line: one file per command.
//!
//! Owns arguments, what people and programs get to see, and exit codes. Talks
//! to nodes over gRPC like any other client; only `start` and `inspect` touch a
//! node's own parts.
//!
//! Public for the test bench alone, which is a command of the same kind.

mod all;
mod append;
mod batch;
mod bench;
pub mod client;
mod contexts;
mod demo;
pub mod failure;
mod fence;
pub mod files;
mod get;
mod inspect;
pub mod ledger_thread;
pub mod limits;
pub mod lines;
mod load;
mod move_leader;
mod outlet;
pub mod output;
pub mod processes;
pub mod retry;
mod snapshot;
mod start;
mod status;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use crate::Config;
use crate::supervisors::Signals;
use clap::{Args, Parser, Subcommand, ValueEnum};

use client::Client;
pub use failure::{Failure, Kind};

/// Names the nodes to talk to where `--endpoint` does not.
const ENDPOINT_VARIABLE: &str = "CONVERGE_LEDGER_ENDPOINT";
const ENDPOINT: &str = "http://127.0.0.1:50051";

/// An append-only, replicated ledger that never loses an acknowledged write.
#[derive(Debug, Parser)]
#[command(
    name = "converge-ledger",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 unavailable, 4 precondition, 5 integrity."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Nodes to talk to; repeat it, or separate them with commas. Without it: the variable CONVERGE_LEDGER_ENDPOINT,
    /// or else http://127.0.0.1:50051.
    #[arg(long, global = true, value_delimiter = ',', value_parser = client::parse_endpoint)]
    endpoint: Vec<String>,
    /// Tables for people, JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// How long to try, counted from when it last got on: 500ms, 10s, 2m, 1h.
    #[arg(long, global = true, default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
}

/// SIGTERM, SIGINT and SIGHUP, from now on ours.
pub fn signals() -> Result<Signals, Failure> {
    Signals::install().map_err(|error| Failure::error(format!("cannot handle signals: {error}")))
}

impl Global {
    fn client(&self) -> Result<Client, Failure> {
        if !self.endpoint.is_empty() {
            return Client::new(&self.endpoint, self.timeout);
        }
        // Not clap's to read: commands without a client do not care what it holds, and an empty one is not set.
        let given = std::env::var_os(ENDPOINT_VARIABLE).filter(|given| !given.is_empty());
        let text = given.as_deref().map_or(ENDPOINT.into(), OsStr::to_string_lossy);
        let endpoint = |text: &str| {
            let wrong = |why: String| Failure::new(Kind::Usage, format!("{ENDPOINT_VARIABLE} = {text:?}: {why}"));
            client::parse_endpoint(text).map_err(wrong)
        };
        Client::new(&text.split(',').map(endpoint).collect::<Result<Vec<_>, _>>()?, self.timeout)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until it is told to stop.
    Start(start::Arguments),
    /// Append one entry, or the lines of a file.
    Append(append::Arguments),
    /// Append the lines of a file to their contexts, all or none.
    Batch(batch::Arguments),
    /// Fence a context: appends under an older epoch are refused.
    Fence(fence::Arguments),
    /// Read the entries of a context, or of all.
    Get(get::Arguments),
    /// Follow a context, or all: what is there, then what comes.
    Watch(watch::Arguments),
    /// List the contexts.
    Contexts(contexts::Arguments),
    /// Copy a context into a file.
    Snapshot(snapshot::Arguments),
    /// Restore a context from a file.
    Load(load::Arguments),
    /// Show what the nodes say about themselves and the cluster.
    Status,
    /// Have the leader hand its office to another node.
    MoveLeader(move_leader::Arguments),
    /// Show the nodes' supervision trees.
    Tree(tree::Arguments),
    /// Start three nodes, kill the leader in the middle of real appends, count.
    Demo(demo::Arguments),
    /// Measure how fast nodes append and read.
    Bench(bench::Arguments),
    /// Look into the data directory of a node that is not running.
    Inspect(inspect::Arguments),
}

/// Runs the command of this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// Likewise, of these arguments; the first is the program's name.
#[must_use]
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    finish(run(cli))
}

/// Runs a command to its end, and says how it failed.
#[must_use]
pub fn finish(command: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(async {
                limits::outlive_file_sizes();
                command.await
            });
            // Nothing that still runs may hold up the exit.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::error(format!(
            "cannot start the runtime: {error}; check the limits on threads and open files"
        ))),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure);
            failure.exit_code()
        }
    };
    output::flush();
    code
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let global = cli.global;
    Config::check_environment().map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
    match cli.command {
        Command::Start(arguments) => start::run(&global, arguments).await,
        Command::Append(arguments) => append::run(&global, arguments).await,
        Command::Batch(arguments) => batch::run(&global, arguments).await,
        Command::Fence(arguments) => fence::run(&global, arguments).await,
        Command::Get(arguments) => get::run(&global, arguments).await,
        Command::Watch(arguments) => watch::run(&global, arguments).await,
        Command::Contexts(arguments) => contexts::run(&global, arguments).await,
        Command::Snapshot(arguments) => snapshot::run(&global, arguments).await,
        Command::Load(arguments) => load::run(&global, arguments).await,
        Command::Status => status::run(&global).await,
        Command::MoveLeader(arguments) => move_leader::run(&global, arguments).await,
        Command::Tree(arguments) => tree::run(&global, arguments).await,
        Command::Demo(arguments) => demo::run(&global, arguments).await,
        Command::Bench(arguments) => bench::run(&global, arguments).await,
        Command::Inspect(arguments) => inspect::run(&global, arguments).await,
    }
}

/// Parses `10`, `10s`, `500ms`, `2m`, `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const SHAPE: &str = "a duration is a number and ms, s, m or h, from 1ms to 24h: 500ms, 10s, 2m, 1h";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let ms_each = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(SHAPE.into()),
    };
    let ms = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(ms_each));
    match ms {
        Some(ms @ 1..=86_400_000) => Ok(Duration::from_millis(ms)),
        _ => Err(SHAPE.into()),
    }
}

/// Parses a number, and says what is possible where it is none; what is Rust's to say of that is nothing for a user.
pub fn number<T: TryFrom<u64>>(possible: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse::<u64>().ok().filter(|number| possible.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("possible is a whole number from {} to {}", possible.start(), possible.end()))
    }
}

/// See [`number`].
pub fn any_number(text: &str) -> Result<u64, String> {
    number(0..=u64::MAX)(text)
}
