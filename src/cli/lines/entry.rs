//! An entry as one JSON object: one format for what `get`, `watch` and `append` print for programs and for what
//! `append --from` reads.
//!
//! Who appends gives `key`, `payload` or `payload_base64`, and `metadata`. What else is printed, the ledger assigned:
//! a copy gets its own, so these are taken and not used. No other name is, and none twice.

use std::collections::BTreeMap;
use std::fmt;

use crate::api::grpc::pb::context::{AppendRequest, Entry};
use base64::prelude::BASE64_STANDARD;
use base64::{DecodeError, Engine as _};
use converge_ledger_core::Limits;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value, json};

use super::scan::name_at_end;

/// An entry for programs: a payload that is text stands under `payload`, any other under `payload_base64`.
pub fn entry_json(context_id: &str, entry: &Entry) -> Map<String, Value> {
    let value = json!({
        "context_id": context_id,
        "sequence": entry.sequence,
        "id": entry.id,
        "key": entry.key,
        "appended_at_ns": entry.appended_at_ns,
        "metadata": entry.metadata,
    });
    let Value::Object(mut object) = value else {
        unreachable!("an object literal is an object");
    };
    match std::str::from_utf8(&entry.payload) {
        Ok(text) => object.insert("payload".into(), text.into()),
        Err(_) => object.insert("payload_base64".into(), BASE64_STANDARD.encode(&entry.payload).into()),
    };
    object
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what the ledger assigned is checked for its type, and not used")]
struct Fields {
    #[serde(default)]
    key: String,
    #[serde(default, deserialize_with = "text")]
    payload: Option<String>,
    #[serde(default, deserialize_with = "decoded")]
    payload_base64: Option<Vec<u8>>,
    #[serde(default, deserialize_with = "pairs")]
    metadata: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "text")]
    context_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    id: Option<String>,
    #[serde(default)]
    sequence: u64,
    #[serde(default)]
    appended_at_ns: u64,
    #[serde(default)]
    position: u64,
    #[serde(default)]
    term: u64,
    #[serde(default)]
    deduplicated: bool,
}

/// What `get` prints around its entries.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "they are checked, and not used")]
struct PageFields {
    #[serde(default, deserialize_with = "text")]
    context_id: Option<String>,
    entries: [(); 0],
    #[serde(default)]
    latest_sequence: u64,
}

/// Unlike an `Option` by itself, without `null`.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    String::deserialize(from).map(Some)
}

fn decoded<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
    let text = String::deserialize(from)?;
    BASE64_STANDARD.decode(&text).map(Some).map_err(|error| D::Error::custom(undecodable(&error, &text)))
}

/// With the character itself, and what the text may have been meant to be.
fn undecodable(error: &DecodeError, text: &str) -> String {
    let at = |offset: usize| match text.get(offset..).and_then(|rest| rest.chars().next()) {
        Some(found) => format!("the character {found:?} at {}", text[..offset].chars().count() + 1),
        None => "a character".to_owned(),
    };
    match error {
        DecodeError::InvalidByte(offset, b'-' | b'_') => {
            format!("{} is of the alphabet for URLs: write + for - and / for _", at(*offset))
        }
        DecodeError::InvalidByte(offset, b'=') => {
            format!("{} is one too many: = stands only where base64 ends, twice at most", at(*offset))
        }
        DecodeError::InvalidByte(offset, _) => {
            format!("{} is not of base64; a text as it stands belongs under payload", at(*offset))
        }
        DecodeError::InvalidLastSymbol(offset, _) => {
            format!("{} cannot be the last one of base64: is it whole?", at(*offset))
        }
        DecodeError::InvalidLength(length) => {
            format!("{length} characters of base64 are not whole bytes: is it whole?")
        }
        DecodeError::InvalidPadding => {
            "base64 whose length is no multiple of 4: fill it up with = at its end".to_owned()
        }
    }
}

fn pairs<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Pairs;

    impl<'de> Visitor<'de> for Pairs {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                if pairs.contains_key(&name) {
                    return Err(de::Error::custom(format_args!("`{name}` stands there twice")));
                }
                pairs.insert(name, map.next_value()?);
            }
            Ok(pairs)
        }
    }

    from.deserialize_map(Pairs)
}

/// Why some text is no entry, and up to which of its bytes it could have been one.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Bad {
    pub(in crate::cli) byte: usize,
    pub(in crate::cli) why: String,
}

