//! Medians of runs, and how they compare.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::run::Measured;

/// The middle of the runs of one label at one number of clients.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Median {
    runs: usize,
    per_second: f64,
    lowest: f64,
    highest: f64,
    p50_us: f64,
    p99_us: f64,
}

pub(crate) fn main(file: &Path, against: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let runs = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Measured>, _>>()
        .with_context(|| format!("{} is not a file of runs", file.display()))?;
    ensure!(!runs.is_empty(), "{} holds no run", file.display());
    write!(std::io::stdout(), "{}", render(&medians(&runs), against))?;
    Ok(())
}

fn medians(runs: &[Measured]) -> BTreeMap<(usize, String), Median> {
    let mut groups: BTreeMap<(usize, String), Vec<&Measured>> = BTreeMap::new();
    for run in runs {
        groups.entry((run.clients, run.label.clone())).or_default().push(run);
    }
    groups.into_iter().map(|(group, runs)| (group, median(&runs))).collect()
}

fn median(runs: &[&Measured]) -> Median {
    let middle = |value: fn(&Measured) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(|run| value(run)).collect();
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
    };
    let rates = runs.iter().map(|run| run.per_second);
    Median {
        runs: runs.len(),
        per_second: middle(|run| run.per_second),
        lowest: rates.clone().fold(f64::INFINITY, f64::min),
        highest: rates.fold(0.0, f64::max),
        p50_us: middle(|run| run.p50_us),
        p99_us: middle(|run| run.p99_us),
    }
}

fn render(medians: &BTreeMap<(usize, String), Median>, against: &str) -> String {
    let mut text = format!(
        "{:>7}  {:<18} {:>4} {:>11} {:>19} {:>10} {:>10}  {:>12} {:>10}\n",
        "clients", "what", "runs", "appends/s", "lowest-highest", "p50 us", "p99 us", "rate ratio", "p50 ratio"
    );
    for ((clients, label), row) in medians {
        let base = medians.get(&(*clients, against.to_owned()));
        let ratio = |value: f64, base: Option<f64>| base.map_or("-".to_owned(), |base| format!("{:.2}", value / base));
        text += &format!(
            "{clients:>7}  {label:<18} {:>4} {:>11.0} {:>19} {:>10.0} {:>10.0}  {:>12} {:>10}\n",
            row.runs,
            row.per_second,
            format!("{:.0}-{:.0}", row.lowest, row.highest),
            row.p50_us,
            row.p99_us,
            ratio(row.per_second, base.map(|base| base.per_second)),
            ratio(row.p50_us, base.map(|base| base.p50_us)),
        );
    }
    text + &format!("Ratios are to {against}: a rate above 1 is faster, a p50 below 1 is faster.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(label: &str, per_second: f64, p50_us: f64) -> Measured {
        Measured {
            label: label.to_owned(),
            clients: 16,
            connections: 1,
            payload_bytes: 256,
            appends: 1,
            seconds: 1.0,
            per_second,
            p50_us,
            p99_us: 2.0 * p50_us,
            max_us: 3.0 * p50_us,
        }
    }

    #[test]
    fn the_median_ignores_one_outlier_and_averages_an_even_number() {
        let odd = [run("a", 10.0, 1.0), run("a", 1000.0, 9.0), run("a", 12.0, 2.0)];
        let found = medians(&odd)[&(16, "a".to_owned())];
        assert_eq!((found.per_second, found.p50_us, found.lowest, found.highest), (12.0, 2.0, 10.0, 1000.0));
        let even = [run("a", 10.0, 1.0), run("a", 20.0, 3.0)];
        assert_eq!(medians(&even)[&(16, "a".to_owned())].per_second, 15.0);
    }

    #[test]
    fn ratios_are_to_the_run_named_and_absent_without_it() {
        let text = render(&medians(&[run("etcd", 10.0, 4.0), run("converge", 25.0, 2.0)]), "etcd");
        assert!(text.contains("2.50") && text.contains("0.50"), "{text}");
        let alone = render(&medians(&[run("converge", 25.0, 2.0)]), "etcd");
        assert!(alone.lines().nth(1).is_some_and(|line| line.trim_end().ends_with('-')), "{alone}");
    }
}
