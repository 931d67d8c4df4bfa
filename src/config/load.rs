//! File, environment, flags: where settings come from, and who wins.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind};
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::{GRPC_PORT, Settings, check_names, is_ours, split, variable};
use super::validate::possible;
use super::{Config, ConfigError, parse_peer};

/// A configuration file larger than this is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Settings whose text must stay text, whatever it looks like.
const TEXTS: [&str; 5] = ["node.data_dir", "listen.grpc", "listen.peer", "cluster.name", "cluster.peers"];

/// How figment calls the source that variables are.
const ENVIRONMENT: &str = "the environment";

/// Settings given as flags; they win over everything else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `node.id`
    pub node_id: Option<u64>,
    /// `node.data_dir`
    pub data_dir: Option<PathBuf>,
    /// `listen.grpc`
    pub grpc: Option<String>,
    /// `listen.peer`
    pub peer: Option<String>,
    /// `cluster.peers`
    pub peers: Option<Vec<String>>,
}

/// This process's variables that are for us.
fn variables() -> impl Iterator<Item = (String, OsString)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| is_ours(name))
}

impl Config {
    /// Reads the file, where there is one, this process's environment and the
    /// flags, and checks the result.
    pub fn load(file: Option<&Path>, flags: Overrides) -> Result<Config, ConfigError> {
        let read = |(name, value): (String, OsString)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(malformed(format!("variable {name} is not valid UTF-8"))),
        };
        Config::load_from(file, variables().map(read).collect::<Result<Vec<_>, _>>()?, flags)
    }

    /// Checks the names of this process's variables as a start would: one that is misspelt would change nothing, and
    /// say nothing. What their values are is all the same to a command that takes none of a node's settings from them.
    ///
    /// # Errors
    /// Names the variable that is not known and the one that was meant.
    pub fn check_environment() -> Result<(), ConfigError> {
        check_names(variables().map(|(name, value)| (name, value.to_string_lossy().into_owned())))
    }

    /// As [`Config::load`], with the environment given.
    pub fn load_from(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Overrides,
    ) -> Result<Config, ConfigError> {
        let file = file.map(|path| Ok((format!("file {path:?}"), read(path)?))).transpose()?;
        Config::from_sources(file, environment, flags)
    }

    /// As [`Config::load_from`], with the name and the text of the file given.
    pub(crate) fn from_sources(
        file: Option<(String, String)>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Overrides,
    ) -> Result<Config, ConfigError> {
        let (settings, port) = split(environment)?;
        let mut from_file = Figment::new();
        if let Some((name, text)) = file {
            from_file = from_file.merge(Named { name, inner: Toml::string(&text) });
        }
        let sources = Sources { given: from_file.merge(Environment(settings.clone())), settings, port, flags };
        let Sources { given, flags, .. } = &sources;
        let grpc_is_explicit = flags.grpc.is_some() || sources.settings.iter().any(|(key, _)| key == "listen.grpc");
        let peer_is_given = flags.peer.is_some() || given.find_value("listen.peer").is_ok();
        let figment = Figment::from(Serialized::defaults(Config::default())).merge(given.clone());
        let mut config: Config = figment.extract().map_err(|error| sources.explain(&error))?;
        flags.apply(&mut config);
        if !peer_is_given {
            config.listen_as_listed();
        }
        if let Some(port) = port
            && !grpc_is_explicit
        {
            config.listen.set_grpc_port(port);
        }
        config.validate().map_err(|error| sources.place(error))?;
        Ok(config)
    }

    /// Listens where the list of peers says that the others find this node.
    fn listen_as_listed(&mut self) {
        let listed = self.cluster.peers.iter().filter_map(|peer| parse_peer(peer).ok());
        if let Some((_, address)) = listed.into_iter().find(|(id, _)| id.get() == self.node.id) {
            self.listen.peer = address;
        }
    }
}

impl Overrides {
    fn apply(&self, config: &mut Config) {
        let Overrides { node_id, data_dir, grpc, peer, peers } = self.clone();
        if let Some(id) = node_id {
            config.node.id = id;
        }
        if let Some(dir) = data_dir {
            config.node.data_dir = dir;
        }
        if let Some(grpc) = grpc {
            config.listen.grpc = grpc;
        }
        if let Some(peer) = peer {
            config.listen.peer = peer;
        }
        if let Some(peers) = peers {
            config.cluster.peers = peers;
        }
    }

    /// The flag that set a key.
    fn flag(&self, key: &str) -> Option<&'static str> {
        match key {
            "node.id" => self.node_id.map(|_| "--node-id"),
            "node.data_dir" => self.data_dir.as_ref().map(|_| "--data-dir"),
            "listen.grpc" => self.grpc.as_ref().map(|_| "--grpc"),
            "listen.peer" => self.peer.as_ref().map(|_| "--peer"),
            "cluster.peers" => self.peers.as_ref().map(|_| "--peers"),
            _ => None,
        }
    }
}