/// The message that appends the entry.
pub(in crate::cli) fn parse(text: &[u8], context_id: &str) -> Result<AppendRequest, Bad> {
    let fields: Fields = object(text)?;
    let bad = |why: &str| Bad { byte: text.len(), why: why.to_owned() };
    let payload = match (fields.payload, fields.payload_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(bytes)) => bytes,
        (None, None) => return Err(bad("the entry has neither payload nor payload_base64")),
        (Some(_), Some(_)) => return Err(bad("the entry has both payload and payload_base64")),
    };
    // Those of the contract: no node takes more, and one may be set to take less.
    let limits = Limits::default();
    let checked = limits.check_content(&fields.key, &payload, &fields.metadata);
    checked.map_err(|error| bad(&error.to_string()))?;
    Ok(AppendRequest {
        context_id: context_id.to_owned(),
        key: fields.key,
        payload: payload.into(),
        metadata: fields.metadata,
    })
}

/// Checks what is around the entries of a page, which were cut out of it.
pub(super) fn check_page(text: &[u8]) -> Result<(), Bad> {
    object::<PageFields>(text).map(drop)
}

/// A JSON object, and nothing else.
pub(in crate::cli) fn object<'t, T: Deserialize<'t>>(text: &'t [u8]) -> Result<T, Bad> {
    if [[0xff, 0xfe], [0xfe, 0xff]].iter().any(|mark| text.starts_with(mark)) {
        let why = "the text is UTF-16: convert it to UTF-8, as `iconv -f UTF-16 -t UTF-8` does";
        return Err(Bad { byte: 1, why: why.to_owned() });
    }
    let start = text.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(text.len());
    // serde would also take an array of a type's fields.
    if text.get(start) != Some(&b'{') {
        let array = match text.get(start) {
            Some(b'[') => ", one on each line, as `jq -c '.[]'` writes an array",
            _ => "",
        };
        let why = format!("expected a JSON object such as {{\"key\":\"k\",\"payload\":\"text\"}}{array}");
        return Err(Bad { byte: start + 1, why });
    }
    serde_json::from_slice(text).map_err(|error| Bad { byte: error.column(), why: explained(&error, text) })
}

/// With the name whose value is wrong, and the usual reason.
fn explained(error: &serde_json::Error, text: &[u8]) -> String {
    let cause = cause(error).replace("expected u64", "expected a whole number");
    if error.is_eof() {
        return format!("{cause}: an entry stands on one line, as `jq -c .` writes it");
    }
    let name = text.get(..error.column()).and_then(name_at_end).filter(|_| error.is_data());
    match name {
        Some(name @ ("payload" | "payload_base64")) if cause.starts_with("invalid type: null") => {
            format!("{name}: {cause}: an empty payload is written \"payload\":\"\"")
        }
        Some("payload") => format!("payload: {cause}: JSON in it is written as a text, its quotes escaped"),
        Some(name) => format!("{name}: {cause}"),
        None => match misspelt(&cause) {
            Some(meant) => format!("{cause}; is {meant} meant?"),
            None => cause,
        },
    }
}

/// The name that was meant where serde says that it does not know one.
fn misspelt(cause: &str) -> Option<&'static str> {
    let (name, _) = cause.strip_prefix("unknown field `")?.split_once('`')?;
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    match plain(name) {
        given if given.contains("64") => Some("payload_base64"),
        given => {
            ["key", "payload", "metadata"].into_iter().find(|known| given == *known || given == format!("{known}s"))
        }
    }
}

/// What serde says, without a place: the text is one line of many.
pub fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// What an entry is, however it is written.
pub(super) fn content(message: &AppendRequest) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"converge-ledger entry 1");
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(message.context_id.as_bytes());
    part(message.key.as_bytes());
    part(&message.payload);
    for (name, value) in &message.metadata {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    hasher.finalize()
}

/// The idempotency key of an entry of a source that has so many equal ones before it.
pub(super) fn key(content: &blake3::Hash, equal_before: u32, source: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(content.as_bytes());
    hasher.update(&equal_before.to_le_bytes());
    hasher.update(source.as_bytes());
    format!("entry-{}", hasher.finalize().to_hex())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            key in ".*",
            payload in prop_oneof![any::<Vec<u8>>(), ".*".prop_map(String::into_bytes)],
            metadata in prop::collection::btree_map(".*", ".*", 0..4),
            sequence: u64,
        ) {
            let id = "0".repeat(32);
            let entry = Entry { id, key, payload: payload.into(), sequence, appended_at_ns: sequence, metadata };
            let line = Value::Object(entry_json("there", &entry)).to_string();
            prop_assert!(!line.contains('\n'), "one line");
            let message = parse(line.as_bytes(), "here").unwrap();
            let Entry { key, payload, metadata, .. } = entry;
            prop_assert_eq!(message, AppendRequest { context_id: "here".into(), key, payload, metadata });
        }

        #[test]
        fn any_text_is_an_entry_or_named(text in "[{}\\[\\]\",:a\\\\0 ]{0,40}") {
            if let Err(Bad { byte, why }) = parse(text.as_bytes(), "here") {
                prop_assert!(byte <= text.len() + 1 && !why.is_empty());
            }
        }
    }
}
