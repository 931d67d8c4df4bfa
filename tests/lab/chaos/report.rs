//! What a run came to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use converge_lab::history::{self, Counts, Operation, Verdict};
use converge_lab::workload::longest_pause;
use serde_json::json;

use converge_ledger::cli::{Failure, Format, Kind, output};

/// Violations that people get to see; the history has all.
const VIOLATIONS_SHOWN: usize = 20;

/// See the module.
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) time: Duration,
    pub(super) nodes: u64,
    pub(super) clients: u64,
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) skipped: Vec<String>,
    pub(super) history: Option<PathBuf>,
    pause: Duration,
    troubles: BTreeSet<String>,
    verdict: Verdict,
}

impl Report {
    /// Checks the history.
    pub(super) fn new(operations: &[Operation], troubles: BTreeSet<String>) -> Self {
        Report {
            seed: 0,
            time: Duration::ZERO,
            nodes: 0,
            clients: 0,
            faults: BTreeMap::new(),
            skipped: Vec::new(),
            history: None,
            pause: longest_pause(operations),
            troubles,
            verdict: history::check(operations),
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.troubles.is_empty() && self.verdict.holds()
    }

    fn violations(&self) -> Vec<String> {
        let of_history = self.verdict.violations.iter().map(|violation| format!("history: {violation}"));
        self.troubles.iter().cloned().chain(of_history).collect()
    }

    fn violated(&self) -> u64 {
        self.troubles.len() as u64 + self.verdict.violations.len() as u64 + self.verdict.more
    }

    pub(super) fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Json => output::json(&json!({
                "seed": self.seed,
                "seconds": self.time.as_secs_f64(),
                "nodes": self.nodes,
                "clients": self.clients,
                "counts": self.verdict.counts,
                "faults": self.faults,
                "skipped": self.skipped,
                "longest_pause_ms": u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX),
                "violations": self.violations(),
                "violations_more": self.verdict.more,
                "history": self.history.as_ref().map(|path| path.display().to_string()),
                "ok": self.holds(),
            })),
            Format::Table => self.table(),
        }
    }

    fn table(&self) -> Result<(), Failure> {
        let Counts { acknowledged, deduplicated, unknown, refused, reads, reads_stale, watches, entries, .. } =
            &self.verdict.counts;
        let mut table = output::facts();
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("seed", self.seed.to_string());
        row("run", format!("{} nodes, {} clients, {} s of faults", self.nodes, self.clients, self.time.as_secs()));
        row("operations", self.verdict.counts.operations.to_string());
        row(
            "appends",
            format!("{acknowledged} acknowledged ({deduplicated} deduplicated), {unknown} unknown, {refused} refused"),
        );
        row("reads", format!("{reads} linearizable, {reads_stale} stale"));
        row("watches", watches.to_string());
        row("entries in the end", format!("{entries}, on each node"));
        row("faults", self.faults.values().sum::<u64>().to_string());
        for (name, count) in &self.faults {
            row(&format!("  {name}"), count.to_string());
        }
        row("longest time without an acknowledged append", format!("{} ms", self.pause.as_millis()));
        row("violations", self.violated().to_string());
        row("verdict", if self.holds() { "it holds" } else { "IT DOES NOT HOLD" }.to_owned());
        output::line(table.to_string())?;
        let violations = self.violations();
        violations.iter().take(VIOLATIONS_SHOWN).try_for_each(|violation| output::line(format!("  {violation}")))?;
        match self.violated().saturating_sub(VIOLATIONS_SHOWN as u64) {
            0 => Ok(()),
            more => output::line(format!("  and {more} more")),
        }
    }

    /// The exit code says what the report says.
    pub(super) fn verdict(&self, directory: &Path) -> Result<(), Failure> {
        if self.holds() {
            return Ok(());
        }
        let message = format!(
            "{} violations; the history, the nodes' logs and data are kept in {}; the same faults again: \
             converge-lab chaos --seed {} --for {}s --nodes {} --clients {}",
            self.violated(),
            directory.display(),
            self.seed,
            self.time.as_secs(),
            self.nodes,
            self.clients
        );
        Err(Failure::new(Kind::Integrity, message))
    }
}
