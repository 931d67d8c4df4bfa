//! `append`: one entry, or the lines of a file, in their order.
//!
//! A file is sent over a stream of appends, so that lines commit in file order
//! whatever breaks in between (`stream`); line by line where the node has no such
//! service: the next line leaves when the last one is durable. What an earlier run
//! has appended is found first, many lines at a time, with calls
//! that cannot write: appends that expect a sequence that no context has. A
//! line that is there already answers such a call with its entry, any other
//! line is refused. Nobody waits for more input while a line is in hand.

mod stream;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::api::grpc::pb::context::AppendRequest;
use clap::Args;
use converge_ledger_core::Limits;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Code;

use self::stream::Rest;
use super::client::{Appended, Client};
use super::lines::entry::entry_json;
use super::lines::{Line, Lines};
use super::{Failure, Format, Global, Kind, any_number, output, status};

/// Lines looked for at once, at most.
const PROBES_MAX: usize = 64;
/// No context has this sequence: an append that expects it writes nothing.
const NO_SEQUENCE: u64 = u64::MAX;

/// Either way to give what is appended: whoever left something out may have meant the other one.
const USAGE: &str = "converge-ledger append [OPTIONS] <CONTEXT> <KEY> <PAYLOAD>
       converge-ledger append [OPTIONS] <CONTEXT> --from <FILE|->";

