//! How fresh nodes become one cluster, once.
//!
//! Pure. The lowest voter collects the store ids of all; when every voter is fresh it fixes {cluster id, node id
//! → store id}, syncs that, and only then tells the others, so that any genesis found anywhere is on the lowest
//! node's disk too. A fresh node that meets a genesis adopts it when it lists this node's store, and must stop
//! when it lists another: then this directory was wiped, and voting from it could forget what it had
//! acknowledged (S8). A node without a genesis neither votes, campaigns nor acknowledges: it has no Raft node.
//!
//! ```text
//! Forming ──(alone, or lowest and all reached and fresh)──▶ Found ──▶ synced, Raft starts
//!    │──────(a peer's genesis lists this store)───────────▶ Found ──▶ synced, Raft starts
//!    └──────(a peer's genesis lists another store)────────▶ Wiped ──▶ the process stops
//! ```

use std::collections::BTreeMap;

use converge_ledger_core::{ClusterId, NodeId, StoreId};

use crate::storage::Genesis;

/// What a fresh node does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FormingVerdict {
    /// Wait for more.
    Wait,
    /// Sync this and start.
    Found(Genesis),
    /// Never start from this directory.
    Wiped { listed: Option<StoreId> },
}

/// A node without a genesis.
#[derive(Debug)]
pub(crate) struct Forming {
    cluster_id: ClusterId,
    group: u64,
    id: NodeId,
    store_id: StoreId,
    /// Voters reached so far, all fresh, this node included.
    reached: BTreeMap<NodeId, StoreId>,
    voters: Vec<NodeId>,
    key_window: u64,
}

impl Forming {
    pub(crate) fn new(
        cluster_id: ClusterId,
        group: u64,
        id: NodeId,
        store_id: StoreId,
        voters: Vec<NodeId>,
        key_window: u64,
    ) -> Forming {
        Forming { cluster_id, group, id, store_id, reached: BTreeMap::from([(id, store_id)]), voters, key_window }
    }

    /// What can be said with the peers reached so far.
    pub(crate) fn verdict(&self) -> FormingVerdict {
        let lowest = self.voters.iter().min() == Some(&self.id);
        if lowest && self.voters.iter().all(|voter| self.reached.contains_key(voter)) {
            let voters = self.reached.clone();
            let Forming { cluster_id, group, key_window, .. } = *self;
            return FormingVerdict::Found(Genesis { cluster_id, group, voters, key_window });
        }
        FormingVerdict::Wait
    }

    /// A peer says who it is.
    pub(crate) fn heard(&mut self, from: NodeId, store_id: StoreId, genesis: Option<Genesis>) -> FormingVerdict {
        let Some(genesis) = genesis else {
            if self.voters.contains(&from) {
                self.reached.insert(from, store_id);
            }
            return self.verdict();
        };
        match genesis.voters.get(&self.id) {
            Some(listed) if *listed == self.store_id => FormingVerdict::Found(genesis),
            listed => FormingVerdict::Wiped { listed: listed.copied() },
        }
    }

    /// A peer went away; it may come back with another store.
    pub(crate) fn lost(&mut self, peer: NodeId) {
        if peer != self.id {
            self.reached.remove(&peer);
        }
    }

    /// Voters that have not been reached.
    pub(crate) fn missing(&self) -> Vec<NodeId> {
        self.voters.iter().copied().filter(|voter| !self.reached.contains_key(voter)).collect()
    }
}

/// A short name of a genesis, carried by every frame: clusters that share a name and ids are still two.
pub(crate) fn tag(genesis: &Genesis) -> u64 {
    let bytes = postcard::to_stdvec(genesis).expect("a genesis encodes to memory");
    let hash = blake3::hash(&bytes);
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([9; 16]);
    const GROUP: u64 = 1;
    const WINDOW: u64 = 1000;

    /// `3/7`: node 3, whose store is 7.
    fn node(text: &str) -> (NodeId, StoreId) {
        let (id, store) = text.split_once('/').unwrap_or((text, text));
        (NodeId(id.parse().unwrap()), StoreId([store.parse().unwrap(); 16]))
    }

    fn tell(verdict: FormingVerdict, forming: &Forming) -> String {
        match verdict {
            FormingVerdict::Wait if forming.missing().is_empty() => "wait".to_owned(),
            FormingVerdict::Wait => format!("wait for {}", list(forming.missing().iter().map(NodeId::to_string))),
            FormingVerdict::Found(Genesis { cluster_id, group, voters, key_window }) => {
                assert_eq!((cluster_id, group, key_window), (CLUSTER, GROUP, WINDOW));
                format!("found {}", list(voters.iter().map(|(id, store)| format!("{id}/{}", store.0[0]))))
            }
            FormingVerdict::Wiped { listed: None } => "wiped: not listed".to_owned(),
            FormingVerdict::Wiped { listed: Some(store) } => format!("wiped: listed as {}", store.0[0]),
        }
    }

    fn list(nodes: impl Iterator<Item = String>) -> String {
        nodes.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_script_is_what_a_forming_node_decides() {
        let mut forming = None;
        crate::golden::check("replication/golden/genesis.txt", |words| {
            if let ["node", id, "of", voters @ ..] = words {
                let voters = voters.iter().map(|voter| node(voter).0).collect();
                let (id, store_id) = node(id);
                let begun = forming.insert(Forming::new(CLUSTER, GROUP, id, store_id, voters, WINDOW));
                return tell(begun.verdict(), begun);
            }
            let forming = forming.as_mut().expect("a script begins with a node");
            let verdict = match words {
                ["heard", from, genesis @ ..] => {
                    let voters = genesis.iter().skip(1).map(|voter| node(voter)).collect();
                    let known = Genesis { cluster_id: CLUSTER, group: GROUP, voters, key_window: WINDOW };
                    let genesis = (!genesis.is_empty()).then_some(known);
                    let (from, store_id) = node(from);
                    forming.heard(from, store_id, genesis)
                }
                ["lost", peer] => {
                    forming.lost(node(peer).0);
                    forming.verdict()
                }
                _ => panic!("no such line: {words:?}"),
            };
            tell(verdict, forming)
        });
    }
}
