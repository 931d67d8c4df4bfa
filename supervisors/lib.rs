//! OTP's supervisor for [`ractor`] actors.
//!
//! A [`Tree`] starts actors in a fixed order, watches them, starts them again when they die, and stops them in
//! reverse order. What is started, and what happens after a death, is data: a [`SupervisorSpec`] holding
//! [`ChildSpec`]s. The semantics are those of Erlang/OTP's `supervisor`; where Rust forces a difference the item
//! says so.
//!
//! ```
//! use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
//! use converge_supervisors::{CallError, ChildSpec, Intensity, Service, Strategy, SupervisorSpec, Tree};
//! use tokio::sync::oneshot;
//! use tokio::time::{Duration, Instant};
//!
//! struct Counter;
//! enum Ask { Next(oneshot::Sender<u64>) }
//!
//! impl Actor for Counter {
//!     type Msg = Ask;
//!     type State = u64;
//!     type Arguments = ();
//!     async fn pre_start(&self, _: ActorRef<Ask>, (): ()) -> Result<u64, ActorProcessingErr> { Ok(0) }
//!     async fn handle(&self, _: ActorRef<Ask>, Ask::Next(reply): Ask, n: &mut u64) -> Result<(), ActorProcessingErr> {
//!         *n += 1;
//!         let _ = reply.send(*n);
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let counter = Service::new("counter");
//! let tree = Tree::start("root", SupervisorSpec::new(
//!     Strategy::OneForOne,
//!     Intensity { restarts: 3, period: Duration::from_secs(60) },
//!     vec![ChildSpec::service("counter", &counter, || (Counter, ()))],
//! )).await?;
//!
//! let deadline = Instant::now() + Duration::from_secs(5);
//! assert_eq!(counter.call(Ask::Next, deadline).await?, 1);
//!
//! tree.find("root/counter").expect("is running").kill();   // a crash: the counter comes back, at zero
//! let again = loop {
//!     match counter.call(Ask::Next, deadline).await {
//!         Ok(n) => break n,
//!         Err(CallError::Unknown) => continue, // sent to the one that was dying: it may have counted
//!         Err(error) => return Err(error.into()),
//!     }
//! };
//! # let _ = again;
//! tree.stop(Duration::from_secs(5)).await?;
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! - **One at a time.** A child is started again only when nothing is left of its previous incarnation: its task has
//!   ended, its state is dropped, and for a supervisor the same holds for its whole subtree, however it died. Actors that
//!   a worker had linked to itself have ended too. A child may own a file, a lock or a port.
//! - **Order.** Children start in the order of the spec, each after the one before is up, and stop in reverse order.
//! - **A kill is a crash.** `ractor` reports a killed actor as terminated; here it is an abnormal exit, as are a panic,
//!   an error from a handler, and an aborted task. Normal are: no reason, `"normal"`, `"Drained"`, `"shutdown"`
//!   and `"shutdown: …"`.
//! - **Nothing hangs the supervisor.** Starts and stops run in tasks of their own that report back by message, so a
//!   supervisor answers its parent's stop in the middle of a child's long start. (OTP's does not.)
//! - **No orphans.** When a supervisor dies, by whatever cause, everything under it is killed.
//!
//! # What it asks of actors
//!
//! Any [`ractor::Actor`] can be a child, unchanged. Keep in mind what `ractor` does: `post_stop` is skipped on kill and
//! panic, so never persist there; a kill takes effect at an await point only; tasks, threads and blocking work that a
//! killed actor had spawned go on, so own them in something that ends them when dropped. The features `cluster` and
//! `async-trait` of `ractor` change its traits and are not supported.

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
pub use spec::{AutoShutdown, ChildSpec, Restart, Shutdown, SpecError, Strategy, SupervisorSpec};
pub use tree::{Escalated, StartError, StopError, Tree};
pub use vitals::{Callback, Phase, SuspendError, Vitals};
