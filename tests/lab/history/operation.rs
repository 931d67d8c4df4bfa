//! The format of a history: what one line of it says.

use std::io::{self, BufRead, Read as _, Write};

use converge_ledger_core::{NodeId, Position, Sequence};
use serde::{Deserialize, Serialize, Serializer};

/// The longest line: the final state of a context with some million entries.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// Nanoseconds of one clock that all clients of the history share and that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

/// One operation, as the client that made it saw it; or what a node held in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Operation {
    /// What the ledger was formed with.
    Begin(Begin),
    /// One attempt to append an entry.
    Append(Append),
    /// A read that was answered. One that failed says nothing and is not recorded.
    Read(Read),
    /// What one subscription delivered.
    Watch(Watch),
    /// All of a context on one node, after the last fault healed and the nodes had converged.
    State(State),
    /// The run is over, and the states before this line are the whole ledger.
    End(End),
}

/// What the ledger was formed with. A history without it is one of a ledger that knows keys for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// An idempotency key is known for so many positions, that of its entry included.
    pub key_window: u64,
}

/// One attempt to append an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// Who made it; a label.
    pub client: u64,
    /// Before the request left.
    pub start: Time,
    /// After the answer came; none when none came.
    pub end: Option<Time>,
    /// Where it was to be appended.
    pub context: String,
    /// What the client meant to write, unique in the context. Retries of one entry share it, and must share an
    /// idempotency key.
    pub value: String,
    /// The idempotency key, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The expected latest sequence, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Sequence>,
    /// What was given before it in the same call, where it was one of many: without that it is not in the ledger. Every
    /// append of its value is behind the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<Behind>,
    /// How it ended.
    pub outcome: Outcome,
}

/// An entry that comes before another one of its call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behind {
    /// Where it was to be appended.
    pub context: String,
    /// What it means.
    pub value: String,
}

/// How an append ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Acknowledged.
    Done(Done),
    /// Nothing was written.
    Refused(Refused),
    /// It may be written at any time from its start on, after its end too, or never.
    Unknown,
}

/// Where an acknowledged append stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Its place in the context.
    pub sequence: Sequence,
    /// Its place in the ledger, where the client was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// It stood there before this call.
    #[serde(default)]
    pub deduplicated: bool,
}

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// For people.
    pub reason: String,
    /// The context's latest sequence, when it was not the expected one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<Sequence>,
}

/// What a read promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// It sees every append that was acknowledged before it began.
    Linearizable,
    /// What some node had applied.
    Stale,
}

/// A read that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// Who made it; a label.
    pub client: u64,
    /// Before the request left.
    pub start: Time,
    /// After the answer came.
    pub end: Time,
    /// What was read.
    pub context: String,
    /// What it promised.
    pub consistency: Consistency,
    /// Entries behind this one were asked for.
    #[serde(default)]
    pub after: Sequence,
    /// The context's latest sequence, as the answer says.
    pub latest: Sequence,
    /// All entries behind `after`, in order; the first of them when `limited`.
    pub entries: Vec<Seen>,
    /// The answer may hold fewer entries than there are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub limited: bool,
}

/// What one subscription delivered, on any node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Who made it; a label.
    pub client: u64,
    /// Before it was asked for.
    pub start: Time,
    /// Not before the last entry came.
    pub end: Time,
    /// What was watched.
    pub context: String,
    /// Entries behind this one were asked for.
    #[serde(default)]
    pub after: Sequence,
    /// In the order in which they came.
    pub entries: Vec<Seen>,
}

/// All of a context on one node in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The node.
    pub node: NodeId,
    /// The context.
    pub context: String,
    /// Its entries in order, from the first one on.
    pub entries: Vec<Seen>,
}

/// The run is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The ledger's last position. The entries of the states are those at 1 to this one, none left out.
    pub position: Position,
}

/// An entry that somebody saw; on the line it is `[sequence, value, position or null]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "(Sequence, String, Option<Position>)")]
pub struct Seen {
    /// Its place in the context.
    pub sequence: Sequence,
    /// What it holds.
    pub value: String,
    /// Its place in the ledger, where it was told.
    pub position: Option<Position>,
}

impl From<(Sequence, String, Option<Position>)> for Seen {
    fn from((sequence, value, position): (Sequence, String, Option<Position>)) -> Self {
        Seen { sequence, value, position }
    }
}

impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.sequence, &self.value, self.position).serialize(serializer)
    }
}

impl Operation {
    /// Writes the operation as one line.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *to, self)?;
        to.write_all(b"\n")
    }
}

/// A history cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct ReadError {
    /// Counts from 1.
    pub line: u64,
    /// What is wrong there.
    pub cause: ReadCause,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadCause {
    /// The bytes cannot be had.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The line is not an operation.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// The line is longer than a history's lines are.
    #[error("longer than {LINE_BYTES_MAX} bytes")]
    Long,
}

/// Reads a history. Operation `n` of the result, counted from 0, is line `n + 1`: there are no blank lines.
///
/// # Errors
/// The first line that is not an operation.
pub fn read(mut from: impl BufRead) -> Result<Vec<Operation>, ReadError> {
    let mut operations = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let number = operations.len() as u64 + 1;
        let failed = |cause| ReadError { line: number, cause };
        let bytes = (&mut from).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
        match bytes.map_err(|error| failed(error.into()))? {
            0 => return Ok(operations),
            bytes if bytes as u64 > LINE_BYTES_MAX => return Err(failed(ReadCause::Long)),
            _ => operations.push(serde_json::from_slice(&line).map_err(|error| failed(error.into()))?),
        }
    }
}
