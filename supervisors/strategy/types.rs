//! What goes into the machine and what comes out of it.

use crate::backoff::Backoff;
use crate::exit::Exit;
use crate::intensity::Intensity;
use crate::spec::{AutoShutdown, Restart, Strategy};

/// A child, by its place in start order. A place is never used again.
pub(crate) type Place = usize;

/// A start that did not come about: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartFailure {
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Start all children.
    Boot,
    /// A `Start` is done.
    Started(Place),
    /// A `Start` is done, and there is nothing to run.
    Ignored(Place),
    /// A `Start` failed, and nothing of it is left.
    StartFailed(Place, StartFailure),
    /// The child ended, and nothing of it is left.
    Gone(Place, Exit),
    /// The child was killed and is still there: it must never be started again.
    Stuck(Place, String),
    /// A `Delay` is over.
    Elapsed(Place),
    /// Stop all children and exit.
    Shutdown,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Start it; answered by `Started` or `StartFailed`.
    Start(Place),
    /// Stop it, or call its start off; answered by `Gone`, `StartFailed` or `Stuck`. `hurry`: another child failed.
    Stop {
        /// The child.
        child: Place,
        /// It gets the grace for siblings, not its full shutdown time.
        hurry: bool,
    },
    /// Wait before starting it; answered by `Elapsed`. `attempt` counts from 0.
    Delay {
        /// The child.
        child: Place,
        /// Restarts in a row before this one.
        attempt: u32,
    },
    /// It failed and is to be restarted.
    Restarting {
        /// The child that failed.
        child: Place,
        /// Why.
        reason: String,
        /// Restarts in the window.
        in_window: usize,
    },
    /// A child is no longer one: drop what is known of it. After its `Answer`.
    Forget(Place),
    /// What was asked about this child is done; whoever asked is to be told.
    Answer(Place, RequestOutcome),
    /// All children are up for the first time.
    Ready,
    /// Nothing is left: exit.
    Exit(ExitCause),
}

impl Effect {
    /// The child that it is about.
    pub(crate) fn child(&self) -> Option<Place> {
        match *self {
            Effect::Start(child) | Effect::Forget(child) | Effect::Answer(child, _) => Some(child),
            Effect::Stop { child, .. } | Effect::Delay { child, .. } | Effect::Restarting { child, .. } => Some(child),
            Effect::Ready | Effect::Exit(_) => None,
        }
    }
}

/// How a request about a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    /// It is up.
    Started,
    /// Its factory had nothing to run.
    Ignored,
    /// It did not start.
    Failed(StartFailure),
    /// It is down, by `terminate_child`.
    Terminated,
}

/// Why the supervisor exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExitCause {
    /// It was told to.
    Shutdown,
    /// A child could not be started the first time.
    StartFailed(StartFailure),
    /// A significant child ended by itself.
    AutoShutdown,
    /// More restarts than the intensity allows.
    Escalated {
        /// The child that failed once too often.
        child: Place,
        /// Why it failed the last time, and which limit that passed.
        reason: String,
    },
}

/// What the machine is told of a child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) restart: Restart,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) significant: bool,
}

/// What a supervisor as a whole goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
    pub(crate) auto_shutdown: AutoShutdown,
    /// Children come and go, and are stopped all at once.
    pub(crate) dynamic: bool,
}

/// What people ask of a child.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// Make this a child, the youngest, and start it; answered by `Answer`.
    Start(Place, Terms),
    /// Start a child that is down; answered by `Answer`.
    Restart(Place),
    /// Stop a child and leave it down; answered by `Answer`.
    Terminate(Place),
    /// Forget a child that is down; done when it was taken.
    Delete(Place),
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not yet: ask again after the next input.
    Later,
    /// The child runs.
    Running,
    /// The child is waiting to be restarted.
    Restarting,
    /// There is such a child, and it is down.
    Present,
    /// The supervisor is on its way out.
    Exiting,
}

/// What, besides the state of the child that it is about, says whether a request is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Children are started in order, or are about to be.
    Starting,
    /// Nothing is done in order.
    Running,
    /// Children are stopped in order.
    Stopping,
    /// Everything is refused.
    Exiting,
}