#[derive(Debug, Args)]
#[command(override_usage = USAGE)]
pub(crate) struct Arguments {
    /// The context to append to.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    context: String,
    /// The entry's key; may be empty.
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    key: Option<String>,
    /// The entry's payload; may be empty.
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    payload: Option<String>,
    /// JSON lines: `key`, `payload` or `payload_base64`, `metadata`, or what
    /// `get`, `watch` and the append of one entry print as JSON; `-` is stdin.
    /// Run it again after a crash: it appends only what is missing.
    #[arg(long, value_name = "FILE|-")]
    from: Option<PathBuf>,
    /// The file was begun before: append nothing if the context has entries
    /// and the file's first is none of them.
    #[arg(long, requires = "from", conflicts_with = "key")]
    resume: bool,
    /// The file was never appended to this context: append it even where
    /// nobody can tell, for the cluster has forgotten old entries' keys.
    #[arg(long, requires = "from", conflicts_with_all = ["key", "resume"])]
    new: bool,
    /// What the file's entries come from. Equal entries of one source are the
    /// same ones, sent again; those of another source are others.
    #[arg(long, requires = "from", conflicts_with = "key", default_value = "")]
    source: String,
    /// A pair of the entry's metadata; repeat it for more.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair, conflicts_with = "from")]
    metadata: Vec<(String, String)>,
    /// One entry per key and context, however often it is sent.
    #[arg(long, conflicts_with = "from", value_parser = parse_key)]
    idempotency_key: Option<String>,
    /// Append only when this is the context's latest sequence.
    #[arg(long, conflicts_with = "from", value_parser = any_number, allow_negative_numbers = true)]
    expected_sequence: Option<u64>,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a pair is written name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn parse_key(text: &str) -> Result<String, String> {
    match text.len() {
        1..=1024 if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) => Ok(text.to_owned()),
        _ => Err("a key is 1 to 1024 printable ASCII characters".into()),
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    let checked = Limits::default().check_context_id(&arguments.context);
    checked.map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
    match &arguments.from {
        Some(path) => {
            let lines = Lines::open(path, &arguments.context).await?.of(arguments.source);
            let (resume, new) = (arguments.resume, arguments.new);
            let import = Import { client: Arc::new(client), lines, resume, new, tally: Tally::default() };
            import.run(global.output).await
        }
        None => append_one(global.output, &client, arguments).await,
    }
}

/// As in a file: no name of two values wins silently.
fn metadata(pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut metadata = BTreeMap::new();
    for (name, value) in pairs {
        if metadata.insert(name.clone(), value).is_some() {
            return Err(Failure::new(Kind::Usage, format!("--metadata has {name:?} twice; give each name once")));
        }
    }
    Ok(metadata)
}

async fn append_one(format: Format, client: &Client, given: Arguments) -> Result<(), Failure> {
    let message = AppendRequest {
        context_id: given.context,
        key: given.key.unwrap_or_default(),
        payload: given.payload.unwrap_or_default().into(),
        metadata: metadata(given.metadata)?,
    };
    // A key of our own makes the client's retries safe.
    let key = given.idempotency_key.unwrap_or_else(random_key);
    let appended = client.append(&message, &key, given.expected_sequence).await.map_err(|failure| {
        if !failure.is_unknown() {
            return failure;
        }
        failure.next(format!("read the context, or run it again with --idempotency-key {key:?}, which appends it once"))
    })?;
    let entry = &appended.entry;
    match format {
        Format::Json => {
            let mut object = entry_json(&message.context_id, entry);
            object.insert("position".into(), appended.position.into());
            object.insert("term".into(), appended.term.into());
            object.insert("deduplicated".into(), appended.deduplicated.into());
            output::json(&Value::Object(object))
        }
        Format::Table => {
            let mut table = output::table(&["context", "sequence", "position", "id", "appended"]);
            table.add_row([
                output::shown(&message.context_id),
                entry.sequence.to_string(),
                appended.position.to_string(),
                entry.id.clone(),
                output::time(entry.appended_at_ns),
            ]);
            output::line(table.to_string())?;
            match appended.deduplicated {
                true => output::line("it was there already: the idempotency key was used before"),
                false => Ok(()),
            }
        }
    }
}

pub(super) fn random_key() -> String {
    format!("cli-{:032x}", rand::random::<u128>())
}

/// What became of the lines.
#[derive(Default)]
struct Tally {
    appended: u64,
    already_there: u64,
    refused: u64,
    latest: u64,
    /// The context's latest sequence when the first line was not found there.
    before: Option<u64>,
    /// Lines whose entries stand after those of later lines, and where the first of them is.
    out_of_order: u64,
    first_out_of_order: Option<String>,
    /// Appended since the last line that was there already.
    since: u64,
    first_since: Option<String>,
}

impl Tally {
    fn found(&mut self, sequence: u64) {
        self.already_there += 1;
        // What was appended just now, by an attempt whose answer was lost, has no lower sequence.
        if self.since > 0 && sequence < self.latest {
            self.out_of_order += std::mem::take(&mut self.since);
            let first = self.first_since.take();
            self.first_out_of_order = self.first_out_of_order.take().or(first);
        }
        self.latest = self.latest.max(sequence);
    }

    fn appended(&mut self, place: &str, sequence: u64) {
        self.appended += 1;
        self.since += 1;
        self.first_since.get_or_insert_with(|| place.to_owned());
        self.latest = self.latest.max(sequence);
    }
}

/// A file on its way into a context.
struct Import {
    client: Arc<Client>,
    lines: Lines,
    resume: bool,
    new: bool,
    tally: Tally,
}

/// What follows the lines in hand.
enum Then {
    /// Perhaps more.
    More,
    Over,
    Bad(Failure),
}

impl Import {
    async fn run(mut self, format: Format) -> Result<(), Failure> {
        let bar = progress(self.lines.size());
        let outcome = self.send(&bar).await;
        bar.finish_and_clear();
        self.tally.explain(self.lines.name());
        self.tally.report(format, self.lines.name())?;
        outcome.map_err(|failure| failure.with(self.tally.reached()))
    }

