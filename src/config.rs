//! Every setting of a node: its default, its bound, where it comes from.
//!
//! Owns the reading of configuration: one TOML file, then the environment
//! (`CONVERGE_LEDGER__SECTION__KEY`), then flags, each winning over those
//! before it. An empty variable is one that is not set. Unknown keys and impossible values are errors that name the key,
//! what gave the value, and the bound. Deliberately does not open, bind or resolve anything: whether
//! a port is free or a directory usable is found out by the start.

mod address;
mod environment;
mod load;
mod settings;
#[cfg(test)]
mod tests;
mod validate;

pub use address::{Address, check_directory, check_text};
pub use load::Overrides;
pub use settings::{Cluster, Config, GrpcConfig, IntensityConfig, LimitsConfig, Listen, NodeConfig, Raft, Supervision};
pub(crate) use validate::ENTRY_BYTES_MAX;
pub use validate::{MAX_VOTERS, parse_peer};

use std::path::PathBuf;

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {path:?}: {source}; check --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A source is not well-formed, or holds an unknown key or a wrong type.
    #[error("configuration: {message}")]
    Malformed {
        /// Names the key and the source.
        message: String,
    },
    /// A value is outside its bound.
    #[error("configuration: {key} = {value:?}{}: {bound}", shown(given_in.as_deref()))]
    Impossible {
        /// The key, `section.name`.
        key: &'static str,
        /// The value as it was given.
        value: String,
        /// What is possible.
        bound: String,
        /// What gave the value: a file, a variable or a flag. None where only the value is known.
        given_in: Option<String>,
    },
}

fn shown(given_in: Option<&str>) -> String {
    given_in.map(|place| format!(" ({place})")).unwrap_or_default()
}
