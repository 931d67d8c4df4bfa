//! Load generator: the same loop and payloads against Converge Ledger, its peers and the floors of the machine.
//!
//! Job: closed-loop appends, or reads, at a number of clients; the latency of every call, and the processor time of the
//! servers in the same span; one JSON line per run. Owns no server but the floors': `../run.sh` starts the others.
//! Deliberately does not hide errors: one failed call fails the run, for a rate with failures in it says nothing.
#![forbid(unsafe_code)]

mod cpu;
mod etcd;
mod floor;
mod nats;
mod run;
mod session;
mod table;
#[path = "../../../tests/support/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Measures appends of Converge Ledger, its peers and the floors of the machine in one way")]
struct Arguments {
    #[command(subcommand)]
    command: LoadCommand,
}

#[derive(Subcommand)]
enum LoadCommand {
    /// Append for a time and add one JSON line to a file
    Run(RunArguments),
    /// Answer gRPC calls with what they bring, until killed: a floor of every gRPC service
    Echo {
        #[arg(long)]
        listen: SocketAddr,
        /// Before it answers, a call's bytes are durable in a file here; calls that wait share a sync
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
    /// Print medians of a file of runs as a Markdown table
    Table {
        /// The file that `run` wrote
        file: PathBuf,
        /// The system that the others are divided by
        #[arg(long, default_value = "etcd")]
        against: String,
    },
}

/// What the calls are written for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Speaks {
    /// `converge.context.v1.ContextService`: `Append`, `Get`
    Converge,
    /// `etcdserverpb.KV`: `Put` of a new key each time, `Range`
    Etcd,
    /// One `INSERT` for each append, prepared
    Postgres,
    /// `JetStream`'s publish, which waits for the acknowledgement
    Nats,
    /// `../mnesia/append_server.erl`
    Mnesia,
    /// `converge-load echo`
    Echo,
    /// No server: a file that a thread appends what waits to, and syncs
    File,
    /// No server: redb, to which a thread commits what waits, as one batch
    Redb,
}

#[derive(clap::Args)]
struct RunArguments {
    #[arg(long, value_enum)]
    target: Speaks,
    /// Where the server listens, host:port
    #[arg(long, required_unless_present = "data_dir")]
    endpoint: Option<String>,
    /// An empty directory, for what has no server
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Processes whose time is counted, and their descendants', comma-separated. Without it: this one
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Calls in flight
    #[arg(long, default_value_t = 16)]
    clients: usize,
    #[arg(long, default_value_t = 256)]
    payload_bytes: usize,
    #[arg(long, default_value_t = 1000)]
    warmup_ms: u64,
    #[arg(long, default_value_t = 5000)]
    measure_ms: u64,
    /// Each client appends one entry, then reads it again and again, linearizable
    #[arg(long)]
    reads: bool,
    /// Name of the system in the table
    #[arg(long)]
    label: String,
    /// Runs of one round were measured in turn; ratios are taken within it
    #[arg(long, default_value_t = 1)]
    round: usize,
    /// JSON lines are added here; standard output when absent
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        LoadCommand::Run(arguments) => run::main(&arguments),
        LoadCommand::Echo { listen, data_dir } => floor::echo(listen, data_dir.as_deref()),
        LoadCommand::Table { file, against } => table::main(&file, &against),
    }
}
