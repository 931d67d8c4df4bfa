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
pub(crate) enum Verdict {
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
}

impl Forming {
    pub(crate) fn new(
        cluster_id: ClusterId,
        group: u64,
        id: NodeId,
        store_id: StoreId,
        voters: Vec<NodeId>,
    ) -> Forming {
        Forming { cluster_id, group, id, store_id, reached: BTreeMap::from([(id, store_id)]), voters }
    }

    /// What can be said with the peers reached so far.
    pub(crate) fn verdict(&self) -> Verdict {
        let lowest = self.voters.iter().min() == Some(&self.id);
        if lowest && self.voters.iter().all(|voter| self.reached.contains_key(voter)) {
            let voters = self.reached.clone();
            return Verdict::Found(Genesis { cluster_id: self.cluster_id, group: self.group, voters });
        }
        Verdict::Wait
    }

    /// A peer says who it is.
    pub(crate) fn heard(&mut self, from: NodeId, store_id: StoreId, genesis: Option<Genesis>) -> Verdict {
        let Some(genesis) = genesis else {
            if self.voters.contains(&from) {
                self.reached.insert(from, store_id);
            }
            return self.verdict();
        };
        match genesis.voters.get(&self.id) {
            Some(listed) if *listed == self.store_id => Verdict::Found(genesis),
            listed => Verdict::Wiped { listed: listed.copied() },
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

    fn forming(id: u64, voters: &[u64]) -> Forming {
        let voters = voters.iter().copied().map(NodeId).collect();
        Forming::new(ClusterId([9; 16]), 1, NodeId(id), store(id), voters)
    }

    fn store(id: u64) -> StoreId {
        StoreId([u8::try_from(id).unwrap(); 16])
    }

    fn genesis(voters: &[(u64, StoreId)]) -> Genesis {
        let voters = voters.iter().map(|(id, store)| (NodeId(*id), *store)).collect();
        Genesis { cluster_id: ClusterId([9; 16]), group: 1, voters }
    }

    #[test]
    fn alone_it_founds_at_once() {
        assert_eq!(forming(1, &[1]).verdict(), Verdict::Found(genesis(&[(1, store(1))])));
    }

    #[test]
    fn the_lowest_founds_when_all_are_reached_and_nobody_else_does() {
        let mut lowest = forming(1, &[1, 2, 3]);
        assert_eq!(lowest.heard(NodeId(3), store(3), None), Verdict::Wait);
        assert_eq!(lowest.missing(), vec![NodeId(2)]);
        let found = genesis(&[(1, store(1)), (2, store(2)), (3, store(3))]);
        assert_eq!(lowest.heard(NodeId(2), store(2), None), Verdict::Found(found));
        let mut other = forming(2, &[1, 2, 3]);
        assert_eq!(other.heard(NodeId(1), store(1), None), Verdict::Wait);
        assert_eq!(other.heard(NodeId(3), store(3), None), Verdict::Wait);
    }

    #[test]
    fn a_peer_that_left_must_be_reached_again() {
        let mut lowest = forming(1, &[1, 2, 3]);
        lowest.heard(NodeId(3), store(3), None);
        lowest.lost(NodeId(3));
        assert_eq!(lowest.heard(NodeId(2), store(2), None), Verdict::Wait);
        let again = store(7);
        let found = genesis(&[(1, store(1)), (2, store(2)), (3, again)]);
        assert_eq!(lowest.heard(NodeId(3), again, None), Verdict::Found(found));
    }

    #[test]
    fn a_genesis_that_lists_this_store_is_adopted() {
        let found = genesis(&[(1, store(1)), (2, store(2))]);
        assert_eq!(forming(2, &[1, 2]).heard(NodeId(1), store(1), Some(found.clone())), Verdict::Found(found));
    }

    #[test]
    fn a_genesis_that_lists_another_store_means_this_directory_was_wiped() {
        let found = genesis(&[(1, store(1)), (2, store(8))]);
        let verdict = forming(2, &[1, 2]).heard(NodeId(1), store(1), Some(found));
        assert_eq!(verdict, Verdict::Wiped { listed: Some(store(8)) });
    }
}
