//! Load generator: the same clients, connections and payloads against Converge Ledger and etcd.
//!
//! Job: closed-loop unary appends at a number of clients, latency of every call, one JSON line per
//! run. Owns no server: `../run.sh` starts them. Deliberately does not hide errors: one failed call
//! fails the run, for a rate with failures in it says nothing.
#![forbid(unsafe_code)]

mod etcd;
mod run;
mod table;
#[path = "../../../tests/support/wire.rs"]
mod wire;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Measures unary appends of Converge Ledger and etcd with the same clients")]
struct Arguments {
    #[command(subcommand)]
    command: LoadCommand,
}

#[derive(Subcommand)]
enum LoadCommand {
    /// Append for a time, or up to a number of entries, and add one JSON line to a file
    Run(RunArguments),
    /// Print medians of a file of runs as a table
    Table {
        /// The file that `run` wrote
        file: PathBuf,
        /// Run that the others are divided by
        #[arg(long, default_value = "etcd")]
        against: String,
    },
}

/// Which service the calls are written for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// `converge.context.v1.ContextService/Append`
    Converge,
    /// `etcdserverpb.KV/Put`, a new key each time
    Etcd,
}

#[derive(clap::Args)]
struct RunArguments {
    #[arg(long, value_enum)]
    target: Peer,
    /// Comma-separated; connections are dealt over them in turn
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// Calls in flight
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// HTTP/2 connections; 0: one for every 16 clients
    #[arg(long, default_value_t = 0)]
    connections: usize,
    #[arg(long, default_value_t = 256)]
    payload_bytes: usize,
    #[arg(long, default_value_t = 1000)]
    warmup_ms: u64,
    #[arg(long, default_value_t = 5000)]
    measure_ms: u64,
    /// Append exactly this many entries, without warm-up, instead of running for a time
    #[arg(long)]
    entries: Option<u64>,
    /// Name of this run in the table
    #[arg(long)]
    label: String,
    /// JSON lines are added here; standard output when absent
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        LoadCommand::Run(arguments) => run::main(&arguments),
        LoadCommand::Table { file, against } => table::main(&file, &against),
    }
}
