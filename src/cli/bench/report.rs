//! What a run came to, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::measure::{Measured, Timed};
use super::target::LOST;
use crate::cli::{Failure, Format, Kind, output};

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
        self.measured.done(kind) as f64 / self.time.as_secs_f64()
    }

    /// Appends always, others where there were any.
    fn shows(&self, kind: Timed) -> bool {
        let measured = &self.measured;
        kind == Timed::Append || measured.done(kind) + measured.failed(kind) + measured.latencies(kind).len() > 0
    }

    /// What the table does not say.
    fn notes(&self) -> Vec<String> {
        let (clients, Measured { behind, idle, .. }) = (self.clients, &self.measured);
        let mut notes = Vec::new();
        if *behind > 0 {
            let rate = self.rate.unwrap_or_default();
            notes.push(format!(
                "{clients} clients do not keep up with {rate} calls/s: {behind} calls were due and had not begun at the end; \
                 they are in no latency above"
            ));
        }
        if *idle > 0 {
            notes.push(format!("{idle} of {clients} clients got no answer in their step"));
        }
        if let Some((why, times)) = self.measured.failed.iter().max_by_key(|(_, times)| **times) {
            notes.push(format!("calls of {clients} clients failed, most often, {times} times: {why}"));
        }
        notes
    }

    fn json(&self) -> Value {
        let calls: BTreeMap<_, _> = Timed::ALL
            .into_iter()
            .filter(|kind| self.shows(*kind))
            .map(|kind| (kind.name(), self.latencies(kind)))
            .collect();
        json!({
            "clients": self.clients,
            "rate": self.rate,
            "seconds": self.time.as_secs_f64(),
            "calls": calls,
            "failed": self.measured.failed,
            "behind": self.measured.behind,
            "idle_clients": self.measured.idle,
        })
    }

    fn latencies(&self, kind: Timed) -> Value {
        let latencies = self.measured.latencies(kind);
        let mut value = json!({
            "count": latencies.len(),
            "per_second": self.per_second(kind),
            "failed": self.measured.failed(kind),
        });
        if latencies.is_empty() {
            return value;
        }
        value["mean_us"] = latencies.mean().into();
        value["max_us"] = latencies.max().into();
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
        row.push(self.measured.failed(kind).to_string());
        row
    }
}

fn milliseconds(latencies: &Histogram<u64>, percentile: f64) -> String {
    if latencies.is_empty() {
        return "–".to_owned();
    }
    format!("{:.2}", latencies.value_at_percentile(percentile) as f64 / 1000.0)
}

#[derive(Default)]
pub(super) struct BenchReport {
    /// The beginning of the names of the contexts that it wrote.
    pub(super) contexts: String,
    pub(super) payload: usize,
    pub(super) steps: Vec<BenchStep>,
}

impl BenchReport {
    /// What nobody may overlook: an entry that was lost, a step in which nothing was answered.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let lost = |step: &BenchStep| step.measured.failed.keys().any(|why| why.ends_with(LOST));
        if self.steps.iter().any(lost) {
            return Err(Failure::new(Kind::Integrity, format!("{LOST}: keep the nodes' directories and logs")));
        }
        let answered = |step: &BenchStep| step.measured.done(Timed::Append) + step.measured.done(Timed::Read);
        match self.steps.iter().find(|step| answered(step) == 0 && !step.measured.failed.is_empty()) {
            Some(step) => {
                let message = format!("no call of {} clients was answered in their step", step.clients);
                Err(Failure::new(Kind::Unavailable, message))
            }
            None => Ok(()),
        }
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
                    ["clients", "calls/s due", "kind", "per second", "p50 ms", "p90", "p99", "p99.9", "max", "failed"];
                let mut table = output::table(&names);
                for step in &self.steps {
                    for kind in Timed::ALL.into_iter().filter(|kind| step.shows(*kind)) {
                        table.add_row(step.row(kind));
                    }
                }
                output::line(table.to_string())?;
                self.steps.iter().flat_map(BenchStep::notes).for_each(output::note);
                Ok(())
            }
        }
    }
}
