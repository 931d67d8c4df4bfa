//! Whatever a supervisor is killed by, those below it die in the order of the tree, so that a run repeats. `ractor` alone
//! kills children in the order of a map that has none: of twelve, once in half a billion times as they were started.
#![allow(missing_docs)]

use crate::common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Shutdown, Tree};
use tokio::time::timeout;

const MORTALS: usize = 12;

/// Logs its end.
struct Mortal {
    number: usize,
    log: Log,
}

struct Witness(usize, Log);

impl Drop for Witness {
    fn drop(&mut self) {
        self.1.push(self.0.to_string());
    }
}

impl Actor for Mortal {
    type Msg = ();
    type State = Witness;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<Witness, ActorProcessingErr> {
        Ok(Witness(self.number, self.log.clone()))
    }
}

fn mortals(log: &Log) -> Vec<ChildSpec> {
    let mortal = |number: usize| {
        let log = log.clone();
        ChildSpec::actor(number.to_string(), move || (Mortal { number, log: log.clone() }, ()))
    };
    (0..MORTALS).map(mortal).collect()
}

fn in_order() -> Vec<String> {
    (0..MORTALS).map(|number| number.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn below_a_supervisor_that_its_parent_kills() {
    let log = Log::new();
    let s = ChildSpec::supervisor("s", spec(OneForOne, 1, 1, mortals(&log))).shutdown(Shutdown::BrutalKill);
    let tree = Tree::start("root", spec(OneForOne, 1, 1, vec![s])).await.unwrap();
    tree.supervisor("root").unwrap().terminate_child("s").await.unwrap();
    assert_eq!(log.take(), in_order());
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn below_a_supervisor_whose_start_takes_too_long() {
    let (log, last) = (Log::new(), Knobs::new());
    last.hang_start(true);
    let mut children = mortals(&log);
    children.push(probe("last", &Log::new(), &last));
    let s = ChildSpec::supervisor("s", spec(OneForOne, 1, 1, children)).start_timeout(second());
    Tree::start("root", spec(OneForOne, 1, 1, vec![s])).await.unwrap_err();
    assert_eq!(log.take(), in_order());
}

#[tokio::test(start_paused = true)]
async fn of_a_tree_whose_start_nobody_awaits_any_more() {
    let (log, last) = (Log::new(), Knobs::new());
    last.hang_start(true);
    let mut children = mortals(&log);
    children.push(probe("last", &Log::new(), &last));
    let start = Tree::start("root", spec(OneForOne, 1, 1, children));
    timeout(second(), start).await.unwrap_err();
    settle().await;
    assert_eq!(log.take(), in_order());
}

#[cfg(feature = "chaos")]
#[tokio::test(start_paused = true)]
async fn below_a_supervisor_whose_starts_are_swept() {
    use converge_supervisors::Callback;
    use converge_supervisors::chaos::{Sweep, Target, sweep_awaits};

    let log = Log::new();
    let s = ChildSpec::supervisor("s", spec(OneForOne, 3, 5, mortals(&log)));
    let tree = Tree::start("root", spec(OneForOne, 3, 5, vec![s])).await.unwrap();
    let check = async |_: &_| match log.take() {
        ends if ends.chunks(MORTALS).all(|ends| ends == in_order()) => Ok(()),
        ends => Err(format!("{ends:?}")),
    };
    let table = sweep_awaits(&tree, Sweep::new().target(Target::path("root/s")), async || {}, check).await;
    // For the others a single child is killed first.
    let starts = table.rows.iter().filter(|row| matches!(row.point.callback, Callback::PreStart | Callback::PostStart));
    let starts: Vec<_> = starts.collect();
    assert!(!starts.is_empty() && starts.iter().all(|row| row.verdict.is_ok()), "{table}");
    tree.stop(PATIENCE).await.unwrap();
}
