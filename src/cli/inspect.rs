//! `inspect`: into the data directory of a node that is not running.

mod tail;

use std::ffi::OsString;
use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use converge_actors::storage::inspect::{self, LogLine, Summary};
use converge_actors::storage::{Disk as _, EntryKind, Error, LOCK_FILE, RealDisk};
use converge_ledger_core::{LogIndex, Lsn};
use serde_json::json;

use super::processes::Directory;
use super::{Failure, Format, Global, Kind, any_number, output, signals};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// The data directory. Its journal is brought into its database first, as a start would.
    #[arg(long, global = true, value_name = "DIR", default_value = "./converge-ledger-data")]
    data_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What the directory holds, at a glance.
    Summary,
    /// The entries of the replicated log.
    Log {
        /// The first log index shown.
        #[arg(long, default_value_t = 1, value_parser = any_number, allow_negative_numbers = true)]
        from: u64,
        /// At most this many log entries; 0 for all.
        #[arg(long, default_value_t = 0, value_parser = any_number, allow_negative_numbers = true)]
        limit: u64,
    },
    /// Read everything against its checksums, and the index against the log.
    Verify,
    /// Drop the index and make it anew from the log.
    RebuildIndex,
    /// Go on without a last journal record that is damaged, on a node alone. Without more it changes nothing, and says what
    /// is damaged, and what may be lost.
    CutTail {
        /// The record's number, as this command names it: what was acknowledged with it is lost.
        #[arg(long, value_name = "LSN", value_parser = any_number, allow_negative_numbers = true)]
        accept_loss_of: Option<u64>,
    },
}

impl What {
    /// It is to change the directory, and not a copy.
    fn changes(&self) -> bool {
        matches!(self, What::RebuildIndex | What::CutTail { accept_loss_of: Some(_) })
    }
}

pub(crate) async fn run(global: &Global, Arguments { what, data_dir }: Arguments) -> Result<(), Failure> {
    find(&data_dir)?;
    let format = global.output;
    if what.changes() || !is_read_only(&data_dir) {
        return look(format, &data_dir, what);
    }
    // A ledger's copy is large: also who is interrupted takes it along.
    let mut signals = signals()?;
    let directory = Directory::new("inspect", None, "TMPDIR")?;
    let path = directory.path().to_owned();
    let looking = tokio::task::spawn_blocking(move || {
        copy(&data_dir, &path)?;
        look(format, &path, what)
    });
    tokio::select! {
        () = signals.next() => Err(Failure::error("interrupted")),
        looked = looking => looked.unwrap_or_else(|panic| Err(Failure::error(format!("looking into the copy: {panic}")))),
    }
}

fn look(format: Format, dir: &Path, what: What) -> Result<(), Failure> {
    match what {
        What::Summary => show(format, &inspect::summary(dir).map_err(|error| failed(dir, &error))?),
        What::Log { from, limit } => log(format, dir, from, limit),
        What::Verify => verify(format, dir),
        What::RebuildIndex => {
            let summary = inspect::rebuild_index(dir).map_err(|error| failed(dir, &error))?;
            output::note("the index was made anew from the log");
            show(format, &summary)
        }
        What::CutTail { accept_loss_of: None } => tail::show(format, dir),
        What::CutTail { accept_loss_of: Some(lsn) } => tail::cut(format, dir, Lsn(lsn)),
    }
}

/// Storage's own errors name the cause and the next step.
fn failed(dir: &Path, error: &Error) -> Failure {
    match error {
        Error::DataLoss(_) => Failure::new(Kind::Integrity, format!("data directory {dir:?}: {error}")),
        _ => Failure::error(error.to_string()),
    }
}

/// Looks whether there is a directory that can be looked into.
fn find(dir: &Path) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::error(format!("data directory {dir:?} {why}")));
    let kind = match std::fs::read_dir(dir) {
        Ok(_) => return Ok(()),
        Err(error) => error.kind(),
    };
    match kind {
        io::ErrorKind::NotFound => refused("does not exist: name the directory of a node with --data-dir"),
        io::ErrorKind::NotADirectory => refused("is no directory: name the directory of a node with --data-dir"),
        io::ErrorKind::PermissionDenied => refused(UNREADABLE),
        // Told by whoever opens it.
        _ => Ok(()),
    }
}

const UNREADABLE: &str = "may not be read by this user: run this as the user that its node runs as";

/// Whether nothing can be made in this directory, which is there.
fn is_read_only(dir: &Path) -> bool {
    dir.is_dir() && rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err()
}

