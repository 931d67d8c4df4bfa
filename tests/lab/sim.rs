//! `sim`: whole nodes in a simulated world, seed by seed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use converge_lab::simulation::{Campaign, Plan, REPEATS, RunOutcome, Shape, Totals, campaign, run_apart, shrink};
use serde_json::json;

use converge_ledger::cli::{Failure, Format, Kind, any_number, files, number, output, parse_duration};

/// Runs that looking for a shorter plan may take.
const SHRINK_RUNS: u64 = 200;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1, value_parser = any_number, allow_negative_numbers = true)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1, value_parser = any_number, allow_negative_numbers = true)]
    seeds: u64,
    /// Go on with further seeds for so long: 60s, 480m. Then `--seeds` does not count.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
    /// Faults in each run.
    #[arg(long, default_value_t = Shape::default().faults, value_parser = any_number, allow_negative_numbers = true)]
    faults: u64,
    /// Simulated time in which they come.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    faults_for: Duration,
    /// Threads; each runs a seed of its own.
    #[arg(long, default_value_t = 2, value_parser = number::<usize>(1..=1024), allow_negative_numbers = true)]
    threads: usize,
    /// Run the plan in this file instead of a seed's.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "time"])]
    plan: Option<PathBuf>,
    /// Cut the first failing plan down to the faults that matter, and write it to this file.
    #[arg(long, value_name = "FILE")]
    shrink: Option<PathBuf>,
    /// Print everything that happens in the one run, line by line. Not for several seeds.
    #[arg(long)]
    trace: bool,
    /// Write the clients' history of the one run to this file; `check-history` reads it. Not for several seeds.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

pub(crate) fn run(format: Format, arguments: &Arguments) -> Result<(), Failure> {
    let faults_ms = u64::try_from(arguments.faults_for.as_millis()).unwrap_or(u64::MAX);
    let shape = Shape { faults: arguments.faults, faults_ms };
    if !REPEATS {
        output::note(
            "this build does not repeat a seed exactly: build it in its repository, without RUSTFLAGS of your own",
        );
    }
    if let Some(file) = &arguments.plan {
        let text = fs::read_to_string(file).map_err(|error| cannot("read", file, &error))?;
        let plan = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| cannot("understand", file, &error))?;
        return one(format, arguments, &plan, &format!("--plan {}", file.display()));
    }
    if arguments.seeds == 1 && arguments.time.is_none() {
        let plan = Plan::draw(arguments.seed, shape);
        return one(format, arguments, &plan, &again(arguments, arguments.seed));
    }
    let of_one = [("--trace", arguments.trace), ("--history", arguments.history.is_some())];
    if let Some((flag, _)) = of_one.into_iter().find(|(_, given)| *given) {
        let message =
            format!("{flag} is for one run: leave it out, or leave out --seeds and --for and name one --seed");
        return Err(Failure::new(Kind::Usage, message));
    }
    many(format, arguments, shape)
}

/// The command that repeats one run.
fn again(arguments: &Arguments, seed: u64) -> String {
    let default = Shape::default();
    let mut command = format!("--seed {seed}");
    if arguments.faults != default.faults {
        command += &format!(" --faults {}", arguments.faults);
    }
    if arguments.faults_for != Duration::from_millis(default.faults_ms) {
        command += &format!(" --faults-for {}ms", arguments.faults_for.as_millis());
    }
    command
}

fn one(format: Format, arguments: &Arguments, plan: &Plan, again: &str) -> Result<(), Failure> {
    let outcome = run_apart(plan, arguments.trace);
    let traced = outcome.lines.iter().try_for_each(output::line);
    if let Some(file) = &arguments.history {
        files::replace(file, |mut to| outcome.history.iter().try_for_each(|operation| operation.write(&mut to)))?;
    }
    let shown = traced.and_then(|()| show_one(format, plan, &outcome));
    // The exit code is the verdict's, whether or not anybody reads the rest.
    if outcome.violations.is_empty() {
        return shown;
    }
    if let Some(file) = &arguments.shrink {
        shorten(plan, file)?;
    }
    Err(Failure::new(Kind::Integrity, format!("{} does not hold; again: converge-lab sim {again} --trace", "the run")))
}

fn show_one(format: Format, plan: &Plan, outcome: &RunOutcome) -> Result<(), Failure> {
    let (acknowledged, unknown, refused) = outcome.appends;
    if format == Format::Json {
        return output::json(&json!({
            "seed": plan.seed,
            "digest": format!("{:016x}", outcome.digest),
            "simulated_ms": outcome.simulated_ms,
            "acknowledged": acknowledged,
            "unknown": unknown,
            "refused": refused,
            "reads": outcome.reads,
            "log_entries": outcome.log_entries,
            "faults": outcome.faults,
            "violations": outcome.violations,
            "aborted": outcome.aborted,
        }));
    }
    if outcome.aborted {
        output::line(format!("seed {}: redb aborts over rotten pages; no more is known of the run", plan.seed))?;
        return outcome.violations.iter().try_for_each(|violation| output::line(format!("  {violation}")));
    }
    output::line(format!(
        "seed {}: {} s simulated, {} faults, {acknowledged} appends acknowledged, {unknown} unknown, {refused} refused, {} reads, digest {:016x}",
        plan.seed,
        outcome.simulated_ms / 1000,
        outcome.faults.values().sum::<u64>(),
        outcome.reads,
        outcome.digest
    ))?;
    outcome.violations.iter().try_for_each(|violation| output::line(format!("  {violation}")))
}

