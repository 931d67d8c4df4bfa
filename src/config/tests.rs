//! Where settings come from, and which ones are refused.

use std::path::Path;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
    pairs.iter().map(own).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn load(text: &str, pairs: &[(&str, &str)], flags: Overrides) -> Result<Config, ConfigError> {
    let file = file(text);
    Config::load_from(Some(file.path()), env(pairs), flags)
}

#[test]
fn nothing_given_is_a_node_alone_on_loopback() {
    let config = Config::load_from(None, [], Overrides::default()).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.listen.grpc, "127.0.0.1:50051");
    assert_eq!(config.voters().unwrap().len(), 1);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let text = "[node]\nid = 1\ndata_dir = \"file\"\n[listen]\npeer = \"127.0.0.1:1\"";
    let pairs = [("CONVERGE_LEDGER__NODE__ID", "2"), ("CONVERGE_LEDGER__NODE__DATA_DIR", "7")];
    let flags = Overrides { node_id: Some(3), ..Overrides::default() };
    let config = load(text, &pairs, flags).unwrap();
    assert_eq!(config.node.id, 3);
    assert_eq!(config.node.data_dir, Path::new("7"));
    assert_eq!(config.listen.peer, "127.0.0.1:1");
}

#[test]
fn the_contract_s_example_is_read_as_it_stands() {
    let config = load(include_str!("example.toml"), &[], Overrides::default()).unwrap();
    assert_eq!(config.cluster.peers.len(), 3);
    let back = Config { cluster: Cluster::default(), ..config };
    assert_eq!(back, Config::default(), "the example shows the defaults");
}

#[test]
fn peers_come_as_a_list_or_as_a_text() {
    let text = "1=a:1, 2=b:2,3=c:3";
    let list = "[\"1=a:1\", \"2=b:2\", \"3=c:3\"]";
    for given in [text, list] {
        let pairs = [("CONVERGE_LEDGER__CLUSTER__PEERS", given)];
        let config = load("", &pairs, Overrides::default()).unwrap();
        assert_eq!(config.cluster.peers, ["1=a:1", "2=b:2", "3=c:3"]);
    }
}

#[test]
fn grpc_port_moves_only_what_is_not_set_explicitly() {
    let port = ("GRPC_PORT", "6000");
    let grpc = |text: &str, pairs: &[(&str, &str)], flags| load(text, pairs, flags).unwrap().listen.grpc;
    let none = Overrides::default;
    assert_eq!(grpc("", &[port], none()), "127.0.0.1:6000");
    assert_eq!(grpc("", &[("GRPC_PORT", "")], none()), "127.0.0.1:50051");
    let in_file = "[listen]\ngrpc = \"[::1]:5\"";
    assert_eq!(grpc(in_file, &[port], none()), "[::1]:6000");
    let off = "[listen]\ngrpc = \"off\"";
    assert_eq!(grpc(off, &[port], none()), "off");
    let explicit = ("CONVERGE_LEDGER__LISTEN__GRPC", "[::1]:7");
    assert_eq!(grpc("", &[port, explicit], none()), "[::1]:7");
    let flag = Overrides { grpc: Some("127.0.0.1:8".into()), ..none() };
    assert_eq!(grpc("", &[port], flag), "127.0.0.1:8");
}

