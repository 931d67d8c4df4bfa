//! What people and programs get to see. Results go to stdout, everything else
//! to stderr. A command that serves writes neither itself: see [`serve`].

use std::io::{self, Write};
use std::panic;
use std::sync::OnceLock;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::outlet::Outlet;
use super::{Failure, Kind};

/// The outlets of a command that serves.
static OUTLETS: OnceLock<Outlets> = OnceLock::new();
/// A process that ends waits so long for what it has said.
const FLUSH: Duration = Duration::from_secs(1);

/// Where a command that serves writes to.
pub struct Outlets {
    pub(crate) stdout: Outlet,
    pub(crate) stderr: Outlet,
}

/// From here on nothing that this process says can fail it or hold it up, the message of a panic included: the standard
/// library's would wait for whoever reads stderr.
pub fn serve() -> Result<&'static Outlets, Failure> {
    let failed = |error: io::Error| {
        Failure::error(format!("cannot write the log: {error}; check the limits on threads and open files"))
    };
    let (stdout, stderr) = (Outlet::stdout().map_err(failed)?, Outlet::stderr().map_err(failed)?);
    let outlets = OUTLETS.get_or_init(|| Outlets { stdout, stderr });
    panic::set_hook(Box::new(|panicked| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        note(format!("thread {:?} {panicked}", thread.name().unwrap_or("without a name")));
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            note(backtrace.to_string());
        }
        if panicked.payload_as_str() == Some(ABORT) {
            note(
                "this process aborts now. Where redb is named above, pages of its file are damaged, and the next start \
                  may end like this one",
            );
            flush();
        }
    }));
    Ok(outlets)
}

/// How the standard library calls a panic in a destructor that runs because of a panic. It aborts the process.
const ABORT: &str = "panic in a destructor during cleanup";

/// The last thing that a process does: gives its outlets a moment.
pub fn flush() {
    if let Some(Outlets { stdout, stderr }) = OUTLETS.get() {
        stdout.flush(FLUSH);
        stderr.flush(FLUSH);
    }
}

/// The longest text of a payload or a value that a table shows, in characters.
const TEXT_SHOWN: usize = 60;

/// Writes one line to stdout. Whoever reads our output may have enough of it: then a command that only shows something
/// has nothing left to do, and ends as if it were done. Commands that do or judge something report that first.
pub fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    bytes(text.as_ref().as_bytes())?;
    bytes(b"\n")
}

/// How often somebody looks whether stdout is still read.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until nobody can read stdout any more. Who waits for something to show would else find out with the next line,
/// which may never come.
pub async fn unread() {
    let stdout = io::stdout();
    loop {
        tokio::time::sleep(LOOK).await;
        let mut look = [PollFd::new(&stdout, PollFlags::empty())];
        if poll(&mut look, Some(&Timespec::default())).is_ok() && look[0].revents().contains(PollFlags::ERR) {
            return;
        }
    }
}

/// Writes bytes to stdout, as [`line`] does.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        // An error, so that what the command has started is ended on its way out.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::new(Kind::Done, "nobody reads")),
        Err(error) => Err(Failure::error(format!("cannot write to stdout: {error}; what was done stands"))),
    }
}

/// One JSON document on one line.
pub fn json(value: &Value) -> Result<(), Failure> {
    line(value.to_string())
}

/// A note that belongs to no result.
pub fn note(text: impl AsRef<str>) {
    let line = format!("{}\n", text.as_ref());
    match OUTLETS.get() {
        Some(outlets) => outlets.stderr.push(line.as_bytes()),
        None => _ = io::stderr().write_all(line.as_bytes()),
    }
}

/// The last words of a failed command.
pub fn complain(failure: &Failure) {
    if failure.kind() != Kind::Done {
        note(format!("error: {failure}"));
    }
}

/// A table of names and values.
pub fn facts() -> Table {
    table(&[])
}

/// A table with these columns, as wide as the terminal lets it.
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    if !columns.is_empty() {
        table.set_header(columns);
    }
    table
}

/// A payload for people: its text, made harmless and cut, or its size.
pub fn payload(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => shown(text),
        Err(_) => format!("({} bytes)", bytes.len()),
    }
}

/// Text that cannot steer the terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// Text that cannot steer the terminal, and does not flood it.
pub fn shown(text: &str) -> String {
    let end = text.char_indices().nth(TEXT_SHOWN).map_or(text.len(), |(end, _)| end);
    let mut shown = harmless(&text[..end]);
    if end < text.len() {
        shown.push('…');
    }
    shown
}

/// `name=value` pairs, one a line.
pub fn metadata<'m>(pairs: impl IntoIterator<Item = (&'m String, &'m String)>) -> String {
    let text = pairs.into_iter().map(|(name, value)| format!("{}={}", shown(name), shown(value)));
    text.collect::<Vec<_>>().join("\n")
}

/// UTC date and time of nanoseconds since 1970, to the millisecond.
pub fn time(ns: u64) -> String {
    let ms = ns / 1_000_000;
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day since 1970: Howard Hinnant's `civil_from_days`
/// (howardhinnant.github.io/date_algorithms.html), for days from 1970 on.
fn date(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}
