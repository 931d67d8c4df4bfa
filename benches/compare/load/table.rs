//! Medians of runs, and how they compare, as Markdown.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::run::Measured;

pub(crate) fn main(file: &Path, against: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let runs = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Measured>, _>>()
        .with_context(|| format!("{} is not a file of runs", file.display()))?;
    ensure!(!runs.is_empty(), "{} holds no run", file.display());
    write!(std::io::stdout(), "{}", render(&runs, against))?;
    Ok(())
}

/// The middle of some values, their least and their greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Middle {
    median: f64,
    min: f64,
    max: f64,
}

impl Middle {
    fn of(values: impl Iterator<Item = f64>) -> Option<Middle> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
        Some(Middle { median, min, max })
    }

    fn text(self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.min, self.max)
    }
}

/// A ratio is taken within a round, between two runs that were measured in turn; a system has as many as it has rounds.
fn ratios(runs: &[&Measured], base: &[&Measured], value: fn(&Measured) -> f64) -> String {
    let pairs = runs.iter().filter_map(|run| {
        let base = base.iter().find(|base| base.round == run.round)?;
        Some(value(run) / value(base))
    });
    Middle::of(pairs).map_or("–".to_owned(), |ratio| ratio.text(2))
}

fn render(runs: &[Measured], against: &str) -> String {
    // By clients, and then as they were first measured.
    let mut order: Vec<&str> = Vec::new();
    let mut groups: BTreeMap<(usize, usize), Vec<&Measured>> = BTreeMap::new();
    for run in runs {
        let place = order.iter().position(|label| *label == run.label).unwrap_or_else(|| {
            order.push(&run.label);
            order.len() - 1
        });
        groups.entry((run.clients, place)).or_default().push(run);
    }
    let mut text = format!(
        "| clients | system | calls/s | p50 µs | p99 µs | CPU µs per call | rate ÷ {against} | p50 ÷ {against} | CPU ÷ {against} |\n\
         |--:|---|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for ((clients, place), runs) in &groups {
        let base = order.iter().position(|label| *label == against).and_then(|place| groups.get(&(*clients, place)));
        let base = base.map_or(&[][..], |base| base);
        let middle = |value: fn(&Measured) -> f64, digits| {
            Middle::of(runs.iter().map(|run| value(run))).map_or_else(String::new, |middle| middle.text(digits))
        };
        let label = order[*place];
        text += &format!(
            "| {clients} | {label} | {} | {} | {} | {} | {} | {} | {} |\n",
            middle(|run| run.per_second, 0),
            middle(|run| run.p50_us, 0),
            middle(|run| run.p99_us, 0),
            middle(|run| run.cpu_us, 0),
            ratios(runs, base, |run| run.per_second),
            ratios(runs, base, |run| run.p50_us),
            ratios(runs, base, |run| run.cpu_us),
        );
    }
    let rounds = runs.iter().map(|run| run.round).max().unwrap_or_default();
    text + &format!(
        "\nMedian (least–greatest) of {rounds} rounds. A ratio is taken within each round: a rate above 1 is faster than \
         {against}, a p50 or a CPU time below 1 is less.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(label: &str, round: usize, per_second: f64, cpu_us: f64) -> Measured {
        Measured {
            label: label.to_owned(),
            round,
            clients: 16,
            payload_bytes: 256,
            reads: false,
            calls: 1,
            seconds: 1.0,
            per_second,
            p50_us: 1.0,
            p99_us: 2.0,
            max_us: 3.0,
            cpu_us,
        }
    }

    #[test]
    fn the_median_ignores_one_outlier_and_averages_an_even_number() {
        let odd = Middle::of([10.0, 1000.0, 12.0].into_iter());
        assert_eq!(odd, Some(Middle { median: 12.0, min: 10.0, max: 1000.0 }));
        assert_eq!(Middle::of([10.0, 20.0].into_iter()).map(|middle| middle.median), Some(15.0));
        assert_eq!(Middle::of(std::iter::empty()), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_absent_without_a_base() {
        // The machine is ten times slower in the second round; the ratio is not.
        let mut runs = vec![run("etcd", 1, 100.0, 4.0), run("converge", 1, 250.0, 2.0)];
        runs.extend([run("etcd", 2, 10.0, 40.0), run("converge", 2, 26.0, 21.0)]);
        let text = render(&runs, "etcd");
        let line = text.lines().find(|line| line.contains("converge")).unwrap();
        assert!(line.contains("2.55 (2.50–2.60)") && line.contains("0.51 (0.50–0.53)"), "{text}");
        let alone = render(&runs[1..2], "etcd");
        assert!(alone.lines().any(|line| line.ends_with("| – | – | – |")), "{alone}");
    }

    #[test]
    fn systems_keep_the_order_in_which_they_were_measured() {
        let text = render(&[run("redb", 1, 1.0, 1.0), run("etcd", 1, 1.0, 1.0)], "etcd");
        assert!(text.find("| redb") < text.find("| etcd"), "{text}");
    }
}
