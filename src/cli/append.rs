//! `append`: one entry, or the lines of a file, in their order.
//!
//! A file is sent line by line: the next line leaves when the last one is
//! durable, so that lines commit in file order whatever breaks in between. What
//! an earlier run has appended is found first, many lines at a time, with calls
//! that cannot write: appends that expect a sequence that no context has. A
//! line that is there already answers such a call with its entry, any other
//! line is refused.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use converge_ledger::api::grpc::pb::context::AppendRequest;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Code;

use super::client::{Appended, Client};
use super::lines::{Line, Lines};
use super::{Failure, Format, Global, Kind, output};

/// Lines looked for at once, at most.
const PROBES_MAX: usize = 64;
/// No context has this sequence: an append that expects it writes nothing.
const NO_SEQUENCE: u64 = u64::MAX;

#[derive(Debug, Args)]
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
    /// JSON lines: `key`, `payload` or `payload_base64`, `metadata`; `-` is
    /// stdin. Run it again after a crash: it appends only what is missing.
    #[arg(long, value_name = "FILE|-")]
    from: Option<PathBuf>,
    /// A pair of the entry's metadata; repeat it for more.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair, conflicts_with = "from")]
    metadata: Vec<(String, String)>,
    /// One entry per key and context, however often it is sent.
    #[arg(long, conflicts_with = "from", value_parser = parse_key)]
    idempotency_key: Option<String>,
    /// Append only when this is the context's latest sequence.
    #[arg(long, conflicts_with = "from")]
    expected_sequence: Option<u64>,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a pair is written name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_key(text: &str) -> Result<String, String> {
    match text.len() {
        1..=1024 if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) => Ok(text.to_owned()),
        _ => Err("a key is 1 to 1024 printable ASCII characters".into()),
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    match &arguments.from {
        Some(path) => {
            let lines = Lines::open(path, &arguments.context).await?;
            append_lines(global.output, client, lines).await
        }
        None => append_one(global.output, &client, arguments).await,
    }
}

async fn append_one(format: Format, client: &Client, given: Arguments) -> Result<(), Failure> {
    let message = AppendRequest {
        context_id: given.context,
        key: given.key.unwrap_or_default(),
        payload: given.payload.unwrap_or_default().into(),
        metadata: given.metadata.into_iter().collect(),
    };
    // A key of our own makes the client's retries safe.
    let key = given.idempotency_key.unwrap_or_else(random_key);
    let appended = client.append(&message, &key, given.expected_sequence).await?;
    let entry = &appended.entry;
    match format {
        Format::Json => {
            let mut object = output::entry_json(&message.context_id, entry);
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

fn random_key() -> String {
    format!("cli-{:032x}", rand::random::<u128>())
}

/// What became of the lines.
#[derive(Default)]
struct Tally {
    appended: u64,
    already_there: u64,
    refused: u64,
    latest: u64,
}

async fn append_lines(format: Format, client: Client, mut lines: Lines) -> Result<(), Failure> {
    let bar = progress(lines.size());
    let mut tally = Tally::default();
    let outcome = send(&Arc::new(client), &mut lines, &mut tally, &bar).await;
    bar.finish_and_clear();
    let name = lines.name().to_owned();
    report(format, &name, &tally)?;
    outcome
}

/// Looks for what is there, then appends the rest, one line after the other.
async fn send(client: &Arc<Client>, lines: &mut Lines, tally: &mut Tally, bar: &ProgressBar) -> Result<(), Failure> {
    let mut window = 1;
    loop {
        let (batch, bad) = take(lines, window).await;
        let there = probe(client, &batch, lines.name()).await?;
        for (line, sequence) in batch.iter().zip(&there) {
            tally.already_there += 1;
            tally.latest = *sequence;
            show(bar, tally, line);
        }
        for line in &batch[there.len()..] {
            append_line(client, line, lines.name(), tally).await?;
            show(bar, tally, line);
        }
        bad?;
        if batch.len() < window {
            return Ok(());
        }
        if there.len() < batch.len() {
            break;
        }
        window = (window * 2).min(PROBES_MAX);
    }
    while let Some(line) = lines.next().await? {
        append_line(client, &line, lines.name(), tally).await?;
        show(bar, tally, &line);
    }
    Ok(())
}

/// Up to `count` lines, and what is wrong with the one after them.
async fn take(lines: &mut Lines, count: usize) -> (Vec<Line>, Result<(), Failure>) {
    let mut batch = Vec::new();
    while batch.len() < count {
        match lines.next().await {
            Ok(Some(line)) => batch.push(line),
            Ok(None) => break,
            Err(failure) => return (batch, Err(failure)),
        }
    }
    (batch, Ok(()))
}

/// The sequences of the lines that are there, up to the first that is not.
async fn probe(client: &Arc<Client>, batch: &[Line], file: &str) -> Result<Vec<u64>, Failure> {
    let mut calls = JoinSet::new();
    for (at, line) in batch.iter().enumerate() {
        let (client, line) = (client.clone(), line.clone());
        calls.spawn(async move {
            let answer = client.append(&line.message, &line.key, Some(NO_SEQUENCE)).await;
            (at, answer)
        });
    }
    let mut there = vec![None; batch.len()];
    while let Some(answer) = calls.join_next().await {
        let (at, answer) = answer.map_err(|error| Failure::error(error.to_string()))?;
        match answer {
            Ok(appended) => there[at] = Some(appended.entry.sequence),
            Err(failure) if failure.code() == Some(Code::FailedPrecondition) => {}
            // Refused for what it is: append_line says so when its turn comes.
            Err(failure) if failure.kind() == Kind::Error && failure.code().is_some() => {}
            Err(failure) => return Err(of_line(&failure, file, &batch[at])),
        }
    }
    Ok(there.into_iter().map_while(|sequence| sequence).collect())
}

async fn append_line(client: &Client, line: &Line, file: &str, tally: &mut Tally) -> Result<(), Failure> {
    match client.append(&line.message, &line.key, None).await {
        Ok(Appended { entry, deduplicated, .. }) => {
            match deduplicated {
                true => tally.already_there += 1,
                false => tally.appended += 1,
            }
            tally.latest = entry.sequence;
            Ok(())
        }
        Err(failure) => {
            if failure.kind() != Kind::Unavailable {
                tally.refused += 1;
            }
            Err(of_line(&failure, file, line))
        }
    }
}

fn of_line(failure: &Failure, file: &str, line: &Line) -> Failure {
    let next = "nothing after this line was sent; run the command again to go on from here";
    let number = line.number;
    Failure::new(failure.kind(), format!("{file}:{number}: {failure}; {next}"))
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

fn report(format: Format, file: &str, tally: &Tally) -> Result<(), Failure> {
    let Tally { appended, already_there, refused, latest } = tally;
    match format {
        Format::Json => output::json(&json!({
            "file": file,
            "appended": appended,
            "already_there": already_there,
            "refused": refused,
            "latest_sequence": latest,
        })),
        Format::Table => {
            output::line(format!("{file}: {appended} appended, {already_there} already there, {refused} refused"))
        }
    }
}
