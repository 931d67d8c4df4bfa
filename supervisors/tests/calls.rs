//! Calls of a service whose actor is killed all the time: each ends as done, refused or unknown, and is what it says.
#![allow(missing_docs, clippy::print_stdout, reason = "it tells what became of the calls")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{CallError, ChildSpec, Intensity, Service, Strategy, SupervisorSpec, Tree};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};

const CALLERS: u64 = 16;
const DEADLINE: Duration = Duration::from_secs(1);

/// How often each request was acted on.
type Acts = Arc<Mutex<BTreeMap<u64, u32>>>;

struct Clerk;

struct Order {
    id: u64,
    reply: oneshot::Sender<u64>,
}

impl Actor for Clerk {
    type Msg = Order;
    type State = Acts;
    type Arguments = Acts;

    async fn pre_start(&self, _: ActorRef<Order>, acts: Acts) -> Result<Acts, ActorProcessingErr> {
        Ok(acts)
    }

    /// Dies before it acts, after it has acted, or not at all.
    async fn handle(
        &self,
        _: ActorRef<Order>,
        Order { id, reply }: Order,
        acts: &mut Acts,
    ) -> Result<(), ActorProcessingErr> {
        sleep(Duration::from_micros(id % 400)).await;
        *acts.lock().unwrap().entry(id).or_default() += 1;
        sleep(Duration::from_micros(id % 300)).await;
        let _ = reply.send(id);
        Ok(())
    }
}

/// Hands every reply on to others, who keep it.
struct Keeper;

struct Keep(oneshot::Sender<()>);

type Kept = Arc<Mutex<Vec<oneshot::Sender<()>>>>;

impl Actor for Keeper {
    type Msg = Keep;
    type State = Kept;
    type Arguments = Kept;

    async fn pre_start(&self, _: ActorRef<Keep>, kept: Kept) -> Result<Kept, ActorProcessingErr> {
        Ok(kept)
    }

    async fn handle(&self, _: ActorRef<Keep>, Keep(reply): Keep, kept: &mut Kept) -> Result<(), ActorProcessingErr> {
        kept.lock().unwrap().push(reply);
        Ok(())
    }
}

/// What a dead actor was sent may still be in its channel, and the reply with it, for as long as anyone knows the actor.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_answer_of_one_that_is_gone() {
    let (kept, service) = (Kept::default(), Service::new("keeper"));
    let to = Arc::clone(&kept);
    let keeper = ChildSpec::service("keeper", &service, move || (Keeper, Arc::clone(&to)));
    let intensity = Intensity { restarts: 10, period: Duration::from_secs(1) };
    let tree = Tree::start("root", SupervisorSpec::new(Strategy::OneForOne, intensity, vec![keeper])).await.unwrap();
    for end in ["a kill", "a stop"] {
        let (before, caller) = (Instant::now(), service.clone());
        let deadline = before + Duration::from_secs(3600);
        let call = tokio::spawn(async move { caller.call(Keep, deadline).await });
        sleep(Duration::from_millis(1)).await;
        let actor = service.get().unwrap();
        if end == "a kill" {
            actor.kill()
        } else {
            actor.stop(None)
        }
        assert_eq!(call.await.unwrap(), Err(CallError::Unknown), "after {end}");
        assert!(before.elapsed() < DEADLINE, "{end}: it was waited for {:?}", before.elapsed());
        service.wait(deadline).await.unwrap();
    }
    assert_eq!(kept.lock().unwrap().len(), 2, "nobody has dropped them");
    tree.stop(DEADLINE).await.unwrap();
}

/// Nobody would wait for the answer.
#[tokio::test(start_paused = true)]
async fn a_call_whose_deadline_has_come_is_not_sent() {
    let (acts, service) = (Acts::default(), Service::new("clerk"));
    let (to, now) = (Arc::clone(&acts), Instant::now());
    let clerk = ChildSpec::service("clerk", &service, move || (Clerk, Arc::clone(&to)));
    let spec = SupervisorSpec::new(Strategy::OneForOne, Intensity::default(), vec![clerk]);
    let tree = Tree::start("root", spec).await.unwrap();
    for deadline in [now, now - Duration::from_secs(1)] {
        let ask = |reply| Order { id: 1, reply };
        assert_eq!(service.call(ask, deadline).await, Err(CallError::NotSent));
    }
    sleep(DEADLINE).await;
    assert_eq!(acts.lock().unwrap().len(), 0);
    tree.stop(DEADLINE).await.unwrap();
}

/// What became of the calls.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    refused: u64,
    unknown: u64,
    kills: u64,
}

async fn hammer(length: Duration) -> Tally {
    let (acts, service) = (Acts::default(), Service::new("clerk"));
    let to = Arc::clone(&acts);
    let clerk = ChildSpec::service("clerk", &service, move || (Clerk, Arc::clone(&to)));
    let intensity = Intensity { restarts: 1_000, period: Duration::from_secs(1) };
    let tree = Tree::start("root", SupervisorSpec::new(Strategy::OneForOne, intensity, vec![clerk])).await.unwrap();
    let end = Instant::now() + length;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (service, acts) = (service.clone(), Arc::clone(&acts));
        callers.spawn(call(caller, service, acts, end));
    }
    let mut kills = 0;
    while Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
        if let Some(clerk) = service.get() {
            clerk.kill();
            kills += 1;
        }
    }
    let mut tally = Tally { kills, ..Tally::default() };
    while let Some(one) = callers.join_next().await {
        let one = one.unwrap();
        tally.done += one.done;
        tally.refused += one.refused;
        tally.unknown += one.unknown;
    }
    tree.stop(DEADLINE).await.unwrap();
    let acts = acts.lock().unwrap();
    assert!(acts.values().all(|&count| count == 1), "a request was acted on twice");
    tally
}

async fn call(caller: u64, service: Service<Order>, acts: Acts, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut id = caller;
    while Instant::now() < end {
        id += CALLERS;
        let deadline = Instant::now() + DEADLINE;
        let call = service.call(|reply| Order { id, reply }, deadline);
        let outcome = timeout(DEADLINE * 2, call).await.expect("a call never hangs past its deadline");
        let acted = acts.lock().unwrap().contains_key(&id);
        match outcome {
            Ok(answer) => {
                assert!(acted && answer == id, "{id} is done, and its answer is its own");
                tally.done += 1;
            }
            Err(CallError::NotSent) => {
                assert!(!acted, "{id} was refused, but acted on");
                tally.refused += 1;
            }
            Err(CallError::Unknown | CallError::Deadline) => tally.unknown += 1,
        }
    }
    tally
}

fn check(tally: &Tally, length: Duration) {
    println!("{length:?}: {tally:?}");
    assert!(tally.done > 0 && tally.unknown > 0, "both are to be seen: {tally:?}");
}

/// A minute of kills, on the paused clock.
#[tokio::test(start_paused = true)]
async fn every_call_ends_as_what_it_is() {
    let minute = Duration::from_secs(60);
    let tally = hammer(minute).await;
    check(&tally, minute);
    let tries = minute.as_millis() / 10;
    assert!(u128::from(tally.kills) * 2 > tries, "killed every 10 ms: {tally:?}");
}

/// The same by the real clock and with real threads: two seconds, or what `CALLS_SECONDS` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_as_what_it_is_among_threads() {
    let seconds = std::env::var("CALLS_SECONDS").ok().map_or(2, |seconds| seconds.parse().expect("a number"));
    let length = Duration::from_secs(seconds);
    check(&hammer(length).await, length);
}