/// A file's text, and what its refusal must name.
const BAD_FILES: &[(&str, &[&str])] = &[
    ("[node]\nids = 1", &["node.ids", "id, data_dir"]),
    ("[nodes]\nid = 1", &["nodes", "node, listen"]),
    ("nodes = 1", &["nodes"]),
    ("[node", &["file"]),
    ("[node]\nid = 0", &["node.id", "at least 1"]),
    ("[node]\nid = -1", &["node.id"]),
    ("[node]\nid = \"one\"", &["node.id"]),
    ("[node]\nid = 99999999999999999999", &["file"]),
    ("[node]\ndata_dir = \"\"", &["node.data_dir"]),
    ("[listen]\ngrpc = \"nowhere\"", &["listen.grpc", "host:port"]),
    ("[listen]\ngrpc = \"127.0.0.1:65536\"", &["listen.grpc", "65535"]),
    ("[listen]\npeer = \"off\"", &["listen.peer", "host:port"]),
    (
        "[listen]\ngrpc = \"a:1\"\n[cluster]\npeers = [\"1=a:1\"]",
        &["listen.grpc = \"a:1\"", "listen.peer", "port of its own"],
    ),
    ("[cluster]\nname = \"\"", &["cluster.name"]),
    ("[cluster]\npeers = [\"1=a:1\", \"2=b:2\"]", &["cluster.peers", "2 voters", "1, 3 or 5"]),
    (
        "[cluster]\npeers = [\"1=a:1\",\"2=a:2\",\"3=a:3\",\"4=a:4\",\"5=a:5\",\"6=a:6\",\"7=a:7\"]",
        &["cluster.peers", "7 voters"],
    ),
    ("[cluster]\npeers = [\"2=a:1\",\"3=a:2\",\"4=a:3\"]", &["cluster.peers", "node.id = 1"]),
    ("[cluster]\npeers = [\"1=a:1\",\"1=a:2\",\"3=a:3\"]", &["1=a:2", "id", "twice"]),
    ("[cluster]\npeers = [\"1=a:1\",\"2=a:1\",\"3=a:3\"]", &["2=a:1", "address", "twice"]),
    ("[cluster]\npeers = [\"0=a:1\"]", &["0=a:1", "an id from 1"]),
    ("[cluster]\npeers = [\"a:1\"]", &["a:1", "id=host:port"]),
    ("[cluster]\npeers = [\"1=a:0\"]", &["cluster.peers", "from 1 to 65535"]),
    ("[cluster]\npeers = 7", &["cluster.peers"]),
    ("[raft]\nheartbeat_ms = 0", &["raft.heartbeat_ms", "10 to 10000"]),
    ("[raft]\nheartbeat_ms = 18446744073709551615", &["file"]),
    ("[raft]\nelection_ms = 100", &["raft.election_ms", "3 times", "300"]),
    ("[raft]\nelection_ms = 299", &["raft.election_ms", "300"]),
    ("[raft]\nelection_ms = 60001", &["raft.election_ms", "60000"]),
    ("[limits]\npayload_bytes = 0", &["limits.payload_bytes", "1 to 4194304"]),
    ("[limits]\npayload_bytes = 4194305", &["limits.payload_bytes", "4194304"]),
    ("[limits]\ninflight_bytes = 1", &["limits.inflight_bytes"]),
    ("[limits]\ninflight_bytes = 9223372036854775807", &["limits.inflight_bytes"]),
    ("[limits]\nresponse_bytes = 1", &["limits.response_bytes"]),
    ("[limits]\nsnapshot_bytes = 5000000000", &["limits.snapshot_bytes"]),
    ("[grpc]\nstreams = 0", &["grpc.streams"]),
    ("[grpc]\nconnections = 0", &["grpc.connections"]),
    ("[grpc]\nrequests = 0", &["grpc.requests"]),
    ("[grpc]\nrequest_bytes = 1", &["grpc.request_bytes"]),
    ("[grpc]\ndeadline_default_ms = 0", &["grpc.deadline_default_ms"]),
    ("[grpc]\ndeadline_max_ms = 5", &["grpc.deadline_default_ms", "1 to 5"]),
    ("[supervision]\nroot = { minutes = 1 }", &["supervision.root.minutes"]),
    ("[supervision]\nroot = { restarts = 1, seconds = 0 }", &["supervision.root"]),
    ("[supervision]\nroots = { restarts = 1, seconds = 1 }", &["supervision.roots"]),
];

#[test]
fn a_bad_file_is_refused_by_key_and_bound() {
    for (text, wanted) in BAD_FILES {
        let error = load(text, &[], Overrides::default()).expect_err(text).to_string();
        for word in *wanted {
            assert!(error.contains(word), "{text}\n-> {error}\nlacks {word}");
        }
    }
}

/// The error of a configuration that cannot be.
fn said(text: &str, pairs: &[(&str, &str)], flags: Overrides) -> String {
    load(text, pairs, flags).unwrap_err().to_string()
}

