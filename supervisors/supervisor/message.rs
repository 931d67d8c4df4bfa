//! What a supervisor starts from, and what it is told and asked.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Duration;

use crate::dynamic::DynamicSpec;
use crate::hook::{MessageKind, kind_of};
use crate::minder::MinderReport;
use crate::node::Incarnation;
use crate::requests::Control;
use crate::spec::{ChildSpec, Strategy, SupervisorSpec};
use crate::strategy::{Place, Rules, StartFailure};

/// What a supervisor starts from.
pub(crate) struct Setup {
    pub(crate) orders: Orders,
    pub(crate) incarnation: Incarnation,
    /// Told once whether all children came up.
    pub(crate) boot: oneshot::Sender<Result<(), StartFailure>>,
}

/// What kind of supervisor it is.
#[derive(Clone, Debug)]
pub(crate) enum Orders {
    Static(Arc<SupervisorSpec>),
    Dynamic(Arc<DynamicSpec>),
}

/// What a supervisor is told by its own tasks, and asked by others.
pub(crate) enum Msg {
    /// From the minder of a child.
    Report { child: Place, incarnation: u64, report: MinderReport },
    /// The backoff of a child is over.
    Elapsed { child: Place, ticket: u64 },
    /// Someone asks for something.
    Control(Control),
}

impl Msg {
    /// With what a minder reports, or what is asked.
    pub(super) fn kind(&self) -> MessageKind {
        match self {
            Msg::Report { report, .. } => kind_of(self).within(report),
            Msg::Elapsed { .. } => kind_of(self),
            Msg::Control(control) => kind_of(self).within(control),
        }
    }
}

impl Orders {
    pub(super) fn rules(&self) -> Rules {
        match self {
            Orders::Static(spec) => Rules {
                strategy: spec.strategy,
                intensity: spec.intensity,
                auto_shutdown: spec.auto_shutdown,
                dynamic: false,
            },
            Orders::Dynamic(spec) => Rules {
                strategy: Strategy::OneForOne,
                intensity: spec.template.intensity,
                auto_shutdown: spec.template.auto_shutdown,
                dynamic: true,
            },
        }
    }

    pub(super) fn children(&self) -> &[ChildSpec] {
        match self {
            Orders::Static(spec) => &spec.children,
            Orders::Dynamic(_) => &[],
        }
    }

    pub(super) fn sibling_shutdown(&self) -> Option<Duration> {
        match self {
            Orders::Static(spec) => spec.sibling_shutdown,
            Orders::Dynamic(_) => None,
        }
    }
}
