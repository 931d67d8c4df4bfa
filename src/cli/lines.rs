//! The lines of `append --from`: what they mean, and the key of each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use converge_ledger::api::grpc::pb::context::AppendRequest;
use serde::Deserialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::Failure;

/// The longest line: a payload at its limit, every byte escaped, and some more.
const LINE_BYTES_MAX: u64 = 32 << 20;

/// One line of a file, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its message.
    pub(crate) message: AppendRequest,
    /// Names this line of this text at this place: appended once, however often
    /// the file is sent, and also when the file has grown.
    pub(crate) key: String,
    /// Counts from 1, blank lines included.
    pub(crate) number: u64,
    /// Bytes of the file up to its end.
    pub(crate) end: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    key: String,
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// A file, or stdin, line by line.
pub(crate) struct Lines {
    name: String,
    context_id: String,
    input: Box<dyn AsyncBufRead + Unpin + Send>,
    number: u64,
    read: u64,
    size: Option<u64>,
}

impl Lines {
    /// Opens a file; `-` is stdin.
    pub(crate) async fn open(path: &Path, context_id: &str) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            let input = Box::new(BufReader::new(tokio::io::stdin()));
            return Ok(Lines::new("stdin".into(), context_id, input, None));
        }
        let failed = |error| {
            let file = path.display();
            Failure::error(format!("cannot read {file}: {error}; check --from"))
        };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        let size = metadata.is_file().then_some(metadata.len());
        let input = Box::new(BufReader::with_capacity(256 << 10, file));
        let name = PathBuf::from(path).display().to_string();
        Ok(Lines::new(name, context_id, input, size))
    }

    pub(crate) fn new(
        name: String,
        context_id: &str,
        input: Box<dyn AsyncBufRead + Unpin + Send>,
        size: Option<u64>,
    ) -> Self {
        Lines { name, context_id: context_id.to_owned(), input, number: 0, read: 0, size }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the whole input, where that is known.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// The next line that is not blank.
    pub(crate) async fn next(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            let mut bytes = Vec::new();
            let mut bounded = (&mut self.input).take(LINE_BYTES_MAX + 1);
            let read = bounded.read_until(b'\n', &mut bytes).await;
            self.number += 1;
            let read = read.map_err(|error| self.bad(&format!("cannot be read: {error}")))?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 > LINE_BYTES_MAX {
                return Err(self.bad(&format!("is longer than {LINE_BYTES_MAX} bytes")));
            }
            self.read += read as u64;
            let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if !text.iter().all(u8::is_ascii_whitespace) {
                return self.line(text).map(Some);
            }
        }
    }

    fn line(&self, text: &[u8]) -> Result<Line, Failure> {
        let fields: Fields = serde_json::from_slice(text).map_err(|error| self.bad(&error.to_string()))?;
        let payload = match (fields.payload, fields.payload_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => {
                BASE64_STANDARD.decode(base64).map_err(|error| self.bad(&format!("payload_base64: {error}")))?
            }
            (None, None) => return Err(self.bad("has neither payload nor payload_base64")),
            (Some(_), Some(_)) => return Err(self.bad("has both payload and payload_base64")),
        };
        Ok(Line {
            message: AppendRequest {
                context_id: self.context_id.clone(),
                key: fields.key,
                payload: payload.into(),
                metadata: fields.metadata,
            },
            key: key(self.number, text),
            number: self.number,
            end: self.read,
        })
    }

    /// The current line is not usable.
    fn bad(&self, why: &str) -> Failure {
        Failure::error(format!(
            "{}:{}: {why}; nothing from this line on was sent: correct it and run the command \
             again, which appends only what is missing",
            self.name, self.number
        ))
    }
}

/// The idempotency key of a line.
pub(crate) fn key(number: u64, text: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"converge-ledger line 1");
    hasher.update(&number.to_le_bytes());
    hasher.update(text);
    format!("line-{}", hasher.finalize().to_hex())
}