const NUMBER: &str = "expected a whole number without a unit, 1 to 4194304";

/// What was given, where, and what is possible instead.
#[test]
fn a_bad_value_of_the_file_is_told_with_its_file() {
    for (text, wanted) in [
        ("[limits]\npayload_bytes = \"4MiB\"", format!("limits.payload_bytes = \"4MiB\" (FILE): {NUMBER}")),
        ("[limits]\npayload_bytes = -5", format!("limits.payload_bytes = -5 (FILE): {NUMBER}")),
        ("[limits]\npayload_bytes = [1]", format!("limits.payload_bytes = […] (FILE): {NUMBER}")),
        ("[limits]\npayload_bytes = 0", "limits.payload_bytes = \"0\" (FILE): possible is 1 to 4194304".to_owned()),
        ("[listen]\ngrpc = 50051", "listen.grpc = 50051 (FILE): expected a text, host:port or off".to_owned()),
        ("[node]\ndata_dir = 1", "node.data_dir = 1 (FILE): expected a text".to_owned()),
        ("raft = 1", "raft = 1 (FILE): expected a table of settings".to_owned()),
        ("[supervision]\napi = 3", "supervision.api = 3 (FILE): expected a table such as { restarts".to_owned()),
        ("[cluster]\npeers = [1]", "cluster.peers (FILE): expected a list of \"id=host:port\"".to_owned()),
        ("[node]\nids = 1", "unknown key node.ids (FILE); known here: id, data_dir".to_owned()),
        ("[node]\nid = 99999999999999999999", "FILE: TOML parse error at line 2, column 6".to_owned()),
        (
            "[raft]\nheartbeat_ms = 1000",
            "raft.election_ms = \"1000\" (the default): possible is 3000 to 60000: at least 3 times raft.heartbeat_ms"
                .to_owned(),
        ),
        (
            "[grpc]\ndeadline_max_ms = 5",
            "grpc.deadline_default_ms = \"10000\" (the default): possible is 1 to 5: at most grpc.deadline_max_ms"
                .to_owned(),
        ),
    ] {
        let file = file(text);
        let error = Config::load_from(Some(file.path()), [], Overrides::default()).unwrap_err().to_string();
        let wanted = wanted.replace("FILE", &format!("file {:?}", file.path()));
        assert!(error.starts_with(&format!("configuration: {wanted}")), "{text}\n-> {error}");
    }
}

#[test]
fn a_bad_value_of_a_variable_is_told_with_its_name() {
    for (key, value, wanted) in [
        ("LIMITS__PAYLOAD_BYTES", "4MiB", format!("limits.payload_bytes = \"4MiB\" (VARIABLE): {NUMBER}")),
        ("LIMITS__PAYLOAD_BYTES", "0", "limits.payload_bytes = \"0\" (VARIABLE): possible is 1 to 4194304".to_owned()),
        (
            "NODE__ID",
            "1.50",
            "node.id = \"1.50\" (VARIABLE): expected a whole number without a unit, 1 to 184".to_owned(),
        ),
        ("CLUSTER__PEERS", ",", "cluster.peers = \",\" (VARIABLE): there is no peer in it".to_owned()),
        (
            "CLUSTER__PEERS",
            "[\"1=a:1\",2]",
            "cluster.peers = \"[\\\"1=a:1\\\",2]\" (VARIABLE): expected a list".to_owned(),
        ),
        (
            "CLUSTER__NAME",
            "a\r",
            "cluster.name = \"a\\r\" (variable CONVERGE_LEDGER__CLUSTER__NAME): there is".to_owned(),
        ),
        ("RAFT", "{heartbeat_ms=5}", "raft.heartbeat_ms = \"5\" (VARIABLE): possible is 10 to 10000".to_owned()),
    ] {
        let name = format!("CONVERGE_LEDGER__{key}");
        let error = said("[raft]\nelection_ms = 1000", &[(&name, value)], Overrides::default());
        let wanted = wanted.replace("VARIABLE", &format!("variable {name}"));
        assert!(error.starts_with(&format!("configuration: {wanted}")), "{name}={value}\n-> {error}");
    }
}

