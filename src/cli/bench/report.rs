//! What a run came to, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::measure::{Measured, Timed};
use crate::cli::{Failure, Format, output};

/// The percentiles that are shown, and their names.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9)];

pub(super) struct BenchStep {
    pub(super) clients: usize,
    pub(super) rate: Option<u64>,
    pub(super) time: Duration,
    pub(super) measured: Measured,
}

impl BenchStep {
    pub(super) fn per_second(&self, kind: Timed) -> f64 {
        self.measured.latencies(kind).len() as f64 / self.time.as_secs_f64()
    }

    fn failed(&self) -> u64 {
        self.measured.failed.values().sum()
    }

    fn json(&self) -> Value {
        let calls: BTreeMap<_, _> = Timed::ALL
            .into_iter()
            .filter(|kind| !self.measured.latencies(*kind).is_empty())
            .map(|kind| (kind.name(), self.latencies(kind)))
            .collect();
        json!({
            "clients": self.clients,
            "rate": self.rate,
            "seconds": self.time.as_secs_f64(),
            "calls": calls,
            "failed": self.measured.failed,
            "behind": self.measured.behind,
        })
    }

    fn latencies(&self, kind: Timed) -> Value {
        let latencies = self.measured.latencies(kind);
        let mut value = json!({
            "count": latencies.len(),
            "per_second": self.per_second(kind),
            "mean_us": latencies.mean(),
            "max_us": latencies.max(),
        });
        for (name, percentile) in PERCENTILES {
            value[format!("{name}_us")] = latencies.value_at_percentile(percentile).into();
        }
        value
    }

    fn row(&self, kind: Timed) -> Vec<String> {
        let latencies = self.measured.latencies(kind);
        let head = [self.clients.to_string(), self.rate.map_or_else(|| "–".to_owned(), |rate| rate.to_string())];
        let mut row = Vec::from(head);
        row.extend([kind.name().to_owned(), format!("{:.0}", self.per_second(kind))]);
        row.extend(PERCENTILES.map(|(_, percentile)| milliseconds(latencies, percentile)));
        row.push(milliseconds(latencies, 100.0));
        row.push(if kind == Timed::Append { self.failed().to_string() } else { String::new() });
        row
    }
}

fn milliseconds(latencies: &Histogram<u64>, percentile: f64) -> String {
    format!("{:.2}", latencies.value_at_percentile(percentile) as f64 / 1000.0)
}

pub(super) struct BenchReport {
    /// The beginning of the names of the contexts that it wrote.
    pub(super) contexts: String,
    pub(super) payload: usize,
    pub(super) steps: Vec<BenchStep>,
}

impl BenchReport {
    pub(super) fn answered(&self) -> u64 {
        let count = |step: &BenchStep| {
            step.measured.latencies(Timed::Append).len() + step.measured.latencies(Timed::Read).len()
        };
        self.steps.iter().map(count).sum()
    }

    pub(super) fn first_failure(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| step.measured.failed.keys().next()).map(String::as_str)
    }

    pub(super) fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Json => output::json(&json!({
                "contexts": self.contexts,
                "payload_bytes": self.payload,
                "steps": self.steps.iter().map(BenchStep::json).collect::<Vec<_>>(),
            })),
            Format::Table => {
                let names =
                    ["clients", "calls/s due", "", "per second", "p50 ms", "p90", "p99", "p99.9", "max", "failed"];
                let mut table = output::table(&names);
                for step in &self.steps {
                    let shown = |kind: &Timed| *kind == Timed::Append || !step.measured.latencies(*kind).is_empty();
                    for kind in Timed::ALL.into_iter().filter(shown) {
                        table.add_row(step.row(kind));
                    }
                }
                output::line(table.to_string())?;
                for step in self.steps.iter().filter(|step| step.measured.behind > 0) {
                    output::note(format!(
                        "{} clients do not keep up with {} calls/s: {} were due and had not begun at the end, and are in no \
                         latency above",
                        step.clients,
                        step.rate.unwrap_or_default(),
                        step.measured.behind
                    ));
                }
                Ok(())
            }
        }
    }
}