    /// Looks for many lines at once, as long as they are there; what comes behind is sent.
    async fn send(&mut self, bar: &ProgressBar) -> Result<(), Failure> {
        let mut window = 1;
        loop {
            let (batch, then) = take(&mut self.lines, window).await;
            let there = self.find(&batch).await?;
            for (line, sequence) in batch.iter().zip(&there) {
                self.tally.found(*sequence);
                show(bar, &self.tally, line);
            }
            if there.len() < batch.len() {
                return self.send_rest(batch[there.len()..].to_vec(), then, bar).await;
            }
            match then {
                Then::More => {}
                Then::Over => return Ok(()),
                Then::Bad(failure) => return Err(failure),
            }
            if there.len() == window {
                window = (window * 2).min(PROBES_MAX);
            }
        }
    }

    /// Sends these lines, and all that come behind them.
    async fn send_rest(&mut self, lines: Vec<Line>, then: Then, bar: &ProgressBar) -> Result<(), Failure> {
        let mut rest = Rest::new(lines, then);
        if !self.stream(&mut rest, bar).await? {
            for line in std::mem::take(&mut rest.lines) {
                self.append(&line, bar).await?;
            }
            while let Then::More = rest.then {
                match self.lines.next().await {
                    Ok(Some(line)) => self.append(&line, bar).await?,
                    Ok(None) => rest.then = Then::Over,
                    Err(failure) => rest.then = Then::Bad(failure),
                }
            }
        }
        match rest.then {
            Then::Bad(failure) => Err(failure),
            Then::More | Then::Over => Ok(()),
        }
    }

    /// The sequences of the lines that are there, up to the first that is not.
    async fn find(&mut self, batch: &[Line]) -> Result<Vec<u64>, Failure> {
        let mut calls = JoinSet::new();
        for (at, line) in batch.iter().enumerate() {
            let (client, line) = (self.client.clone(), line.clone());
            calls.spawn(async move {
                let answer = client.append(&line.message, &line.key, Some(NO_SEQUENCE)).await;
                (at, answer)
            });
        }
        let mut there = vec![None; batch.len()];
        let mut latest = 0;
        while let Some(answer) = calls.join_next().await {
            let (at, answer) = answer.map_err(|error| Failure::error(error.to_string()))?;
            match answer {
                Ok(appended) => there[at] = Some(appended.entry.sequence),
                Err(failure) if failure.code() == Some(Code::FailedPrecondition) => {
                    latest = failure.actual().unwrap_or(latest);
                }
                // Refused for what it is: `append` says so when its turn comes.
                Err(failure) if failure.kind() == Kind::Error && failure.code().is_some() => {}
                Err(failure) => return Err(of_line(&failure, &batch[at])),
            }
        }
        if let [None, ..] = there[..]
            && self.tally.already_there == 0
        {
            self.tally.before = Some(latest);
            if self.resume && latest > 0 {
                return Err(not_begun(&batch[0], latest));
            }
            if !self.new && latest > 0 {
                self.remembers(&batch[0], latest).await?;
            }
        }
        Ok(there.into_iter().map_while(|sequence| sequence).collect())
    }

    /// Whether the cluster knows the keys of all its entries: where it has forgotten some, the file's may be among them.
    async fn remembers(&self, line: &Line, latest: u64) -> Result<(), Failure> {
        let status = status::ask(&self.client, self.client.preferred()).await?;
        if status.last_position < status.key_window {
            return Ok(());
        }
        let Line { place, message, .. } = line;
        Err(Failure::new(
            Kind::Precondition,
            format!(
                "{place}: whether this entry is among the {latest} of {:?} cannot be told: the cluster knows idempotency keys \
                 for {} positions, and has {}; nothing was appended; look at what the context holds, and if the file was \
                 never appended to it, run the command with --new",
                message.context_id, status.key_window, status.last_position
            ),
        ))
    }

