//! Deaths on purpose, for tests of whole trees.
//!
//! Behind the feature `chaos`, for the tests of whoever uses this crate; never part of a program that serves. A [`Fault`]
//! reaches each place of a tree by its path, without knowing its actor's messages, and takes the very way that a fault
//! of the actor's own would.
//!
//! - [`Tree::inject`]: one fault, now; [`Tree::arm`]: one fault, at a moment such as the second await of a message's
//!   handler.
//! - [`Monkey`]: faults at random, from a seed, within the restart intensity; an [`Outcome`] of recoveries, of intensity
//!   used, and of actors left over.
//! - [`sweep_awaits`]: a kill at every await of every actor and supervisor, and a check after each.
//! - [`almost_kill`]: how many kills in a row a tree survives.
//!
//! ```
//! # use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
//! use converge_supervisors::chaos::{Monkey, Target, Trigger};
//! # use converge_supervisors::{ChildSpec, Intensity, Strategy, SupervisorSpec, Tree};
//! use tokio::time::{Duration, sleep};
//! # struct Worker;
//! # impl Actor for Worker {
//! #     type Msg = ();
//! #     type State = ();
//! #     type Arguments = ();
//! #     async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> { Ok(()) }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] // as in #[tokio::test(start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let children = vec![ChildSpec::actor("worker", || (Worker, ()))];
//! # let spec = SupervisorSpec::new(Strategy::OneForOne, Intensity::default(), children);
//! # let tree = Tree::start("root", spec).await?;
//! let monkey = Monkey::new(7)
//!     .target(Target::path("root/**"))
//!     .trigger(Trigger::Every { interval: Duration::from_secs(3), jitter: 0.5 })
//!     .attach(&tree);
//! sleep(Duration::from_secs(60)).await; // your load
//! let outcome = monkey.detach().await;
//! assert!(outcome.is_survived(), "{outcome}");
//! # assert!(!outcome.hits.is_empty());
//! # Ok(()) }
//! ```
//!
//! A seed repeats its run where the rest does: on one thread, in paused time, under a load that has no chance of its own,
//! in a tree without a [`Backoff`](crate::Backoff), whose jitter is no seed's.

mod dice;
mod endure;
mod kind;
mod monkey;
mod observer;
mod outcome;
mod sweep;
mod target;
mod trap;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::time::{Duration, Instant};

pub use endure::{Endurance, almost_kill};
pub use kind::{MessageKind, kind_of};
pub use monkey::{Attached, Budget, Monkey, Trigger};
pub use observer::{Orphan, Used};
pub use outcome::{Hit, Outcome, Recovery};
pub use sweep::{Point, Row, Sweep, Table, sweep_awaits};
pub use target::Target;
pub use trap::{Armed, At, Moment, Sprung};
pub(crate) use trap::{Occasion, Trap};

use crate::tree::Tree;
use crate::vitals::Callback;

/// Thirty years: no test waits longer.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// So long after a moment; where no clock can say that, as for `Duration::MAX`, far.
fn after(moment: Instant, pause: Duration) -> Instant {
    moment.checked_add(pause).unwrap_or(moment + FAR)
}

/// What is done to an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// As by `ActorCell::kill`: it dies at its next await.
    Kill,
    /// A panic inside one of its callbacks.
    Panic,
    /// A callback waits for so long before it goes on.
    Stall(Duration),
    /// A callback returns an error.
    Error,
}

/// Why a fault was not injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no actor runs at {0}")]
pub struct NotThere(pub String);

impl Tree {
    /// Does this to the actor at `path`, as soon as it is between two callbacks (and, where it is suspended, resumed); a
    /// kill comes at its next await. Returns when the fault is on its way. It is for the actor that is there now: should
    /// that one die first, its successor is spared.
    ///
    /// # Errors
    /// When nobody runs there.
    pub async fn inject(&self, path: &str, fault: Fault) -> Result<(), NotThere> {
        if let Some(armed) = self.lay(path, fault).await? {
            armed.leave();
        }
        Ok(())
    }

    /// Like [`Tree::inject`]; a fault that waits until the actor is between two callbacks is called off by dropping what
    /// this gives.
    async fn lay(&self, path: &str, fault: Fault) -> Result<Option<Armed>, NotThere> {
        let not_there = || NotThere(path.to_owned());
        let node = self.root().find(path).ok_or_else(not_there)?;
        let (cell, incarnation) = node.current_actor().ok_or_else(not_there)?;
        if fault == Fault::Kill {
            cell.kill();
            // `ractor` would kill what is below a supervisor in no order; so that a run repeats, in that of the tree.
            node.kill_subtree();
            return Ok(None);
        }
        let moment = Moment::next(Callback::HandleEvent, At::Start);
        let armed = node.hook.arm_for(Some(incarnation), moment, fault);
        poke(cell, node.hook.clone()).await.map_err(|_| not_there())?;
        Ok(Some(armed))
    }

    /// Lays a trap at a place of the tree: the fault comes at that moment, to whichever incarnation is there then. A
    /// callback that is under way is let go. At most 64 traps are armed in one place; one more replaces the oldest.
    ///
    /// A supervisor has its moments, too. It waits only in [`Callback::PostStop`], for one child after another, and in
    /// [`Callback::Handle`] while it is [suspended](Tree::suspend).
    ///
    /// # Errors
    /// When the tree has no such place.
    pub fn arm(&self, path: &str, moment: Moment, fault: Fault) -> Result<Armed, NotThere> {
        let trap = self.trap(path).ok_or_else(|| NotThere(path.to_owned()))?;
        Ok(trap.arm(moment, fault))
    }

    /// The traps of a place.
    fn trap(&self, path: &str) -> Option<Trap> {
        self.root().find(path).map(|node| node.hook.clone())
    }
}

/// Makes the actor run a callback, whatever its messages are: it is told of a child that came and went. Its own code
/// does not hear of it.
async fn poke(cell: ActorCell, trap: Trap) -> Result<(), ractor::SpawnErr> {
    let (child, _) = Actor::spawn_linked(None, Poke(trap), (), cell).await?;
    child.stop(None);
    Ok(())
}

struct Poke(Trap);

impl Actor for Poke {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        self.0.expect_poke(myself.get_id());
        Ok(())
    }
}
