//! `demo`: three nodes, real events, and the leader killed in the middle of them.
//!
//! Starts three processes of this very executable on loopback, appends the events that ship with it through
//! concurrent clients, SIGKILLs the leader when half of them are acknowledged, starts it again, and then reads
//! every node and counts. It believes nothing but what it reads back.

mod audit;
mod events;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::client::Client;
use super::processes::look::{self, statuses};
use super::processes::{Cluster, Directory, on_loopback};
use super::{Failure, Format, Global, Kind, number, output, signals};
use audit::Audit;
use events::Appends;

const NODES: u64 = 3;
/// A call of the demo may take this long, an election included.
const CALL: Duration = Duration::from_secs(30);
/// The nodes agree on a leader, or hold the same, within this time.
const AGREE: Duration = Duration::from_secs(60);
/// How often a state is looked at that should change soon.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Clients that append at the same time.
    #[arg(long, default_value_t = 16, value_parser = number::<u64>(1..=256), allow_negative_numbers = true)]
    clients: u64,
    /// Keep the nodes' data and logs in this directory.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let mut signals = signals()?;
    // Dropped half-way, the demo kills its nodes and leaves nothing behind.
    tokio::select! {
        outcome = demo(global.output, arguments) => outcome,
        () = signals.next() => Err(Failure::error("interrupted")),
    }
}

async fn demo(format: Format, arguments: Arguments) -> Result<(), Failure> {
    let events = events::read().await?;
    output::note(format!("{} events: {}", events.len(), events::SOURCE));
    let directory = Directory::new("demo", arguments.keep, "--keep")?;
    // Dropped before the directory, in which its processes write.
    let mut cluster = Cluster::new(on_loopback(directory.path(), NODES)?);
    cluster.start().await?;
    let endpoints = cluster.endpoints();
    let client = Client::new(&endpoints, CALL)?;
    let leader = leader(&client, None).await?;
    output::note(format!("three nodes run below {}; node {leader} leads", directory.path().display()));

    let half = events.len() / 2;
    let appends = Arc::new(Appends::new(events));
    let clients = usize::try_from(arguments.clients).unwrap_or(1);
    let running = Appends::start(&appends, clients, &endpoints)?;
    appends.acknowledged_at_least(half).await;
    // Whoever leads now: it may have changed since.
    let leader = self::leader(&client, None).await?;
    cluster.node(leader)?.kill().await?;
    let killed = Instant::now();
    output::note(format!("killed node {leader}, the leader, after {} acknowledgements", appends.acknowledged()));
    let next = self::leader(&client, Some(leader)).await?;
    let leaderless = killed.elapsed();
    output::note(format!("node {next} leads after {} ms; starting node {leader} again", leaderless.as_millis()));
    cluster.node(leader)?.spawn()?;
    cluster.node(leader)?.ready().await?;
    let refused = running.finish().await;

    output::note("reading every node");
    let digests_agree = converge(&client).await?;
    let audit = audit::audit(&client, &appends).await?;
    let report = DemoReport {
        events: appends.len(),
        acknowledged: appends.acknowledged(),
        refused,
        pause: appends.longest_pause(),
        leaderless,
        digests_agree,
        audit,
    };
    // The exit code is the verdict's, whether or not anybody reads the rest.
    let printed = report.print(format);
    report.verdict().and(printed)
}

/// The id of the node that leads, by its own word; not the one that was killed.
async fn leader(client: &Client, killed: Option<u64>) -> Result<u64, Failure> {
    let look = async {
        loop {
            let found = look::leader(&statuses(client).await);
            if let Some(id) = found.filter(|id| Some(*id) != killed) {
                return id;
            }
            sleep(LOOK).await;
        }
    };
    let found = timeout(AGREE, look).await;
    found.map_err(|_| Failure::error(format!("the nodes elected no leader within {} s", AGREE.as_secs())))
}

/// Waits until all nodes have applied the same; says whether their digests are equal then.
async fn converge(client: &Client) -> Result<bool, Failure> {
    let look = async {
        loop {
            let statuses = statuses(client).await;
            if look::are_level(&statuses, client.nodes().len()) {
                return look::digests_agree(&statuses);
            }
            sleep(LOOK * 10).await;
        }
    };
    let found = timeout(AGREE, look).await;
    found.map_err(|_| Failure::error(format!("the nodes did not converge within {} s", AGREE.as_secs())))
}

/// What the demo saw.
struct DemoReport {
    events: usize,
    acknowledged: usize,
    refused: Vec<String>,
    leaderless: Duration,
    pause: Duration,
    digests_agree: bool,
    audit: Audit,
}

impl DemoReport {
    fn holds(&self) -> bool {
        self.acknowledged == self.events && self.audit.is_clean() && self.digests_agree
    }

    fn print(&self, format: Format) -> Result<(), Failure> {
        let verdict = if self.holds() { "nothing was lost, nothing was doubled" } else { "FAILED" };
        let Audit { lost, duplicated, gaps, differing, .. } = &self.audit;
        match format {
            Format::Json => output::json(&json!({
                "events": self.events,
                "source": events::SOURCE,
                "acknowledged": self.acknowledged,
                "lost": lost,
                "duplicated": duplicated,
                "gaps": gaps,
                "differing_nodes": differing,
                "digests_agree": self.digests_agree,
                "without_leader_ms": ms(self.leaderless),
                "longest_pause_ms": ms(self.pause),
                "ok": self.holds(),
            })),
            Format::Table => {
                let mut table = output::facts();
                let mut row = |name: &str, value: String| {
                    table.add_row([name.to_owned(), value]);
                };
                row("events", format!("{} ({})", self.events, events::SOURCE));
                row("acknowledged", self.acknowledged.to_string());
                row("lost, on any node", lost.to_string());
                row("duplicated, on any node", duplicated.to_string());
                row("gaps in sequences", gaps.to_string());
                row("nodes that differ", differing.to_string());
                row("digests of all nodes", if self.digests_agree { "equal" } else { "DIFFERENT" }.to_owned());
                row("time without a leader", format!("{} ms", ms(self.leaderless)));
                row("longest pause between acknowledgements", format!("{} ms", ms(self.pause)));
                row("verdict", verdict.to_owned());
                output::line(table.to_string())
            }
        }
    }

    /// The exit code says what the table says.
    fn verdict(&self) -> Result<(), Failure> {
        if self.holds() {
            return Ok(());
        }
        let why = match self.refused.first() {
            Some(first) => format!("{} events were not acknowledged; the first: {first}", self.refused.len()),
            None => "what the nodes hold is not what was acknowledged".to_owned(),
        };
        let kind = if self.audit.is_clean() { Kind::Error } else { Kind::Integrity };
        Err(Failure::new(kind, format!("{why}; run it again with --keep DIR and look at the nodes' logs there")))
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