fn shorten(plan: &Plan, file: &Path) -> Result<(), Failure> {
    output::note("looking for a shorter plan that fails, too");
    let (shorter, taken) =
        shrink(plan, SHRINK_RUNS, |best| output::note(format!("{} faults still fail", best.faults())));
    let text = serde_json::to_string_pretty(&shorter).map_err(|error| Failure::error(error.to_string()))?;
    files::replace(file, |to| to.write_all(text.as_bytes()))?;
    let left = shorter.faults();
    output::note(format!(
        "{left} of {} faults are left after {taken} runs; again: converge-lab sim --plan {}",
        plan.faults(),
        file.display()
    ));
    Ok(())
}

fn many(format: Format, arguments: &Arguments, shape: Shape) -> Result<(), Failure> {
    let what = Campaign {
        first: arguments.seed,
        seeds: if arguments.time.is_some() { u64::MAX - arguments.seed } else { arguments.seeds },
        time: arguments.time,
        threads: arguments.threads,
        shape,
    };
    let totals = campaign(what, |seed, outcome, totals| {
        if !outcome.violations.is_empty() {
            output::note(format!(
                "seed {seed} fails: {}; again: converge-lab sim {}",
                outcome.violations[0],
                again(arguments, seed)
            ));
        } else if totals.seeds % 100 == 0 {
            output::note(format!(
                "{} seeds, {:.0} times as fast as real time, {} failed",
                totals.seeds,
                totals.speed(),
                totals.failed.len()
            ));
        }
    });
    let shown = show_many(format, &totals);
    if let Some(seed) = totals.stuck {
        return Err(Failure::error(format!(
            "seed {seed} does not end; again: converge-lab sim {} --trace",
            again(arguments, seed)
        )));
    }
    let Some(seed) = totals.failed.keys().next().copied() else { return shown };
    if let Some(file) = &arguments.shrink {
        shorten(&Plan::draw(seed, shape), file)?;
    }
    Err(Failure::new(
        Kind::Integrity,
        format!(
            "{} of {} seeds fail; again: converge-lab sim {} --trace",
            totals.failed.len(),
            totals.seeds,
            again(arguments, seed)
        ),
    ))
}

fn show_many(format: Format, totals: &Totals) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(&json!({
            "seeds": totals.seeds,
            "took_s": totals.took.as_secs_f64(),
            "simulated_hours": totals.simulated_ms as f64 / 3_600_000.0,
            "times_real_time": totals.speed(),
            "acknowledged": totals.acknowledged,
            "unknown": totals.unknown,
            "refused": totals.refused,
            "reads": totals.reads,
            "log_entries": totals.log_entries,
            "frames": totals.frames,
            "frames_spoiled": totals.frames_spoiled,
            "faults": totals.faults,
            "faults_min": totals.faults_min,
            "failed": totals.failed,
            "stuck": totals.stuck,
            "aborted": totals.aborted,
        }));
    }
    let mut rows = vec![
        ("seeds", totals.seeds.to_string()),
        ("real time", format!("{:.1} s", totals.took.as_secs_f64())),
        (
            "simulated",
            format!("{:.2} hours, {:.0} times real time", totals.simulated_ms as f64 / 3_600_000.0, totals.speed()),
        ),
        ("appends acknowledged", totals.acknowledged.to_string()),
        ("appends unknown", totals.unknown.to_string()),
        ("appends refused", totals.refused.to_string()),
        ("reads", totals.reads.to_string()),
        ("log entries", totals.log_entries.to_string()),
        ("frames", format!("{}, {} of them lost, doubled or out of order", totals.frames, totals.frames_spoiled)),
        (
            "faults that did something",
            format!("{}, at least {} in each run", totals.faults.values().sum::<u64>(), totals.faults_min),
        ),
    ];
    rows.extend(totals.faults.iter().map(|(kind, count)| (*kind, count.to_string())));
    if !totals.aborted.is_empty() {
        rows.push(("seeds that redb aborted, over rotten pages", format!("{:?}", totals.aborted)));
    }
    rows.push(("seeds that fail", totals.failed.len().to_string()));
    rows.iter().try_for_each(|(name, value)| output::line(format!("{name:<40} {value}")))
}

fn cannot(what: &str, file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::error(format!("cannot {what} {file:?}: {error}; name another file"))
}
