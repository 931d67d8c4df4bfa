//! `get`: the entries of a context. Those of all are `all`'s.

use crate::api::grpc::names;
use crate::api::grpc::pb::context::{Entry, GetRequest, GetResponse};
use crate::api::grpc::pb::ledger;
use clap::{Args, ValueEnum};
use comfy_table::Table;
use serde_json::Value;
use tonic::Code;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::all::{self, Wanted};
use super::client::{Call, Client};
use super::lines::entry::entry_json;
use super::retry::Patience;
use super::{Failure, Format, Global, Kind, any_number, number, output};

/// Entries of the first page; the next ones are as large as fits best.
const PAGE_FIRST: u32 = 1_000;
const PAGE_MAX: u32 = 50_000;
/// What a page should come to: far less than a node's answer may have.
const PAGE_BYTES: usize = 8 << 20;
/// What an entry has beside key and payload.
const ENTRY_BYTES: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The context to read.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new(), required_unless_present = "all")]
    context: Option<String>,
    /// Read all contexts, in the order of positions.
    #[arg(long, conflicts_with = "context")]
    all: bool,
    /// With --all: the newest entry first.
    #[arg(long, requires = "all", conflicts_with = "context")]
    reverse: bool,
    /// Only entries after this sequence, or position with --all: what comes next in the direction of reading.
    #[arg(long, default_value_t = 0, value_parser = any_number, allow_negative_numbers = true)]
    after: u64,
    /// At most this many entries; 0 for all.
    #[arg(long, default_value_t = 0, value_parser = number::<u32>(0..=u32::MAX.into()), allow_negative_numbers = true)]
    limit: u32,
    /// Only entries with this key.
    #[arg(long, default_value = "")]
    key: String,
    /// What the read promises.
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    consistency: Consistency,
    /// Only of a node that has applied the entry at this position: with `--consistency stale` it asks no other node.
    #[arg(long, default_value_t = 0, value_parser = any_number, allow_negative_numbers = true)]
    min_position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// Sees every append acknowledged before.
    Linearizable,
    /// As linearizable.
    Lease,
    /// What the node has, also when it is cut off.
    Stale,
}

impl Consistency {
    fn name(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Lease => "lease",
            Consistency::Stale => "stale",
        }
    }

    pub(super) fn number(self) -> i32 {
        i32::from(match self {
            Consistency::Linearizable => ledger::Consistency::Linearizable,
            Consistency::Lease => ledger::Consistency::Lease,
            Consistency::Stale => ledger::Consistency::Stale,
        })
    }
}

/// Prints page by page: a context may be larger than an answer, and than memory.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let Some(context_id) = arguments.context.clone() else {
        let Arguments { after, limit, key, reverse, consistency, min_position, .. } = arguments;
        return all::get(global, Wanted { after, limit, key, reverse, consistency, min_position }).await;
    };
    let client = global.client()?.slow();
    let mut pages = Pages::new(context_id.clone(), arguments);
    let mut entries_shown = 0_u64;
    let mut table = output::table(&["sequence", "appended", "key", "payload", "metadata"]);
    while let Some(entries) = pages.next(&client).await? {
        match global.output {
            Format::Json => print_json(&context_id, entries_shown, &entries)?,
            Format::Table => entries.iter().for_each(|entry| add_row(&mut table, entry)),
        }
        entries_shown += entries.len() as u64;
    }
    let latest = pages.latest.unwrap_or_default();
    match global.output {
        Format::Json => output::line(format!("],\"latest_sequence\":{latest}}}")),
        Format::Table => {
            output::line(table.to_string())?;
            output::line(format!("{entries_shown} entries; the latest sequence is {latest}"))
        }
    }
}

/// What the context held when its first page was read, page by page.
struct Pages {
    request: GetRequest,
    extra: MetadataMap,
    /// Of all entries; 0 for no bound.
    limit: u32,
    entries: u32,
    page: u32,
    latest: Option<u64>,
    is_over: bool,
}

