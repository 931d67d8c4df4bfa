//! Requests that wait for their turn, the oldest first, and what is new for them.
//!
//! Whether a request is taken depends on the machine's stage and on the state of the child that it is about. So one that
//! waits is tried again when either has changed, and not with every message: a thousand that wait while thousands of
//! children are started or stopped in order would be tried a thousand times thousands of times.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::requests::Control;
use crate::strategy::{Place, Stage};

#[derive(Default)]
pub(super) struct Parked {
    queue: VecDeque<Control>,
    /// How many wait, by the child that they are about.
    about: HashMap<String, usize>,
    /// Children of which something is new for one that waits.
    stirred: BTreeSet<String>,
    /// The machine's stage when they were last tried.
    tried_in: Option<Stage>,
    /// Whose turn to be started it was then.
    turn: Option<Place>,
}

/// Why those that wait are tried again.
pub(super) enum TryAgain {
    /// The machine has come to another stage: all of them.
    Stage,
    /// Something happened to these children.
    Children(BTreeSet<String>),
}

impl TryAgain {
    pub(super) fn concerns(&self, child: &str) -> bool {
        match self {
            TryAgain::Stage => true,
            TryAgain::Children(children) => children.contains(child),
        }
    }
}

impl Parked {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// One about this child waits.
    pub(super) fn is_about(&self, child: &str) -> bool {
        self.about.contains_key(child)
    }

    /// One more, the youngest.
    pub(super) fn push(&mut self, control: Control) {
        *self.about.entry(control.child().to_owned()).or_default() += 1;
        self.queue.push_back(control);
    }

    /// Something happened to this child.
    pub(super) fn stir(&mut self, child: &str) {
        if self.is_about(child) {
            self.stirred.insert(child.to_owned());
        }
    }

    /// The child whose turn it is now and was not before.
    pub(super) fn new_turn(&mut self, turn: Option<Place>) -> Option<Place> {
        let before = std::mem::replace(&mut self.turn, turn);
        turn.filter(|_| turn != before)
    }

    /// What is new since the last time; `None` when there is nothing, or nobody for it.
    pub(super) fn try_again(&mut self, stage: Stage) -> Option<TryAgain> {
        let stirred = std::mem::take(&mut self.stirred);
        let moved = self.tried_in.replace(stage) != Some(stage);
        match () {
            () if self.queue.is_empty() => None,
            () if moved => Some(TryAgain::Stage),
            () if stirred.is_empty() => None,
            () => Some(TryAgain::Children(stirred)),
        }
    }

    /// All that wait, to be tried in order. Each is given back with [`Parked::keep`], or is told of with
    /// [`Parked::is_done`].
    pub(super) fn take(&mut self) -> VecDeque<Control> {
        std::mem::take(&mut self.queue)
    }

    pub(super) fn keep(&mut self, control: Control) {
        self.queue.push_back(control);
    }

    pub(super) fn is_done(&mut self, child: &str) {
        if let Some(count) = self.about.get_mut(child) {
            *count -= 1;
            if *count == 0 {
                self.about.remove(child);
            }
        }
    }

    /// The oldest.
    pub(super) fn pop(&mut self) -> Option<Control> {
        let control = self.queue.pop_front()?;
        self.is_done(control.child());
        Some(control)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use ractor::{Actor, ActorProcessingErr, ActorRef};
    use tokio::sync::Notify;
    use tokio::time::{Duration, sleep};

    use crate::{ChildSpec, Intensity, Shutdown, Started, Strategy, SupervisorSpec, Tree};

    const CHILDREN: usize = 2_000;
    const WAITING: usize = 1_000;

    /// Stops when it is let.
    struct StopsWhenLet(Arc<Notify>);

    impl Actor for StopsWhenLet {
        type Msg = ();
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }

        async fn post_stop(&self, _: ActorRef<()>, (): &mut ()) -> Result<(), ActorProcessingErr> {
            self.0.notified().await;
            Ok(())
        }
    }

    fn worker(id: usize, may_stop: &Arc<Notify>) -> ChildSpec {
        let may_stop = Arc::clone(may_stop);
        ChildSpec::actor(id.to_string(), move || (StopsWhenLet(Arc::clone(&may_stop)), ())).shutdown(Shutdown::Infinity)
    }

    /// A group is stopped and started again while many wait for their turn: each is tried when it comes, when the group
    /// is down, and when it is up.
    #[tokio::test(start_paused = true)]
    async fn those_that_wait_are_tried_when_something_is_new() {
        let (free, youngest) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let kill = |id| worker(id, &free).shutdown(Shutdown::BrutalKill);
        let mut children: Vec<ChildSpec> = (0..CHILDREN - 1).map(kill).collect();
        children.push(worker(CHILDREN - 1, &youngest));
        let spec = SupervisorSpec::new(Strategy::OneForAll, Intensity::default(), children);
        let tree = Tree::start("root", spec).await.unwrap();
        let attempts = || tree.root().attempts.load(Ordering::Relaxed);
        tree.find("root/0").unwrap().kill();
        let mut starts = tokio::task::JoinSet::new();
        sleep(Duration::from_millis(1)).await; // the youngest is asked to stop
        for id in 0..WAITING {
            let (root, spec) = (tree.supervisor("root").unwrap(), worker(CHILDREN + id, &free));
            starts.spawn(async move { root.start_child(spec.shutdown(Shutdown::BrutalKill)).await });
        }
        while attempts() < WAITING {
            sleep(Duration::from_millis(1)).await;
        }
        youngest.notify_one();
        while let Some(started) = starts.join_next().await {
            assert!(matches!(started.unwrap(), Ok(Started::Running { .. })));
        }
        assert_eq!(attempts(), 3 * WAITING);
        youngest.notify_one();
        tree.stop(Duration::from_secs(60)).await.unwrap();
    }

    /// A request that waits for one child is tried when something happens to that one.
    #[tokio::test(start_paused = true)]
    async fn what_happens_to_others_is_no_news() {
        let (free, slow) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let others = (1..100).map(|id| worker(id, &free).shutdown(Shutdown::BrutalKill));
        let children = std::iter::once(worker(0, &slow)).chain(others).collect();
        let spec = SupervisorSpec::new(Strategy::OneForOne, Intensity::default(), children);
        let tree = Tree::start("root", spec).await.unwrap();
        let root = tree.supervisor("root").unwrap();
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let root = root.clone();
            asked.spawn(async move { root.terminate_child("0").await });
        }
        sleep(Duration::from_millis(1)).await;
        for id in 1..100 {
            root.terminate_child(&id.to_string()).await.unwrap();
        }
        assert_eq!(tree.root().attempts.load(Ordering::Relaxed), 2 + 99);
        slow.notify_one();
        while let Some(ended) = asked.join_next().await {
            assert_eq!(ended.unwrap(), Ok(()));
        }
        assert_eq!(tree.root().attempts.load(Ordering::Relaxed), 2 + 99 + 1);
        tree.stop(Duration::from_secs(60)).await.unwrap();
    }
}
