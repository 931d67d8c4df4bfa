//! What may be linked: `deny.toml` is the list, and this holds what cargo resolves against it, without another tool.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};
use toml::Table;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Everything that a build of any target with any feature takes, and the list.
fn resolved() -> (Vec<Value>, Table) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let asked = ["metadata", "--format-version=1", "--locked", "--all-features"];
    let metadata = Command::new(env!("CARGO")).args(asked).current_dir(&root).output().unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let mut metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let Value::Array(packages) = metadata["packages"].take() else { panic!("no packages: {metadata}") };
    let list = fs::read_to_string(root.join("deny.toml")).unwrap().parse().unwrap();
    (packages, list)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The names that a list of `deny.toml` holds, alone or with reasons.
fn names<'a>(list: &'a Table, of: &str, key: &str) -> Vec<&'a str> {
    let values = list[of][key].as_array().unwrap();
    values.iter().map(|value| value.get("name").unwrap_or(value).as_str().unwrap()).collect()
}

#[test]
fn every_license_is_one_that_deny_toml_allows() {
    let (packages, list) = resolved();
    let allowed: Vec<Licensee> =
        names(&list, "licenses", "allow").into_iter().map(|name| Licensee::parse(name).unwrap()).collect();
    assert!(packages.len() > 100, "{} packages", packages.len());
    for package in &packages {
        let license = Expression::parse_mode(text(&package["license"]), ParseMode::LAX);
        let license = license.unwrap_or_else(|error| panic!("the license of {}: {error}", package["id"]));
        let allows = license.evaluate(|asked| allowed.iter().any(|licensee| licensee.satisfies(asked)));
        assert!(allows, "{}: {license} is not allowed by deny.toml", package["id"]);
    }
}

#[test]
fn everything_comes_from_the_registry_or_from_here_and_nothing_is_banned() {
    let (packages, list) = resolved();
    let banned = names(&list, "bans", "deny");
    for package in &packages {
        let (id, source) = (&package["id"], &package["source"]);
        assert!(source.is_null() || source == REGISTRY, "{id} comes from {source}");
        assert!(!banned.contains(&text(&package["name"])), "{id} is banned by deny.toml");
        let Value::Array(wanted) = &package["dependencies"] else { panic!("{id} says no dependencies") };
        let wild = |wants: &&Value| wants["req"] == "*" && wants["path"].is_null();
        let wild = if source.is_null() { wanted.iter().find(wild) } else { None };
        assert!(wild.is_none(), "{id} takes any version: {wild:?}");
    }
}