#[test]
fn a_bad_value_is_told_with_what_gave_it() {
    let none = Overrides::default;
    // The last one to say it did.
    let flags = Overrides { grpc: Some("a".into()), ..none() };
    let both = [("CONVERGE_LEDGER__LISTEN__GRPC", "b")];
    assert!(said("[listen]\ngrpc = \"c\"", &both, flags).contains("listen.grpc = \"a\" (flag --grpc)"));
    let variable = "listen.grpc = \"b\" (variable CONVERGE_LEDGER__LISTEN__GRPC)";
    assert!(said("[listen]\ngrpc = \"c\"", &both, none()).contains(variable));
    let off = said("[listen]\ngrpc = \"none\"", &[], none());
    assert!(off.ends_with("from 0 to 65535; off serves no clients"), "{off}");
    let port = said("", &[("GRPC_PORT", "66000")], none());
    assert!(port.contains("GRPC_PORT = \"66000\": a port is a number from 0 to 65535"), "{port}");
    // What cannot be read is to be mended where it stands, whatever a flag says of the same setting.
    let flags = || Overrides { grpc: Some("127.0.0.1:1".into()), node_id: Some(2), ..none() };
    let file = said("[listen]\ngrpc = 50051", &[], flags());
    assert!(file.contains("listen.grpc = 50051 (file ") && !file.contains("--grpc"), "{file}");
    let variable = said("", &[("CONVERGE_LEDGER__NODE__ID", "one")], flags());
    assert!(variable.contains("node.id = \"one\" (variable CONVERGE_LEDGER__NODE__ID)"), "{variable}");
    // GRPC_PORT gives no more than a port.
    let file = said("[listen]\ngrpc = 50051", &[("GRPC_PORT", "6000")], none());
    assert!(file.contains("listen.grpc = 50051 (file ") && !file.contains("GRPC_PORT"), "{file}");
    let host = said("[listen]\ngrpc = \"nowhere\"", &[("GRPC_PORT", "6000")], none());
    assert!(host.contains("listen.grpc = \"nowhere\" (file ") && !host.contains("GRPC_PORT"), "{host}");
    let both = said("[listen]\ngrpc = \"a b:5\"", &[("GRPC_PORT", "6000")], none());
    assert!(
        both.contains("listen.grpc = \"a b:6000\" (file ") && both.contains("its port: variable GRPC_PORT"),
        "{both}"
    );
    // Whoever has no more than the configuration is told no more.
    let config = Config { raft: Raft { heartbeat_ms: 1, election_ms: 1000 }, ..Config::default() };
    let error = config.validate().unwrap_err().to_string();
    assert_eq!(error, "configuration: raft.heartbeat_ms = \"1\": possible is 10 to 10000");
}

