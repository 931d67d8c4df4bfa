#![doc = include_str!("README.md")]
//!
#![doc = include_str!("guide.md")]
#![forbid(unsafe_code)]

#[cfg(panic = "abort")]
compile_error!(
    "a supervisor restarts what panicked: build with panic = \"unwind\", abort would bypass every supervisor"
);

mod application;
mod backoff;
#[cfg(feature = "chaos")]
pub mod chaos;
mod dynamic;
mod exit;
mod gone;
mod hook;
mod intensity;
mod latch;
mod linked;
mod minder;
mod node;
mod reports;
mod requests;
mod service;
mod snapshot;
mod sole;
mod spec;
mod strategy;
mod supervised;
mod supervisor;
mod tree;
mod vitals;

pub use application::{Application, ApplicationError, Ended, ExitPolicy, PhaseError, Running};
#[cfg(feature = "signals")]
pub use application::{RunError, Signals};
pub use backoff::Backoff;
#[cfg(feature = "chaos")]
pub use chaos::{Fault, NotThere};
pub use dynamic::{DynamicSupervisor, Template};
pub use intensity::Intensity;
pub use latch::{Hold, Latch};
pub use ractor;
pub use reports::{Event, Report, Reports, ReportsError};
pub use requests::{ChildError, Started, SupervisorRef};
pub use service::{CallError, Service};
pub use snapshot::{ChildState, Counts, Kind, TreeNode, TreeSnapshot};
pub use spec::{AutoShutdown, ChildSpec, Restart, Shutdown, SpecError, Strategy, SupervisorSpec, panic_text};
pub use tree::{Escalated, StartError, StopError, Tree};
pub use vitals::{Callback, Phase, SuspendError, Vitals};
