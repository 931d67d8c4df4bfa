//! Directories that are copied, and put back on all nodes at once: at different age, which nobody must do.
//!
//! What came after the copies is the operator's loss. From then on all holds again as it does for a new cluster that
//! begins with what is on the disks, but for one thing: a node whose history is not that of the others may, and must,
//! fence itself for data loss.

use std::sync::atomic::Ordering;

use converge_ledger_core::NodeId;

use super::{End, World};

impl World {
    /// Keeps a copy of a directory as it is. Says whether it is that of a member of the cluster.
    pub(in super::super) fn copy(&self, id: NodeId) -> bool {
        let Some(life) = self.life(id).filter(|life| life.fenced().is_none()) else { return false };
        // Before, there is no genesis in it.
        if life.ledger.status().applied_index == 0 {
            return false;
        }
        self.trace.note(&[24, id.get()], || format!("the directory of node {id} is copied"));
        self.with(id, |host| host.copy = Some(host.disk.killed()));
        true
    }

    /// Ends all processes, and puts back what there is of copies. Says whether there are any.
    pub(in super::super) fn put_back(&self) -> bool {
        if self.hosts().values().all(|host| host.copy.is_none()) {
            return false;
        }
        self.restored.store(true, Ordering::Relaxed);
        self.network.tolerate();
        for id in self.ids() {
            self.crash(id, End::Kill);
            self.with(id, |host| {
                host.rotten = true;
                if let Some(copy) = host.copy.take() {
                    copy.set_capacity(host.disk.faults().capacity);
                    host.disk.cut();
                    host.disk = copy;
                    host.steady();
                }
            });
        }
        self.facts.restored();
        true
    }

    /// Copies were put back.
    pub(in super::super) fn is_restored(&self) -> bool {
        self.restored.load(Ordering::Relaxed)
    }
}
