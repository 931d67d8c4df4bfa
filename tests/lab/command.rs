//! The `converge-lab` command: what tries to make a ledger lose a write, and what checks that it did not.

#![forbid(unsafe_code)]

mod chaos;
mod check_history;
mod sim;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use converge_ledger::cli::{self, Failure, Format};

/// The allocator of a node's process, for nodes run here, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The test bench of a Converge Ledger.
#[derive(Debug, Parser)]
#[command(
    name = "converge-lab",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 5 integrity."
)]
struct Cli {
    /// Tables for people, JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run whole nodes in a simulated world that tries to make them lose a write.
    Sim(sim::Arguments),
    /// Run nodes and clients, kill, stop, cut off and fill up nodes, and check what the clients saw.
    Chaos(chaos::Arguments),
    /// Check what clients saw, as a run wrote it down, for linearizability.
    CheckHistory(check_history::Arguments),
    /// Be the command `converge-ledger`, in a build in which bugs can be planted.
    #[command(hide = true, disable_help_flag = true)]
    Node {
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let Cli { output, command } = Cli::parse();
    match command {
        Command::Node { arguments } => cli::main_with([OsString::from("converge-ledger")].into_iter().chain(arguments)),
        command => cli::finish(run(output, command)),
    }
}

async fn run(output: Format, command: Command) -> Result<(), Failure> {
    match command {
        Command::Sim(arguments) => tokio::task::block_in_place(|| sim::run(output, &arguments)),
        Command::Chaos(arguments) => chaos::run(output, arguments).await,
        Command::CheckHistory(arguments) => check_history::run(output, &arguments),
        Command::Node { .. } => unreachable!("has no runtime of this command's"),
    }
}
