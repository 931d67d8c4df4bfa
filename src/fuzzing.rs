//! Every decoder that meets bytes of strangers or of a disk, by name, for a fuzzer.
//!
//! What holds is said at each function; see `converge_actors::fuzzing`. Behind the feature `fuzzing`, which no node is
//! built with.

use std::collections::BTreeSet;

use converge_actors::fuzzing::Seed;
use figment::Provider as _;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};

use crate::Config;
use crate::config::{Address, ConfigError, Overrides};

/// One decoder, and what it may take.
#[derive(Debug)]
pub struct Target {
    /// Also the name of its corpus.
    pub name: &'static str,
    /// Feeds it; whether the bytes were taken for sound. Panics where a promise is broken.
    pub feed: fn(&[u8]) -> bool,
    /// It takes at most so many bytes of memory, whatever the input says …
    pub bytes_fixed: usize,
    /// … and so many for each byte of input, the checks around it included.
    pub bytes_per_byte: usize,
}

/// One of them.
#[must_use]
pub const fn target(name: &'static str, feed: fn(&[u8]) -> bool, bytes_fixed: usize, bytes_per_byte: usize) -> Target {
    Target { name, feed, bytes_fixed, bytes_per_byte }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("peer_frame", converge_actors::fuzzing::peer_frame, 64 << 10, 512),
    target("raft_step", converge_actors::fuzzing::raft_step, 1 << 20, 4096),
    target("handshake", converge_actors::fuzzing::handshake, 64 << 10, 64),
    target("call_frame", converge_actors::fuzzing::call_frame, 64 << 10, 64),
    target("batch", converge_actors::fuzzing::batch, 64 << 10, 512),
    target("apply", converge_actors::fuzzing::apply, 16 << 20, 4096),
    target("journal", converge_actors::fuzzing::journal, 4 << 20, 128),
    target("segment", converge_actors::fuzzing::segment, 1 << 20, 128),
    target("table_row", converge_actors::fuzzing::table_row, 64 << 10, 512),
    target("snapshot", converge_actors::fuzzing::snapshot, 32 << 20, 512),
    target("config", config, 4 << 20, 4096),
    #[cfg(feature = "grpc")]
    target("grpc", crate::api::grpc::fuzzing::request, 4 << 20, 1024),
    #[cfg(feature = "grpc")]
    target("append_stream", crate::api::grpc::fuzzing::append_stream, 4 << 20, 1024),
];

/// A configuration: the text of a file, then, behind a line `---`, the environment, one `NAME=value` a line.
///
/// A refusal names a key, unless the text is no TOML at all, where it names the file. What is taken has a node that is
/// one of its voters.
fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (file, environment) = text.split_once("\n---\n").unwrap_or((text, ""));
    let environment: Vec<(String, String)> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let sources = Some(("file fuzzed.toml".to_owned(), file.to_owned()));
    match Config::from_sources(sources, environment.clone(), Overrides::default()) {
        Ok(config) => {
            config.validate().expect("a configuration that was taken is a possible one");
            let listens = config.listen.grpc_addr().into_iter().chain([config.listen.peer.as_str()]);
            listens.for_each(|address| _ = Address::parse(address, 0).expect("an address that was taken is one"));
            let texts = [Some(config.cluster.name.as_str()), config.node.data_dir.to_str()];
            for text in texts.into_iter().flatten() {
                assert!(!text.starts_with(char::is_whitespace) && !text.contains(char::is_control), "taken: {text:?}");
            }
            let voters = config.voters().expect("a configuration that was taken has voters");
            assert!(voters.keys().any(|id| id.get() == config.node.id), "the node is none of its voters");
            for address in voters.values() {
                let address = Address::parse(address, 0).expect("a voter's address is one");
                assert!(address.port > 0 || config.cluster.peers.is_empty(), "a peer has a port");
            }
            #[cfg(feature = "grpc")]
            let _ = crate::api::grpc::Settings::from(&config);
            true
        }
        Err(error) => {
            explained(&error, file, &environment);
            false
        }
    }
}

fn explained(error: &ConfigError, file: &str, environment: &[(String, String)]) {
    let message = error.to_string();
    match error {
        ConfigError::Unreadable { .. } => panic!("nothing is read here: {message}"),
        ConfigError::Impossible { key, given_in, .. } => {
            assert!(message.contains(key), "no key is named: {message}");
            // That of a variable of its own is its source.
            assert!(given_in.is_some() || key.chars().all(|c| !c.is_lowercase()), "no source is named: {message}");
        }
        ConfigError::Malformed { .. } => {
            let mut names = BTreeSet::new();
            match Toml::string(file).data() {
                Ok(sections) => sections.values().for_each(|dict| collect(dict, &mut names)),
                Err(_) => _ = names.insert("fuzzed.toml".to_owned()),
            }
            for (name, _) in environment {
                names.insert(name.clone());
                let parts = name.to_lowercase().replace("__", ".");
                names.extend(parts.split('.').filter(|part| !part.is_empty()).map(str::to_owned));
            }
            assert!(names.iter().any(|name| message.contains(name.as_str())), "nothing is named: {message}");
        }
    }
}

fn collect(dict: &Dict, keys: &mut BTreeSet<String>) {
    for (key, value) in dict {
        keys.insert(key.clone());
        if let Value::Dict(_, inner) = value {
            collect(inner, keys);
        }
    }
}

/// Sound inputs to begin with, written by this build's own encoders.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = converge_actors::fuzzing::seeds();
    let example = include_str!("config/example.toml");
    let environment = "\n---\nCONVERGE_LEDGER__CLUSTER__PEERS=1=a:1,2=b:2,3=c:3\nCONVERGE_LEDGER__RAFT__ELECTION_MS=900\n\
                       CONVERGE_LEDGER__NODE__DATA_DIR=7\nGRPC_PORT=6000";
    for (name, text, environment) in [
        ("example", example, ""),
        ("environment", "", environment),
        ("both", "[node]\nid = 2\n[listen]\ngrpc = \"off\"", environment),
        ("inline", "supervision.root = { restarts = 1, seconds = 2 }\nraft = { heartbeat_ms = 0x20 }", ""),
        ("unknown_key", "[node]\nids = 1", ""),
        ("wrong_type", "[node]\nid = \"one\"", ""),
        ("no_toml", "[node", ""),
        (
            "no_toml_and_deep_environment",
            "[node",
            "\n---\nCONVERGE_LEDGER__A__B__C__D__E__F__G__H__I__J__K__L__M__N__O__P__Q=1",
        ),
        (
            "addresses",
            "[listen]\ngrpc = \"[::1]:0\"",
            "\n---\nCONVERGE_LEDGER__CLUSTER__PEERS=1=[fe80::1%3]:7, 2=b-c.d.:2,3=10.0.0.3:3",
        ),
        ("no_address", "[listen]\npeer = \"http://a:1\"", ""),
        ("white_space", "", "\n---\nCONVERGE_LEDGER__CLUSTER__NAME=prod\r"),
        ("single_underscores", "", "\n---\nCONVERGE_LEDGER_NODE_ID=7"),
        ("no_key", "", "\n---\nCONVERGE_LEDGER__=60"),
        ("bad_environment", "", "\n---\nCONVERGE_LEDGER__NODE__ID=[1, {a=\"b\"}]"),
    ] {
        seeds.push(Seed::new("config", name, &[text.as_bytes(), environment.as_bytes()]));
    }
    #[cfg(feature = "grpc")]
    seeds.extend(crate::api::grpc::fuzzing::seeds());
    seeds
}
