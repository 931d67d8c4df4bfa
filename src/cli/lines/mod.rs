//! The input of `append --from`, one entry after the other, and the idempotency key of each.
//!
//! The key comes from what an entry is and from how many equal ones the input has before it. So a file can be sent
//! again when it has grown, or when it was written down in another way: what is there already is not appended twice.

pub mod entry;
mod scan;

use std::collections::HashMap;
use std::future::ready;
use std::path::Path;

use crate::api::grpc::pb::context::AppendRequest;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use super::{Failure, output};
use entry::Bad;
use scan::{Cut, Scan};

/// Each different entry is remembered, in up to 40 bytes, so that equal ones can be told apart.
const DIFFERENT_MAX: usize = 1 << 26;
const BUFFER_BYTES: usize = 256 << 10;
/// The longest explanation: a name in it may be anything.
const WHY_SHOWN: usize = 300;

/// One entry, ready to be sent.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its message.
    pub message: AppendRequest,
    /// Names this entry: appended once, however often it is sent.
    pub key: String,
    /// `FILE:LINE`, and the column where a line has several.
    pub place: String,
    /// Bytes of the file up to its end.
    pub end: u64,
}

/// A file, or stdin, entry by entry.
pub struct Lines {
    name: String,
    context_id: String,
    /// Entries of another source are others, equal or not.
    source: String,
    input: Box<dyn AsyncBufRead + Unpin + Send>,
    scan: Scan,
    /// Counts from 1, blank lines included.
    number: u64,
    read: u64,
    size: Option<u64>,
    /// How many entries were equal so far, by a part of their hash: two that share it only count on together.
    equal: HashMap<u64, u32>,
}

impl Lines {
    /// Opens a file; `-` is stdin.
    pub async fn open(path: &Path, context_id: &str) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            let input = Box::new(BufReader::new(tokio::io::stdin()));
            return Ok(Lines::new("stdin".into(), context_id, input, None));
        }
        let failed = |error| Failure::error(format!("cannot read {path:?}: {error}; check --from"));
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        let size = metadata.is_file().then_some(metadata.len());
        let input = Box::new(BufReader::with_capacity(BUFFER_BYTES, file));
        let name = output::harmless(&path.display().to_string());
        Ok(Lines::new(name, context_id, input, size))
    }

    pub fn new(name: String, context_id: &str, input: Box<dyn AsyncBufRead + Unpin + Send>, size: Option<u64>) -> Self {
        let (context_id, source, equal) = (context_id.to_owned(), String::new(), HashMap::new());
        Lines { name, context_id, source, input, scan: Scan::new(), number: 1, read: 0, size, equal }
    }

    /// Tells this input's entries from equal ones of other inputs.
    pub fn of(self, source: String) -> Self {
        Lines { source, ..self }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the whole input, where that is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The next entry, as soon as it is there; `None` at the end of the input. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            let chunk = match self.input.fill_buf().await {
                Ok(chunk) => chunk,
                Err(error) => return Err(self.bad(self.scan.column(), &format!("it cannot be read: {error}"))),
            };
            let is_over = chunk.is_empty();
            let cut = if is_over {
                self.scan.finish()
            } else {
                self.scan.feed(chunk).map(|(taken, cut)| {
                    self.input.consume(taken);
                    self.read += taken as u64;
                    cut
                })
            };
            let cut = cut.map_err(|why| self.bad(self.scan.column(), &why))?;
            if let Some(line) = cut.map(|cut| self.line(cut)).transpose()?.flatten() {
                return Ok(Some(line));
            }
            if is_over {
                return Ok(None);
            }
        }
    }

    /// The next entry if it can be had without waiting for more input.
    pub async fn in_hand(&mut self) -> Option<Result<Option<Line>, Failure>> {
        tokio::select! {
            biased;
            next = self.next() => Some(next),
            () = ready(()) => None,
        }
    }

    /// What was cut out, unless it is blank or only goes around entries.
    fn line(&mut self, cut: Cut) -> Result<Option<Line>, Failure> {
        let text = self.scan.text();
        let parsed = match cut {
            Cut::Line if text.iter().all(u8::is_ascii_whitespace) => Ok(None),
            Cut::Line | Cut::Entry => entry::parse(text, &self.context_id).map(Some),
            Cut::Page => entry::check_page(text).map(|()| None),
        };
        let message = parsed.map_err(|Bad { byte, why }| {
            // What is around a page's entries is told by the column at its end: they are cut out of it.
            let column = if cut == Cut::Page { self.scan.column() } else { self.scan.column_of(byte) };
            self.bad(column, &why)
        })?;
        let place = match cut {
            Cut::Entry => format!("{}:{}:{}", self.name, self.number, self.scan.column_of(1)),
            Cut::Line | Cut::Page => format!("{}:{}", self.name, self.number),
        };
        let key = message.as_ref().map(|message| self.key(message)).transpose()?;
        self.number += u64::from(cut != Cut::Entry);
        Ok(message.zip(key).map(|(message, key)| Line { message, key, place, end: self.read }))
    }

    fn key(&mut self, message: &AppendRequest) -> Result<String, Failure> {
        let content = entry::content(message);
        let part = content.as_bytes().first_chunk().expect("a hash has 32 bytes");
        let part = u64::from_le_bytes(*part);
        if self.equal.len() >= DIFFERENT_MAX && !self.equal.contains_key(&part) {
            let why = format!("{DIFFERENT_MAX} different entries came before: append the rest from another file");
            return Err(self.bad(1, &why));
        }
        let equal = self.equal.entry(part).or_default();
        let key = entry::key(&content, *equal, &self.source);
        *equal = equal.saturating_add(1);
        Ok(key)
    }

    /// What follows the last entry is not usable.
    fn bad(&self, column: u64, why: &str) -> Failure {
        let why = output::harmless(&why.chars().take(WHY_SHOWN).collect::<String>());
        Failure::error(format!(
            "{}:{}:{column}: {why}; nothing from here on was sent: correct it and run the command again, which appends \
             only what is missing",
            self.name, self.number
        ))
    }
}