#[test]
fn a_bad_environment_is_refused_by_key() {
    let cases = [
        ("CONVERGE_LEDGER__NODE__IDENT", "1", "node.ident"),
        ("CONVERGE_LEDGER__NODE", "1", "node"),
        ("CONVERGE_LEDGER__", "1", "CONVERGE_LEDGER__ names no key"),
        ("CONVERGE_LEDGER____ID", "1", "CONVERGE_LEDGER____ID names no key"),
        ("CONVERGE_LEDGER__NODE__ID__MORE", "1", "node.id"),
        ("CONVERGE_LEDGER__NODE__ID", "1\r", "\"1\\r\""),
        ("CONVERGE_LEDGER__NODE__ID", " ", "CONVERGE_LEDGER__NODE__ID"),
        ("CONVERGE_LEDGER__CLUSTER__NAME", "prod\r", "cluster.name"),
        ("CONVERGE_LEDGER__NODE__DATA_DIR", "\"/data\"", "quotes"),
        ("CONVERGE_LEDGER_NODE_ID", "7", "CONVERGE_LEDGER__NODE__ID"),
        ("CONVERGE_LEDGER_NODE__ID", "7", "CONVERGE_LEDGER__NODE__ID"),
        ("CONVERGE_LEDGER__CLUSTER__PEER", "1=a:1", "CONVERGE_LEDGER__CLUSTER__PEERS"),
        ("CONVERGE_LEDGER_LISTEN_PEER", "a:1", "CONVERGE_LEDGER__LISTEN__PEER"),
        ("CONVERGE_LEDGER_ENDPOINTS", "a:1", "CONVERGE_LEDGER_ENDPOINT"),
        // Sections whose names are nearer than those of their settings.
        ("CONVERGE_LEDGER_NODES", "1", "the nearest one is CONVERGE_LEDGER__NODE__ID"),
        ("CONVERGE_LEDGER__LISTENER", "a:1", "the nearest one is CONVERGE_LEDGER__LISTEN__PEER"),
        ("converge_ledger__node__id", "7", "CONVERGE_LEDGER__NODE__ID"),
        ("GRPC_PORT", "+80", "GRPC_PORT"),
        ("GRPC_PORT", "80\r", "\"80\\r\""),
        ("CONVERGE_LEDGER__RAFT__ELECTION_MS", "5", "raft.election_ms"),
        ("GRPC_PORT", "65536", "GRPC_PORT"),
        ("GRPC_PORT", "grpc", "GRPC_PORT"),
    ];
    for (name, value, wanted) in cases {
        let error = load("", &[(name, value)], Overrides::default());
        let error = error.expect_err(name).to_string();
        assert!(error.contains(wanted), "{name}={value} -> {error}");
    }
}

/// The environment's parser, and the drop of what it makes, follow the depth of the text.
#[test]
fn no_depth_of_keys_or_values_overflows_the_stack() {
    let deep_key = "CONVERGE_LEDGER__".to_owned() + &"a__".repeat(40_000) + "a";
    let error = load("", &[(&deep_key, "1")], Overrides::default()).unwrap_err().to_string();
    assert!(error.contains("a.a.a"), "{error}");
    for (name, value) in [
        ("CONVERGE_LEDGER__NODE__ID", "[".repeat(100_000)),
        ("CONVERGE_LEDGER__CLUSTER__PEERS", "[".repeat(100_000)),
        ("CONVERGE_LEDGER__RAFT", "{a=".repeat(30_000)),
    ] {
        let error = load("", &[(name, &value)], Overrides::default()).unwrap_err().to_string();
        let key = name.to_lowercase()["converge_ledger__".len()..].replace("__", ".");
        assert!(error.contains(&key), "{error}");
    }
    for file in ["a = ".to_owned() + &"[".repeat(100_000), "a.".repeat(100_000) + "a = 1", "a = {".repeat(50_000)] {
        load(&file, &[], Overrides::default()).unwrap_err();
    }
}

/// What is wrong takes several lines, and who reads only the first one must know where to look.
#[test]
fn a_file_that_is_no_toml_is_named_in_the_first_line() {
    for text in
        ["[node", "id == 1", "[node]\nid = 1\nid = 2", "[node]\n[node]", "a = [\n1", "[cluster]\nname = \"a\nb\""]
    {
        let file = file(text);
        let error = Config::load_from(Some(file.path()), [], Overrides::default()).unwrap_err().to_string();
        let first = error.lines().next().unwrap();
        assert!(first.contains(&format!("{:?}", file.path())) && first.contains("at line "), "{text}\n-> {error}");
    }
}

#[test]
fn an_unreadable_file_is_refused_by_path() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("none.toml"), dir.path().to_owned()] {
        let error = Config::load_from(Some(&path), [], Overrides::default()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("--config"), "{error}");
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let keys =
        ["NODE__ID", "NODE__DATA_DIR", "LISTEN__GRPC", "LISTEN__PEER", "CLUSTER__NAME", "CLUSTER__PEERS", "RAFT"];
    let mut pairs: Vec<_> = keys.iter().map(|key| (format!("CONVERGE_LEDGER__{key}"), String::new())).collect();
    pairs.push(("GRPC_PORT".into(), String::new()));
    pairs.push(("CONVERGE_LEDGER_NODE_ID".into(), String::new()));
    assert_eq!(Config::load_from(None, pairs, Overrides::default()).unwrap(), Config::default());
}

