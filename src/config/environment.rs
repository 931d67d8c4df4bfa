//! The environment's settings: which variables are ours, and which one was meant.

use std::collections::BTreeSet;

use figment::Provider as _;
use figment::providers::Serialized;
use figment::value::{Dict, Value};

use super::address::check_text;
use super::load::is_parsed;
use super::{Config, ConfigError};

/// Prefix of the environment's settings: `CONVERGE_LEDGER__SECTION__KEY`.
const PREFIX: &str = "CONVERGE_LEDGER__";
/// What begins like this is meant for us.
const OURS: &str = "CONVERGE_LEDGER_";
/// The old service's variable: the port of `listen.grpc`.
pub(super) const GRPC_PORT: &str = "GRPC_PORT";
/// Variables of the command line.
const COMMAND_LINE: [&str; 1] = ["CONVERGE_LEDGER_ENDPOINT"];
/// No value has so many lists and tables in it: their depth is the depth of a recursion.
const NESTING_MAX: usize = 16;
/// For a longer name nobody knows which one was meant.
const NAME_BYTES_MAX: usize = 128;

pub(super) type Settings = Vec<(String, String)>;

/// Whether a variable is for us to read.
pub(super) fn is_ours(name: &str) -> bool {
    name == GRPC_PORT || name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS))
}

/// The variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// What a variable is for.
enum Purpose {
    /// Nothing that a node is set by.
    Other,
    GrpcPort,
    /// The setting of this key.
    Setting(String),
}

/// Finds out what a variable is for; one that is not known was meant to be another one. An empty value is one that is
/// not set.
fn purpose(name: &str, value: &str, keys: &BTreeSet<String>) -> Result<Purpose, ConfigError> {
    if value.is_empty() || !is_ours(name) || COMMAND_LINE.contains(&name) {
        return Ok(Purpose::Other);
    }
    if name == GRPC_PORT {
        return Ok(Purpose::GrpcPort);
    }
    let Some(key) = name.strip_prefix(PREFIX) else {
        return if is_service_link(name, value) { Ok(Purpose::Other) } else { Err(unknown(name, keys)) };
    };
    let key = key.to_lowercase().replace("__", ".");
    if key.split('.').any(str::is_empty) {
        return Err(malformed(format!("{name} names no key; a variable is called {PREFIX}SECTION__KEY")));
    }
    if keys.contains(&key) { Ok(Purpose::Setting(key)) } else { Err(unknown(name, keys)) }
}

/// Checks the names alone.
pub(super) fn check_names(environment: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
    let keys = keys();
    environment.into_iter().try_for_each(|(name, value)| purpose(&name, &value, &keys).map(drop))
}

/// The environment's settings as (`section.key`, value), and the value of `GRPC_PORT`.
pub(super) fn split(
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Settings, Option<u16>), ConfigError> {
    let mut settings = Vec::new();
    let mut port = None;
    let keys = keys();
    for (name, value) in environment {
        let key = match purpose(&name, &value, &keys)? {
            Purpose::Other => continue,
            Purpose::GrpcPort => {
                port = Some(grpc_port(value)?);
                continue;
            }
            Purpose::Setting(key) => key,
        };
        check_text(&value).map_err(|why| malformed(format!("{key} = {value:?} (variable {name}): {why}")))?;
        if is_parsed(&key, &value) && value.bytes().filter(|b| matches!(b, b'[' | b'{')).count() > NESTING_MAX {
            return Err(malformed(format!("{key} (variable {name}) holds more lists and tables than any setting")));
        }
        settings.push((key, value));
    }
    settings.sort();
    Ok((settings, port))
}

fn grpc_port(value: String) -> Result<u16, ConfigError> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or_else(|| ConfigError::Impossible {
        key: GRPC_PORT,
        value,
        bound: "a port is a number from 0 to 65535".into(),
        given_in: None,
    })
}

/// Kubernetes tells each container where each service is: one called `converge-ledger…` makes variables like ours.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // …_PORT_7001_TCP, …_PORT_7001_TCP_ADDR
    let is_detail = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let (port, protocol) = rest.split_once('_').unwrap_or_default();
        is_port(port) && ["TCP", "UDP", "SCTP"].iter().any(|known| protocol.starts_with(known))
    });
    is_detail
        || name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && value.contains("://")
}

/// Every key that a variable can set, sections included.
fn keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    if let Ok(profiles) = Serialized::defaults(Config::default()).data() {
        profiles.values().for_each(|dict| collect(dict, "", &mut keys));
    }
    keys
}

fn collect(dict: &Dict, section: &str, keys: &mut BTreeSet<String>) {
    for (name, value) in dict {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        if let Value::Dict(_, inner) = value {
            collect(inner, &key, keys);
        }
        keys.insert(key);
    }
}

/// Names the variable that was meant.
fn unknown(name: &str, keys: &BTreeSet<String>) -> ConfigError {
    // A section is no setting: what is in it is.
    let is_section =
        |key: &str| keys.iter().any(|other| other.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
    let named = keys.iter().filter(|key| !is_section(key)).map(|key| variable(key));
    let known = named.chain(COMMAND_LINE.map(str::to_owned));
    let given = plain(name);
    let nearest = known.map(|known| (distance(&given, &plain(&known)), known)).min();
    let meant = match nearest.filter(|_| name.len() <= NAME_BYTES_MAX) {
        Some((_, known)) => format!("the nearest one is {known}"),
        None => format!("a variable is called {PREFIX}SECTION__KEY"),
    };
    let key = name.strip_prefix(PREFIX).map(|key| format!(" ({})", key.to_lowercase().replace("__", ".")));
    malformed(format!("unknown variable {name}{} in the environment; {meant}", key.unwrap_or_default()))
}

/// Without what is easily got wrong.
fn plain(name: &str) -> String {
    let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
    shown.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_").to_uppercase()
}

/// Levenshtein's: insertions, deletions and replacements from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, of) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (at, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(of != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

fn malformed(message: String) -> ConfigError {
    ConfigError::Malformed { message }
}