/// Copies a directory that cannot be written, for a look writes as a start does.
fn copy(dir: &Path, path: &Path) -> Result<(), Failure> {
    let refused = |why: String| Failure::error(format!("data directory {dir:?}: {why}"));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => refused(format!("it {UNREADABLE}")),
        _ => refused(format!("cannot be copied: {error}")),
    };
    // Held until all is copied: no node starts on it meanwhile.
    let lock = match File::open(dir.join(LOCK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refused("it holds no ledger: check --data-dir".into()));
        }
        opened => opened.map_err(failed)?,
    };
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            return Err(refused("another node has it open: stop that one first".into()));
        }
        locked => locked.map_err(|error| failed(error.into()))?,
    }
    let files = files(dir).map_err(failed)?;
    let needed = files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let free = RealDisk.free(path).map_err(failed)?;
    if free < needed {
        return Err(refused(format!(
            "it cannot be written, and {path:?} has no room for a copy of it: {needed} bytes are needed, {free} are free; \
             make it writable, or name a directory with more room in TMPDIR"
        )));
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    output::note(format!("{dir:?} cannot be written: this looks into a copy of it, {path:?}"));
    for (name, _) in files {
        let to = path.join(&name);
        std::fs::copy(dir.join(&name), &to).map_err(failed)?;
        std::fs::set_permissions(&to, Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(())
}

/// The files of a directory, by name, and their bytes.
fn files(dir: &Path) -> io::Result<Vec<(OsString, u64)>> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        let metadata = file.metadata()?;
        if metadata.is_file() {
            files.push((file.file_name(), metadata.len()));
        }
    }
    Ok(files)
}

fn show(format: Format, summary: &Summary) -> Result<(), Failure> {
    if format == Format::Json {
        let value = serde_json::to_value(summary);
        return output::json(&value.map_err(|error| Failure::error(error.to_string()))?);
    }
    let mut table = output::facts();
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("store", summary.store_id.to_string());
    row("boot", summary.boot.to_string());
    match &summary.genesis {
        None => row("cluster", "none: this directory never was part of one".into()),
        Some(genesis) => {
            row("cluster", genesis.cluster_id.to_string());
            for (id, store) in &genesis.voters {
                row("voter", format!("node {id} on store {store}"));
            }
        }
    }
    let hard_state = &summary.hard_state;
    row("term", hard_state.term.to_string());
    row(
        "voted for",
        match hard_state.vote.get() {
            0 => "nobody".into(),
            id => format!("node {id}"),
        },
    );
    row("log", format!("{} entries, {} committed, {} applied", summary.last, hard_state.commit, summary.applied));
    row("ledger", format!("{} entries in {} contexts", summary.entries, summary.contexts));
    row("digest", summary.digest.clone());
    row("journal", format!("{} bytes, covered up to record {}", summary.journal_bytes, summary.covered_lsn));
    row("segments", format!("{} bytes", summary.segment_bytes));
    row("database", format!("{} bytes", summary.redb_bytes));
    output::line(table.to_string())
}

/// Printed as it is read: a log can be longer than memory.
fn log(format: Format, dir: &Path, from: u64, limit: u64) -> Result<(), Failure> {
    let to = match limit {
        0 => u64::MAX,
        limit => from.saturating_add(limit - 1),
    };
    if format == Format::Table {
        output::line(format!("{:>10} {:>6} {:>10} {:>6} {:>9}  kind", "index", "term", "bytes", "origin", "commands"))?;
    }
    let mut outcome = Ok(());
    let mut each = |line: LogLine| {
        outcome = log_line(format, &line);
        outcome.is_ok()
    };
    inspect::log(dir, LogIndex(from), LogIndex(to), &mut each).map_err(|error| failed(dir, &error))?;
    outcome
}

fn log_line(format: Format, line: &LogLine) -> Result<(), Failure> {
    let kind = match line.kind {
        EntryKind::Normal if line.bytes == 0 => "empty",
        EntryKind::Normal => "batch",
        EntryKind::ConfChange | EntryKind::ConfChangeV2 => "membership",
    };
    let LogLine { index, term, bytes, origin, commands, .. } = line;
    match format {
        Format::Json => output::json(&json!({
            "index": index, "term": term, "kind": kind, "bytes": bytes, "origin": origin, "commands": commands,
        })),
        Format::Table => {
            let origin = origin.map(|id| id.to_string()).unwrap_or_default();
            output::line(format!("{index:>10} {term:>6} {bytes:>10} {origin:>6} {commands:>9}  {kind}"))
        }
    }
}

fn verify(format: Format, dir: &Path) -> Result<(), Failure> {
    let verified = inspect::verify(dir).map_err(|error| failed(dir, &error))?;
    let shown = match format {
        Format::Json => {
            let value = serde_json::to_value(&verified);
            output::json(&value.map_err(|error| Failure::error(error.to_string()))?)
        }
        Format::Table => output::line(format!(
            "{} log entries, of them in {} blocks of segments, {} entries in {} contexts, {} idempotency keys read",
            verified.log_entries, verified.blocks, verified.entries, verified.contexts, verified.keys
        ))
        .and_then(|()| verified.problems.iter().try_for_each(|problem| output::line(format!("  {problem}")))),
    };
    // The exit code is the verdict's, whether or not anybody reads the rest.
    match verified.problems.len() {
        0 => shown,
        count => Err(Failure::new(
            Kind::Integrity,
            format!(
                "{} has {count} problems: where only the index differs, run `converge-ledger inspect rebuild-index`; \
                 else replace this node, and never restore a copy of its directory",
                dir.display()
            ),
        )),
    }
}
