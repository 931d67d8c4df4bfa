//! `inspect cut-tail`: going on without a last journal record that is damaged.

use std::path::Path;

use converge_actors::storage::inspect::{self, DamagedTail, NOT_ALONE};
use converge_ledger_core::Lsn;
use serde_json::json;

use super::{Failure, Format, Kind, failed, output};

/// What is damaged, and what may be lost.
pub(super) fn show(format: Format, dir: &Path) -> Result<(), Failure> {
    let found = inspect::damaged_tail(dir).map_err(|error| failed(dir, &error))?;
    let Some(tail) = found else {
        output::note("the last record of the journal is sound: there is nothing to cut");
        return if format == Format::Json { output::json(&json!(null)) } else { Ok(()) };
    };
    let shown = match format {
        Format::Json => {
            let value = serde_json::to_value(&tail);
            output::json(&value.map_err(|error| Failure::error(error.to_string()))?)
        }
        Format::Table => output::line(words(&tail)),
    };
    let next = match tail.voters {
        0 | 1 => format!(
            "nothing was changed; to go on without the record, run `converge-ledger inspect cut-tail --data-dir {} \
             --accept-loss-of {}`",
            dir.display(),
            tail.lsn
        ),
        _ => NOT_ALONE.to_owned(),
    };
    // The exit code is the verdict's, whether or not anybody reads the rest.
    shown.ok();
    Err(Failure::new(
        Kind::Integrity,
        format!("data directory {dir:?}: journal record {} is damaged: {next}", tail.lsn),
    ))
}

fn words(tail: &DamagedTail) -> String {
    let DamagedTail { file, lsn, offset, sector, is_covered, .. } = tail;
    let lost = if *is_covered {
        "The database has what was in it: nothing is lost without it."
    } else {
        "The database does not have what was in it: the appends that were acknowledged with this record, or the vote that \
         was given with it, are lost without it."
    };
    format!(
        "Record {lsn} begins at offset {offset} of {}; the 512 bytes at offset {sector} are not those that were written. \
         It is the last one.\n{lost}",
        file.display()
    )
}

/// Goes on without it.
pub(super) fn cut(format: Format, dir: &Path, lsn: Lsn) -> Result<(), Failure> {
    let kept = inspect::cut_tail(dir, lsn).map_err(|error| failed(dir, &error))?;
    match format {
        Format::Json => output::json(&json!({ "cut": lsn, "kept": kept })),
        Format::Table => {
            output::line(format!("record {lsn} was cut; what was there is kept in {}: start the node", kept.display()))
        }
    }
}
