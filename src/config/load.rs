//! File, environment, flags: where settings come from, and who wins.

use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::{GRPC_PORT, Settings, is_ours, split};
use super::{Config, ConfigError, parse_peer};

/// A configuration file larger than this is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Settings whose text must stay text, whatever it looks like.
const TEXTS: [&str; 5] = ["node.data_dir", "listen.grpc", "listen.peer", "cluster.name", "cluster.peers"];

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
fn variables() -> Result<Vec<(String, String)>, ConfigError> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| is_ours(name))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(malformed(format!("{name} is not valid UTF-8"))),
        })
        .collect()
}

impl Config {
    /// Reads the file, where there is one, this process's environment and the
    /// flags, and checks the result.
    pub fn load(file: Option<&Path>, flags: Overrides) -> Result<Config, ConfigError> {
        Config::load_from(file, variables()?, flags)
    }

    /// Checks this process's variables as a start would, for a command that takes none of a node's settings from them: one
    /// that is misspelt would change nothing, and say nothing.
    ///
    /// # Errors
    /// Names the variable that is not known and the one that was meant, or that has a value that cannot be read.
    pub fn check_environment() -> Result<(), ConfigError> {
        split(variables()?.into_iter().filter(|(name, _)| name != GRPC_PORT)).map(drop)
    }

    /// As [`Config::load`], with the environment given.
    pub fn load_from(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Overrides,
    ) -> Result<Config, ConfigError> {
        let file = file.map(|path| Ok((format!("file {}", path.display()), read(path)?))).transpose()?;
        Config::from_sources(file, environment, flags)
    }

    /// As [`Config::load_from`], with the name and the text of the file given.
    pub(crate) fn from_sources(
        file: Option<(String, String)>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Overrides,
    ) -> Result<Config, ConfigError> {
        let (settings, port) = split(environment)?;
        let grpc_is_explicit = flags.grpc.is_some() || settings.iter().any(|(key, _)| key == "listen.grpc");

        let mut given = Figment::new();
        if let Some((name, text)) = file {
            given = given.merge(Named { name, inner: Toml::string(&text) });
        }
        given = given.merge(Environment(settings));
        let peer_is_given = flags.peer.is_some() || given.find_value("listen.peer").is_ok();
        let figment = Figment::from(Serialized::defaults(Config::default())).merge(given);
        let mut config: Config = figment.extract().map_err(|error| explain(&error))?;
        flags.apply(&mut config);
        if !peer_is_given {
            config.listen_as_listed();
        }
        if let Some(port) = port
            && !grpc_is_explicit
        {
            config.listen.set_grpc_port(port);
        }
        config.validate()?;
        Ok(config)
    }
}

impl Config {
    /// Listens where the list of peers says that the others find this node.
    fn listen_as_listed(&mut self) {
        let listed = self.cluster.peers.iter().filter_map(|peer| parse_peer(peer).ok());
        if let Some((_, address)) = listed.into_iter().find(|(id, _)| id.get() == self.node.id) {
            self.listen.peer = address;
        }
    }
}

impl Overrides {
    fn apply(self, config: &mut Config) {
        if let Some(id) = self.node_id {
            config.node.id = id;
        }
        if let Some(dir) = self.data_dir {
            config.node.data_dir = dir;
        }
        if let Some(grpc) = self.grpc {
            config.listen.grpc = grpc;
        }
        if let Some(peer) = self.peer {
            config.listen.peer = peer;
        }
        if let Some(peers) = self.peers {
            config.cluster.peers = peers;
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
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > FILE_BYTES_MAX {
        return Err(malformed(format!(
            "{} has {size} bytes, more than the {FILE_BYTES_MAX} of any configuration file",
            path.display()
        )));
    }
    std::fs::read_to_string(path).map_err(unreadable)
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
        Metadata::named("the environment")
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

/// figment's first complaint, with the whole key and the source.
fn explain(error: &figment::Error) -> ConfigError {
    let section = error.path.join(".");
    let source = error.metadata.as_ref().map(|source| format!(" in {}", source.name)).unwrap_or_default();
    malformed(match &error.kind {
        Kind::UnknownField(field, known) => {
            let key = if section.is_empty() {
                field.clone()
            } else if error.path.last() == Some(field) {
                section
            } else {
                format!("{section}.{field}")
            };
            format!("unknown key {key}{source}; known here: {}", known.join(", "))
        }
        kind if section.is_empty() => format!("{kind}{source}"),
        kind => format!("{section}: {kind}{source}"),
    })
}

fn malformed(message: String) -> ConfigError {
    ConfigError::Malformed { message }
}