impl super::Listen {
    fn set_grpc_port(&mut self, port: u16) {
        if let Some((host, _)) = self.grpc_addr().and_then(|addr| addr.rsplit_once(':')) {
            self.grpc = format!("{host}:{port}");
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    // Counted while it is read: a device or a pipe has no length, and no end.
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(malformed(format!(
            "file {path:?} has more than the {FILE_BYTES_MAX} bytes of any configuration file; check --config"
        )));
    }
    Ok(text)
}

/// Whether a value of the environment is a number, a list or a table, and not a text as it stands.
pub(super) fn is_parsed(key: &str, text: &str) -> bool {
    let is_list = key == "cluster.peers" && text.trim_start().starts_with('[');
    is_list || !TEXTS.contains(&key)
}

/// Settings of the environment. figment's own provider would turn a directory
/// named `1` into a number.
struct Environment(Settings);

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named(ENVIRONMENT)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut dict = Dict::new();
        for (key, text) in &self.0 {
            let value = if is_parsed(key, text) {
                text.parse().unwrap_or_else(|_| Value::from(text.as_str()))
            } else {
                Value::from(text.as_str())
            };
            insert(&mut dict, key, value);
        }
        Ok(Profile::Default.collect(dict))
    }
}

/// Puts a value at a dotted key, next to what is there already.
fn insert(dict: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            dict.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let entry = dict.entry(section.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

/// A provider under a name that an error can show.
struct Named<P> {
    name: String,
    inner: P,
}

impl<P: Provider> Provider for Named<P> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        self.inner.data()
    }
}

/// Everything that gave a setting; what comes later here wins.
struct Sources {
    /// File and environment.
    given: Figment,
    settings: Settings,
    port: Option<u16>,
    flags: Overrides,
}

impl Sources {
    /// With what gave the value.
    fn place(&self, error: ConfigError) -> ConfigError {
        match error {
            ConfigError::Impossible { key, value, bound, .. } => {
                let given_in = Some(self.of(key, &value));
                ConfigError::Impossible { key, value, bound, given_in }
            }
            other => other,
        }
    }

    /// What gave a key the value that counts in the end.
    fn of(&self, key: &str, value: &str) -> String {
        if let Some(flag) = self.flags.flag(key) {
            return format!("flag {flag}");
        }
        let place = self.read_from(key);
        let is_explicit = self.settings.iter().any(|(of, _)| of == key);
        match self.port.filter(|_| key == "listen.grpc" && !is_explicit) {
            Some(port) if value.ends_with(&format!(":{port}")) => format!("{place}, its port: variable {GRPC_PORT}"),
            _ => place,
        }
    }

    /// What gave the value that was read. Flags come later: they hide nothing that cannot be read.
    fn read_from(&self, key: &str) -> String {
        if let Some((key, _)) = self.variable(key) {
            return format!("variable {}", variable(key));
        }
        let source = self.given.find_metadata(key).map(|source| source.name.to_string());
        source.unwrap_or_else(|| "the default".to_owned())
    }

    /// The key that a variable sets, this one or its section, and the variable's value; where that is what counts.
    fn variable(&self, key: &str) -> Option<&(String, String)> {
        let sets = |of: &str| key.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.given.find_metadata(key).filter(|source| source.name == ENVIRONMENT)?;
        self.settings.iter().rfind(|(of, _)| sets(of))
    }

    /// figment's first complaint: the key, the value, what gave it, and what is possible.
    fn explain(&self, error: &figment::Error) -> ConfigError {
        let key = error.path.join(".");
        if let Kind::UnknownField(field, known) = &error.kind {
            let key = match error.path.last() {
                None => field.clone(),
                Some(last) if last == field => key,
                Some(_) => format!("{key}.{field}"),
            };
            let place = self.read_from(&key);
            return malformed(format!("unknown key {key} ({place}); known here: {}", known.join(", ")));
        }
        if key.is_empty() {
            let source = error.metadata.as_ref().map(|source| format!("{}: ", source.name)).unwrap_or_default();
            return malformed(format!("{source}{}", error.kind.to_string().trim_end()));
        }
        let (given, expected) = match &error.kind {
            Kind::InvalidType(given, expected) | Kind::InvalidValue(given, expected) => {
                (Some(shown(given)), wanted(&key, expected))
            }
            kind => (None, kind.to_string()),
        };
        let given = self.variable(&key).map(|(_, value)| format!("{value:?}")).or(given);
        let given = given.map(|given| format!(" = {given}")).unwrap_or_default();
        malformed(format!("{key}{given} ({}): {expected}", self.read_from(&key)))
    }
}

/// A value of the wrong kind, as it was written.
fn shown(given: &Actual) -> String {
    match given {
        Actual::Str(text) => format!("{text:?}"),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Seq => "[…]".to_owned(),
        Actual::Map => "{…}".to_owned(),
        other => other.to_string(),
    }
}

/// What a setting takes, for people.
fn wanted(key: &str, expected: &str) -> String {
    match (possible(key), expected) {
        (Some(possible), _) => format!("expected a whole number without a unit, {possible}"),
        (None, "struct IntensityConfig") => "expected a table such as { restarts = 3, seconds = 60 }".to_owned(),
        (None, expected) if expected.starts_with("struct") => "expected a table of settings".to_owned(),
        (None, "a string" | "path string") => match key {
            "listen.grpc" => "expected a text, host:port or off, in quotes".to_owned(),
            "listen.peer" => "expected a text, host:port, in quotes".to_owned(),
            _ => "expected a text, in quotes".to_owned(),
        },
        (None, expected) => format!("expected {expected}"),
    }
}

fn malformed(message: String) -> ConfigError {
    ConfigError::Malformed { message }
}
