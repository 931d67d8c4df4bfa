//! Nodes that are of an older program for a while, which cannot read what the others commit.

use std::sync::atomic::Ordering;

use converge_actors::storage::Phase;
use converge_ledger_core::NodeId;

use super::World;

impl World {
    /// Starts of this node are of an older program from now on, if most nodes are of this one then.
    pub(in super::super) fn downgrade(&self, id: NodeId) -> bool {
        let mut hosts = self.hosts();
        let others = hosts.values().filter(|host| host.older).count();
        let count = hosts.len();
        let host = hosts.get_mut(&id).expect("plans name nodes that exist");
        let may = !host.older && (others + 1) * 2 < count && !self.healing.load(Ordering::Relaxed);
        host.older |= may;
        may
    }

    /// They are of this one again. Says whether somebody has to do that.
    pub(in super::super) fn upgrade(&self, id: NodeId) -> bool {
        self.with(id, |host| std::mem::take(&mut host.older))
    }

    /// Whether what runs there is of an older program.
    pub(super) fn is_older(&self, id: NodeId) -> bool {
        self.life(id).is_some_and(|life| life.older)
    }

    /// Whether it has come to what it cannot read.
    pub(in super::super) fn is_outdated(&self, id: NodeId) -> bool {
        self.life(id).is_some_and(|life| matches!(life.storage().phase, Phase::Outdated { .. }))
    }
}
