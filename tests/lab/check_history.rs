//! `check-history`: could a correct ledger have shown this to its clients?

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

use clap::Args;
use converge_lab::history::{self, Counts, Operation, ReadCause, ReadError, Verdict};
use serde_json::json;

use converge_ledger::cli::{Failure, Format, Kind, lines, output};

/// Violations that people get to see; programs get all that the verdict explains.
const VIOLATIONS_SHOWN: usize = 20;
const NEXT: &str = "a history has one operation on each line: mend the line, or leave out what follows it";
const BUFFER_BYTES: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The history, one operation a line; `-` is stdin.
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
}

pub(crate) fn run(format: Format, arguments: &Arguments) -> Result<(), Failure> {
    let (name, operations) = read(arguments)?;
    if operations.is_empty() {
        let message = format!("{name} has no operation: there is nothing to check; name the file that a run wrote");
        return Err(Failure::error(message));
    }
    let verdict = history::check(&operations);
    let shown = match format {
        Format::Json => output::json(&json!({
            "linearizable": verdict.holds(),
            "counts": verdict.counts,
            "violations": verdict.violations,
            "violations_more": verdict.more,
        })),
        Format::Table => show(&verdict),
    };
    // The exit code is the verdict's, whether or not anybody reads the rest.
    match verdict.violations.len() as u64 + verdict.more {
        0 => shown,
        count => {
            let noun = if count == 1 { "violation" } else { "violations" };
            let message =
                format!("{name}: {count} {noun}: no correct ledger shows this; look at the lines named above");
            Err(Failure::new(Kind::Integrity, message))
        }
    }
}

fn read(arguments: &Arguments) -> Result<(String, Vec<Operation>), Failure> {
    let path = arguments.file.as_path();
    let (name, outcome) = if path.as_os_str() == "-" {
        ("stdin".to_owned(), history::read(io::stdin().lock()))
    } else {
        let file = File::open(path).map_err(|error| cannot_read(&format!("{path:?}"), &error))?;
        (output::harmless(&path.display().to_string()), history::read(BufReader::with_capacity(BUFFER_BYTES, file)))
    };
    match outcome {
        Ok(operations) => Ok((name, operations)),
        Err(ReadError { line, cause: ReadCause::Io(error) }) => {
            Err(cannot_read(&format!("line {line} of {name:?}"), &error))
        }
        Err(ReadError { line, cause: ReadCause::Json(error) }) => {
            let (column, cause) = (error.column(), lines::entry::cause(&error));
            Err(Failure::error(format!("{name}:{line}:{column}: {cause}; {NEXT}")))
        }
        Err(ReadError { line, cause }) => Err(Failure::error(format!("{name}:{line}: {cause}; {NEXT}"))),
    }
}

fn cannot_read(what: &str, error: &io::Error) -> Failure {
    Failure::error(format!("cannot read {what}: {error}; name a file with a history, or -"))
}

fn show(verdict: &Verdict) -> Result<(), Failure> {
    let Counts { acknowledged, deduplicated, unknown, refused, reads, reads_stale, watches, states, .. } =
        &verdict.counts;
    let mut table = output::facts();
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("operations", verdict.counts.operations.to_string());
    row("contexts", format!("{}, with {} entries", verdict.counts.contexts, verdict.counts.entries));
    row(
        "appends",
        format!("{acknowledged} acknowledged ({deduplicated} deduplicated), {unknown} unknown, {refused} refused"),
    );
    row("reads", format!("{reads} linearizable, {reads_stale} stale"));
    row("watches", watches.to_string());
    row("final states", states.to_string());
    row("verdict", if verdict.holds() { "linearizable" } else { "violated" }.to_owned());
    output::line(table.to_string())?;
    for violation in verdict.violations.iter().take(VIOLATIONS_SHOWN) {
        output::line(format!("  {violation}"))?;
    }
    match verdict.violations.len().saturating_sub(VIOLATIONS_SHOWN) as u64 + verdict.more {
        0 => Ok(()),
        more => output::line(format!("  and {more} more")),
    }
}