impl Pages {
    fn new(context_id: String, arguments: Arguments) -> Self {
        let mut extra = MetadataMap::new();
        extra.insert(names::CONSISTENCY, MetadataValue::from_static(arguments.consistency.name()));
        if arguments.min_position > 0 {
            extra.insert(names::MIN_POSITION, arguments.min_position.into());
        }
        let request = GetRequest { context_id, key: arguments.key, after_sequence: arguments.after, limit: 0 };
        Pages { request, extra, limit: arguments.limit, entries: 0, page: PAGE_FIRST, latest: None, is_over: false }
    }

    /// The next entries; `None` past the last of those that the first page knew of.
    async fn next(&mut self, client: &Client) -> Result<Option<Vec<Entry>>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let response = self.read(client).await?;
        let latest = *self.latest.get_or_insert(response.latest_sequence);
        let (mut entries, asked) = (response.entries, self.request.limit);
        let read = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let last = entries.last().map_or(u64::MAX, |entry| entry.sequence);
        let bytes: usize = entries.iter().map(|entry| entry.key.len() + entry.payload.len() + ENTRY_BYTES).sum();
        self.entries = self.entries.saturating_add(read);
        self.is_over = read < asked || last >= latest || self.entries == self.limit;
        self.request.after_sequence = last;
        let fit = PAGE_BYTES.saturating_mul(entries.len()) / bytes.max(1);
        self.page = u32::try_from(fit).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        // What came in since belongs to the next command.
        entries.retain(|entry| entry.sequence <= latest);
        Ok(Some(entries))
    }

    /// One page: as many entries as fit into an answer, of a node that has what the first page showed.
    async fn read(&mut self, client: &Client) -> Result<GetResponse, Failure> {
        let mut patience = Patience::new(client.timeout());
        loop {
            self.request.limit = match self.limit {
                0 => self.page,
                limit => self.page.min(limit - self.entries),
            };
            let answer = client
                .call(Call::Read("get"), &self.extra, &self.request, |mut node, request| async move {
                    node.context.get(request).await
                })
                .await;
            match answer {
                Err(failure) if is_too_large(&failure) && self.request.limit > 1 => self.page = self.request.limit / 2,
                Err(failure) => return Err(failure),
                Ok(response) => {
                    let (response, latest) = (response.into_inner(), self.latest.unwrap_or(0));
                    if response.latest_sequence >= latest {
                        return Ok(response);
                    }
                    client.turn_away();
                    if !patience.pause(None).await {
                        let has = response.latest_sequence;
                        return Err(Failure::new(
                            Kind::Unavailable,
                            format!(
                                "get: the nodes that answer have entries up to {has}, not yet up to {latest}; try again"
                            ),
                        ));
                    }
                }
            }
        }
    }
}

/// The answer is; a node that has too much to do says so otherwise.
fn is_too_large(failure: &Failure) -> bool {
    failure.code() == Some(Code::ResourceExhausted) && failure.kind() == Kind::Error
}

/// The entries, after so many others of one document on one line.
fn print_json(context_id: &str, shown: u64, entries: &[Entry]) -> Result<(), Failure> {
    let mut text = String::new();
    if shown == 0 {
        text = format!("{{\"context_id\":{},\"entries\":[", Value::from(context_id));
    }
    for (entry, number) in entries.iter().zip(shown..) {
        if number > 0 {
            text.push(',');
        }
        text += &Value::Object(entry_json(context_id, entry)).to_string();
    }
    output::bytes(text.as_bytes())
}

fn add_row(table: &mut Table, entry: &Entry) {
    table.add_row([
        entry.sequence.to_string(),
        output::time(entry.appended_at_ns),
        output::shown(&entry.key),
        output::payload(&entry.payload),
        output::metadata(&entry.metadata),
    ]);
}
