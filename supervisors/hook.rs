//! The one place where chaos gets at the engine.
//!
//! Each node of the tree has a [`Hook`]; each callback of a worker or a supervisor goes through it, and the engine tells it
//! of starts and restarts. With the feature `chaos` it is a trap that faults can be laid in. Without, it is a type of no
//! size whose methods do nothing, so that nothing else in the engine has to know of the feature.

#[cfg(feature = "chaos")]
pub(crate) use crate::chaos::{MessageKind, Occasion, Trap as Hook, kind_of};
#[cfg(not(feature = "chaos"))]
pub(crate) use idle::{Hook, MessageKind, Occasion, kind_of};

#[cfg(not(feature = "chaos"))]
mod idle {
    use std::pin::Pin;

    use ractor::SupervisionEvent;
    use tokio::time::Instant;

    use crate::intensity::Intensity;
    use crate::node::Node;
    use crate::spec::Restart;
    use crate::vitals::Callback;

    #[derive(Debug, Default)]
    pub(crate) struct Hook {}

    impl Hook {
        pub(crate) fn supervises(&self, _: Intensity) {}

        pub(crate) fn begins(&self, _: Restart) {}

        pub(crate) fn restarts(&self, _: Instant) {}

        pub(crate) fn swallows(&self, _: &SupervisionEvent) -> bool {
            false
        }

        pub(crate) fn kind(&self, _: impl FnOnce() -> MessageKind) -> Option<MessageKind> {
            None
        }

        pub(crate) fn through<'a, F>(&self, _: &Node, _: Occasion, callback: Pin<&'a mut F>) -> Pin<&'a mut F> {
            callback
        }
    }

    pub(crate) struct Occasion;

    impl Occasion {
        pub(crate) fn new(_incarnation: u64, _: Callback, _: Option<MessageKind>) -> Occasion {
            Occasion
        }
    }

    pub(crate) struct MessageKind;

    impl MessageKind {
        pub(crate) fn within<M>(self, _: &M) -> MessageKind {
            self
        }
    }

    pub(crate) fn kind_of<M>(_: &M) -> MessageKind {
        MessageKind
    }
}