/// A service that is called like the program, in Kubernetes.
#[test]
fn links_to_services_are_not_for_us() {
    let pairs = [
        ("CONVERGE_LEDGER_SERVICE_HOST", "10.0.0.1"),
        ("CONVERGE_LEDGER_SERVICE_PORT", "50051"),
        ("CONVERGE_LEDGER_SERVICE_PORT_GRPC", "50051"),
        ("CONVERGE_LEDGER_PORT", "tcp://10.0.0.1:50051"),
        ("CONVERGE_LEDGER_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("CONVERGE_LEDGER_PEER_PORT_7001_TCP_ADDR", "10.0.0.1"),
        ("CONVERGE_LEDGER_PEER_PORT_7001_TCP_PROTO", "tcp"),
        ("CONVERGE_LEDGER_ENDPOINT", "http://127.0.0.1:1"),
    ];
    assert_eq!(load("", &pairs, Overrides::default()).unwrap(), Config::default());
}

#[test]
fn without_a_peer_address_a_node_listens_where_it_is_listed() {
    let list = || Some(["1=10.0.0.1:7", "2=b.example:8", "3=[::1]:9"].map(str::to_owned).to_vec());
    let peer = |id, text: &str, pairs: &[(&str, &str)], flag: Option<&str>| {
        let flags =
            Overrides { node_id: Some(id), peers: list(), peer: flag.map(str::to_owned), ..Overrides::default() };
        load(text, pairs, flags).unwrap().listen.peer
    };
    assert_eq!(peer(1, "", &[], None), "10.0.0.1:7");
    assert_eq!(peer(2, "", &[("CONVERGE_LEDGER__LISTEN__PEER", "")], None), "b.example:8");
    assert_eq!(peer(3, "", &[], None), "[::1]:9");
    // Given anywhere, it stands, the default's own text included.
    assert_eq!(peer(1, "[listen]\npeer = \"127.0.0.1:7001\"", &[], None), "127.0.0.1:7001");
    assert_eq!(peer(1, "", &[("CONVERGE_LEDGER__LISTEN__PEER", "0.0.0.0:7")], None), "0.0.0.0:7");
    assert_eq!(peer(1, "", &[], Some("0.0.0.0:1")), "0.0.0.0:1");
    assert_eq!(Config::load_from(None, [], Overrides::default()).unwrap().listen.peer, "127.0.0.1:7001");
}

/// What is no address, and what is said of it.
const BAD_ADDRESSES: &[(&str, &str)] = &[
    ("", "it is empty"),
    ("a", "it has no port"),
    ("a:", "it has no port"),
    ("[::1]", "it has no port"),
    ("[::1]7", "it has no port"),
    ("[::1]:", "it has no port"),
    (":1", "it has no host"),
    ("a:x", "its port is no number"),
    ("a:+1", "its port is no number"),
    ("a:-1", "its port is no number"),
    ("a:0", "its port is not possible"),
    ("a:65536", "its port is not possible"),
    ("a:000001", "its port is not possible"),
    ("[::1]:65536", "its port is not possible"),
    ("http://a:1", "it is a URL"),
    ("a:1/", "there is a path in it"),
    ("a:1/x", "there is a path in it"),
    ("a:1?x", "there is a path in it"),
    ("user@a:1", "there is a user's name in it"),
    ("1=a:1", "there is a = in it"),
    ("a:1;b:2", "there is a ; in it, and a list is separated by commas"),
    ("1=a:1;2=b:2", "there is a ; in it, and a list is separated by commas"),
    ("a:1,b:2", "there is a comma in it"),
    ("a:1 b:2", "there is white space in it, and a list is separated by commas"),
    ("host two:1", "there is white space in it"),
    ("a\0:1", "there is white space in it"),
    (" a:1", "there is white space around it"),
    ("a:1 ", "there is white space around it"),
    ("a:1\r", "there is white space around it"),
    ("::1:7002", "there is more than one : in it, and an IPv6 address stands in brackets"),
    ("::1", "there is more than one : in it"),
    ("a:1:2", "there is more than one : in it"),
    ("[a]:1", "what stands in brackets is no IPv6 address"),
    ("[]:1", "what stands in brackets is no IPv6 address"),
    ("[fe80::1%eth0]:1", "what stands in brackets is no IPv6 address (an interface has a number"),
    ("[::1:7", "its bracket is not closed"),
    ("127.0.0.256:1", "its host is no IPv4 address"),
    ("1.2.3:1", "its host is no IPv4 address"),
    ("2130706433:1", "its host is no IPv4 address"),
    ("0x7f000001:1", "its host is no IPv4 address"),
    ("0X7F.0x1:1", "its host is no IPv4 address"),
    ("127.0.0.0x1:1", "its host is no IPv4 address"),
    ("0177.0.0.1:1", "its host is no IPv4 address"),
    ("127.0.0.1.:1", "its host is no IPv4 address"),
    ("-a:1", "its host is neither a name nor an IP address"),
    ("a..b:1", "its host is neither a name nor an IP address"),
    (".:1", "its host is neither a name nor an IP address"),
    ("é:1", "its host is neither a name nor an IP address"),
];

#[test]
fn an_address_has_one_shape() {
    for good in [
        "a:1",
        "127.0.0.1:65535",
        "[::1]:5",
        "[fe80::1%3]:7",
        "a-b_c.example.:80",
        "0.0.0.0:1",
        "3com.example:1",
        "0x7g:1",
        "0xa.b:1",
    ] {
        Address::parse(good, 1).unwrap();
    }
    assert_eq!(Address::parse("[::1]:5", 0).unwrap(), Address { host: "::1", port: 5 });
    for (bad, word) in BAD_ADDRESSES {
        let why = Address::parse(bad, 1).expect_err(bad);
        assert!(
            why.starts_with(word) && why.contains("; an address is written host:port or [IPv6]:port"),
            "{bad}: {why}"
        );
        load("", &[], Overrides { grpc: Some((*bad).to_owned()), ..Overrides::default() }).map(drop).unwrap_or_else(
            |error| {
                let error = error.to_string();
                assert!(error.contains(&format!("listen.grpc = {bad:?} (flag --grpc): {word}")), "{error}");
            },
        );
    }
    let every = Address::parse(":1", 0).unwrap_err();
    assert!(every.starts_with("it has no host (0.0.0.0 is every one of this machine); an address"), "{every}");
    for (bad, word) in [
        ("1=0.0.0.0:7", "listen.peer"),
        ("1=[::]:7", "listen.peer"),
        ("+1=a:7", "id=host:port"),
        ("1= a:1", "white"),
        ("18446744073709551616=a:1", "an id from 1 to 18446744073709551615"),
        ("1=a:1;2=b:2", "commas"),
        ("1=0x7f000001:1", "IPv4"),
        ("1=a:1/x", "path"),
    ] {
        let error = parse_peer(bad).unwrap_err().to_string();
        assert!(error.contains("cluster.peers") && error.contains(word), "{error}");
    }
}

#[test]
fn a_directory_is_what_was_meant() {
    for good in ["d", "/var/lib/x", "./~", "a b", "./~x/$", "c$d"] {
        check_directory(good).unwrap();
    }
    for bad in ["", "~", "~/x", "~root/x", "$HOME/x", "/a/${B}", "a\r", " a", "a\nb", "'a'", "\"/data\""] {
        assert!(check_directory(bad).is_err(), "{bad:?}");
        let flags = Overrides { data_dir: Some(bad.into()), ..Overrides::default() };
        let error = load("", &[], flags).unwrap_err().to_string();
        assert!(error.contains("node.data_dir") && error.contains(&format!("{bad:?}")), "{error}");
    }
}

/// A device has no length that tells.
#[test]
fn a_file_without_end_is_refused() {
    let endless = Config::load_from(Some(Path::new("/dev/zero")), [], Overrides::default()).unwrap_err().to_string();
    assert!(endless.contains("/dev/zero") && endless.contains("check --config"), "{endless}");
}
