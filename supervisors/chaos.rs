//! Deaths on purpose, for tests of whole trees.
//!
//! Behind the feature `chaos`. A [`Fault`] is injected by path, so that a test reaches each place of a tree without
//! knowing its actor's messages, and a panic takes the very way that a panic of the actor's own would.

use std::sync::atomic::{AtomicBool, Ordering};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use crate::tree::Tree;

/// How an actor dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As by `ActorCell::kill`: at its next await.
    Kill,
    /// A panic inside one of its callbacks.
    Panic,
}

/// Why a fault was not injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no actor runs at {0}")]
pub struct NotThere(pub String);

impl Tree {
    /// Makes the actor at `path` die. Returns when the fault is on its way.
    ///
    /// # Errors
    /// When nobody runs there.
    pub async fn inject(&self, path: &str, fault: Fault) -> Result<(), NotThere> {
        let not_there = || NotThere(path.to_owned());
        let cell = self.find(path).ok_or_else(not_there)?;
        match fault {
            Fault::Kill => cell.kill(),
            Fault::Panic => {
                self.arm(path);
                poke(cell).await.map_err(|_| not_there())?;
            }
        }
        Ok(())
    }
}

/// Whether the next callback of a place's actor is to panic.
#[derive(Debug, Default)]
pub(crate) struct Trap(AtomicBool);

impl Trap {
    pub(crate) fn arm(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// # Panics
    /// When armed; once.
    pub(crate) fn spring(&self) {
        let armed = self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::SeqCst);
        assert!(!armed, "injected fault");
    }
}

/// Makes the actor run a callback, whatever its messages are: it hears of a child that came and went.
async fn poke(cell: ActorCell) -> Result<(), ractor::SpawnErr> {
    let (child, _) = Actor::spawn_linked(None, Poke, (), cell).await?;
    child.stop(None);
    Ok(())
}

struct Poke;

impl Actor for Poke {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}
