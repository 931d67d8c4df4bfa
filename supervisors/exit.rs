//! How a child ended: the reason, and whether it counts as normal.

use ractor::SupervisionEvent;

/// OTP's word for an end without a reason, and ours in reports.
const NORMAL: &str = "normal";
/// What a supervisor sends with every stop it orders.
pub(crate) const SHUTDOWN: &str = "shutdown";
/// `ractor`'s word for an actor that handled its messages to the end.
const DRAINED: &str = "Drained";
/// `ractor`'s word for a kill.
pub(crate) const KILLED: &str = "killed";

/// There was nothing to run.
pub(crate) const IGNORE: &str = "ignore";

/// The end of one incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Why, in words. `"normal"` when the actor gave none.
    pub(crate) reason: String,
    /// A transient child is restarted only when this is false.
    pub(crate) normal: bool,
}

impl Exit {
    /// An end that nobody asked for.
    pub(crate) fn abnormal(reason: impl Into<String>) -> Self {
        Exit { reason: reason.into(), normal: false }
    }

    /// A child stopped, and its supervisor, in its own `post_stop`, could not read for what reason.
    pub(crate) fn unread() -> Self {
        Exit { reason: "stopped by itself".to_owned(), normal: true }
    }

    /// An actor ended with this stop reason. Reasons are strings that anyone can send: as in OTP, every one that is
    /// not known to be normal is abnormal. `"shutdown: …"` is OTP's `{shutdown, Term}`.
    pub(crate) fn from_reason(reason: Option<String>) -> Self {
        match reason {
            None => Exit { reason: NORMAL.to_owned(), normal: true },
            Some(reason) => {
                let normal =
                    reason == NORMAL || reason == SHUTDOWN || reason == DRAINED || reason.starts_with("shutdown: ");
                Exit { reason, normal }
            }
        }
    }

    /// The exit that an event reports, if it reports one. The state inside the event is the caller's to drop.
    pub(crate) fn from_event(event: &SupervisionEvent) -> Option<Self> {
        match event {
            SupervisionEvent::ActorTerminated(_, _, reason) => Some(Exit::from_reason(reason.clone())),
            SupervisionEvent::ActorFailed(_, error) => Some(Exit::abnormal(error.to_string())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_and_abnormal_reasons() {
        for reason in [None, Some("normal"), Some("Drained"), Some("shutdown"), Some("shutdown: too many restarts")] {
            assert!(Exit::from_reason(reason.map(str::to_owned)).normal, "{reason:?}");
        }
        for reason in ["killed", "actor_task_cancelled", "out of luck", "", "shutdowns", "normal: so it says"] {
            assert!(!Exit::from_reason(Some(reason.to_owned())).normal, "{reason:?}");
        }
    }
}