    async fn append(&mut self, line: &Line, bar: &ProgressBar) -> Result<(), Failure> {
        match self.client.append(&line.message, &line.key, None).await {
            Ok(Appended { entry, deduplicated, .. }) => {
                match deduplicated {
                    true => self.tally.found(entry.sequence),
                    false => self.tally.appended(&line.place, entry.sequence),
                }
                show(bar, &self.tally, line);
                Ok(())
            }
            Err(failure) => {
                if failure.kind() != Kind::Unavailable {
                    self.tally.refused += 1;
                }
                Err(of_line(&failure, line))
            }
        }
    }
}

/// The next line, and up to `count` in all of those that are there already; what is wrong after them is told later.
async fn take(lines: &mut Lines, count: usize) -> (Vec<Line>, Then) {
    let mut batch = Vec::new();
    let mut next = lines.next().await;
    loop {
        match next {
            Ok(Some(line)) => batch.push(line),
            Ok(None) => return (batch, Then::Over),
            Err(failure) => return (batch, Then::Bad(failure)),
        }
        if batch.len() == count {
            return (batch, Then::More);
        }
        next = match lines.in_hand().await {
            Some(next) => next,
            None => return (batch, Then::More),
        };
    }
}

fn of_line(failure: &Failure, line: &Line) -> Failure {
    let next = match failure.code() {
        Some(Code::InvalidArgument | Code::ResourceExhausted) if failure.kind() == Kind::Error => {
            "nothing after this line was written: correct it and run the command again, which appends only what is missing"
        }
        _ => "run the command again, which appends only what is missing, to go on from here",
    };
    let why = match failure.code() {
        Some(_) if failure.kind() == Kind::Unavailable => failure.why().to_owned(),
        _ => failure.to_string(),
    };
    Failure::new(failure.kind(), format!("{}: {why}; {next}", line.place))
}

fn not_begun(line: &Line, latest: u64) -> Failure {
    let Line { place, message, .. } = line;
    Failure::new(
        Kind::Precondition,
        format!(
            "{place}: this entry is not known to be in {:?}, which has {latest}: nothing was appended; look at what the \
             context holds, and leave out --resume if the file was never appended to it",
            message.context_id
        ),
    )
}

/// A bar on a terminal; with bytes of a file as its length, so that it is known.
fn progress(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {bytes}/{total_bytes} {msg}, ETA {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    bar
}

fn show(bar: &ProgressBar, tally: &Tally, line: &Line) {
    if bar.is_hidden() {
        return;
    }
    let lines = tally.appended + tally.already_there;
    let rate = lines * 1000 / u64::try_from(bar.elapsed().as_millis()).unwrap_or(1).max(1);
    bar.set_message(format!("{lines} lines, {rate}/s"));
    bar.set_position(line.end);
}

impl Tally {
    /// How far the file has come.
    fn reached(&self) -> String {
        match self.appended + self.already_there {
            0 => "no entry of it is acknowledged".to_owned(),
            1 => "its first entry is acknowledged".to_owned(),
            entries => format!("its first {entries} entries are acknowledged"),
        }
    }

    /// What a reader of the numbers might not expect.
    fn explain(&self, file: &str) {
        if let Some(before @ 1..) = self.before
            && self.already_there == 0
            && self.appended > 0
        {
            output::note(format!(
                "note: the context had entries up to {before} before, and none of {file}'s: if some of it had been \
                 appended before in another form, it is there twice now; next time, --resume refuses that"
            ));
        }
        if let Some(first) = &self.first_out_of_order {
            output::note(format!(
                "note: entries of {} lines, the first of them {first}, stand after those of later lines, which were \
                 there already: a context only grows at its end; if those were not of this file, name it with --source",
                self.out_of_order
            ));
        }
    }

    fn report(&self, format: Format, file: &str) -> Result<(), Failure> {
        let Tally { appended, already_there, refused, latest, before, out_of_order, .. } = self;
        match format {
            Format::Json => output::json(&json!({
                "file": file,
                "appended": appended,
                "already_there": already_there,
                "refused": refused,
                "latest_sequence": latest,
                "entries_before": before,
                "out_of_order": out_of_order,
            })),
            Format::Table => {
                output::line(format!("{file}: {appended} appended, {already_there} already there, {refused} refused"))
            }
        }
    }
}
