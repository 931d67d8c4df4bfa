//! What is known of the last incarnation in one place of the tree.

use ractor::{ActorCell, ActorId};
use tokio::time::Instant;

use crate::exit::{Exit, SHUTDOWN};
use crate::gone::Gone;
use crate::snapshot::ChildState;
use crate::strategy::StartFailure;

#[derive(Debug)]
pub(super) struct Facts {
    pub(super) state: ChildState,
    /// The live actor.
    pub(super) cell: Option<ActorCell>,
    /// Tells of the end of `cell`, where that is a supervisor.
    pub(super) gone: Option<Gone>,
    /// Like `cell`, but kept after the end: exit events are matched with it.
    pub(super) actor: Option<ActorId>,
    pub(super) incarnation: u64,
    pub(super) starts: u64,
    pub(super) last_exit: Option<String>,
    /// The incarnation whose end `last_exit` tells.
    pub(super) exited: u64,
    pub(super) up_since: Option<Instant>,
    /// How a supervisor that exited in good order came to that. One that was killed leaves nothing here.
    pub(super) conclusion: Option<Result<(), StartFailure>>,
    /// A worker came to the end of its `post_stop`.
    pub(super) stopped_well: bool,
}

impl Facts {
    /// Nothing was ever started.
    pub(super) fn at_rest() -> Facts {
        Facts {
            state: ChildState::Stopped,
            cell: None,
            gone: None,
            actor: None,
            incarnation: 0,
            starts: 0,
            last_exit: None,
            exited: 0,
            up_since: None,
            conclusion: None,
            stopped_well: false,
        }
    }

    /// One more incarnation: its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.incarnation += 1;
        self.cell = None;
        self.actor = None;
        self.up_since = None;
        self.conclusion = None;
        self.stopped_well = false;
        self.incarnation
    }

    /// How it ended by its own account, for want of an exit event. `None`: it was killed, or failed.
    pub(super) fn own_account(&self) -> Option<Exit> {
        match &self.conclusion {
            Some(Ok(())) => Some(Exit::from_reason(Some(SHUTDOWN.to_owned()))),
            Some(Err(StartFailure { path, reason })) => {
                Some(Exit::from_reason(Some(format!("shutdown: {path}: {reason}"))))
            }
            None => self.stopped_well.then(Exit::unread),
        }
    }
}
