//! Which places of a tree are meant.

use crate::snapshot::{Kind, TreeNode};

/// Places of a tree, by path and kind, and how likely each of them is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pattern: Vec<String>,
    kind: Option<Kind>,
    weight: u32,
}

impl Target {
    /// The places whose path matches: `*` stands for any text within one id, and an id that is `**` for any number of
    /// ids. `"root/**"` is all there is, the root included; `"root/ledger/*"` the children of `ledger`.
    pub fn path(pattern: &str) -> Target {
        Target { pattern: pattern.split('/').map(str::to_owned).collect(), kind: None, weight: 1 }
    }

    /// Every worker.
    pub fn workers() -> Target {
        Target::path("**").kind(Kind::Worker)
    }

    /// Every supervisor, the root included.
    pub fn supervisors() -> Target {
        Target::path("**").kind(Kind::Supervisor)
    }

    /// Of these, only workers or only supervisors.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Target {
        self.kind = Some(kind);
        self
    }

    /// How often each is chosen, next to others; 1 unless told. 0: never.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Target {
        self.weight = weight;
        self
    }

    /// Means nobody.
    pub(crate) fn is_never(&self) -> bool {
        self.weight == 0
    }

    pub(crate) fn matches(&self, node: &TreeNode) -> bool {
        let path: Vec<&str> = node.path.split('/').collect();
        self.kind.is_none_or(|kind| kind == node.kind) && ids_match(&self.pattern, &path)
    }
}

/// The weight of a place: that of the first target that means it.
pub(crate) fn weight_of(targets: &[Target], node: &TreeNode) -> u32 {
    targets.iter().find(|target| target.matches(node)).map_or(0, |target| target.weight)
}

fn ids_match(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            ids_match(rest, path) || path.split_first().is_some_and(|(_, below)| ids_match(pattern, below))
        }
        (Some((first, rest)), Some((id, below))) => text_matches(first, id) && ids_match(rest, below),
        _ => false,
    }
}

/// `*` stands for any text.
fn text_matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    let mut places = (0..=rest.len()).filter(|&at| rest.is_char_boundary(at));
    places.any(|at| text_matches(tail, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_ids_and_runs_of_ids() {
        let matches = |pattern: &str, path: &str| {
            let path: Vec<&str> = path.split('/').collect();
            ids_match(&Target::path(pattern).pattern, &path)
        };
        for (pattern, path) in [
            ("root", "root"),
            ("root/*", "root/a"),
            ("root/**", "root"),
            ("root/**", "root/a/b"),
            ("**/b", "root/a/b"),
            ("**", "root"),
            ("root/w*r", "root/writer"),
            ("root/*-*", "root/group-7"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("root", "root/a"),
            ("root/*", "root"),
            ("root/*", "root/a/b"),
            ("**/b", "root/b/c"),
            ("root/w*r", "root/write"),
            ("root/a", "root/ab"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}
