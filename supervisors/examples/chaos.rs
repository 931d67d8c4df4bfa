//! A project's own tree, under a monkey: what a test of yours could look like.
//!
//! ```sh
//! cargo run --example chaos --features chaos
//! ```
//!
//! The tree counts words: a ledger keeps the counts, and counters send it what they have counted. The ledger keeps them
//! outside its state, as one would on a disk, so that its death loses none; that is what is checked.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use converge_supervisors::chaos::{Budget, Fault, Monkey, Point, Sweep, Target, Trigger, almost_kill, sweep_awaits};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Intensity, Service, StartError, Strategy, SupervisorSpec, Tree};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

const WRITE: Duration = Duration::from_millis(1);

/// What survives: think of a file.
type Disk = Arc<Mutex<BTreeMap<String, u64>>>;

struct Ledger(Disk);

enum Entry {
    Add(String, oneshot::Sender<()>),
    Sum(oneshot::Sender<u64>),
}

impl Actor for Ledger {
    type Msg = Entry;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Entry>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Entry>, entry: Entry, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match entry {
            Entry::Add(word, done) => {
                sleep(WRITE).await; // a write takes a while, and may be cut off before or after it
                *self.0.lock().expect("not poisoned").entry(word).or_default() += 1;
                sleep(WRITE).await;
                let _ = done.send(());
            }
            Entry::Sum(reply) => {
                let _ = reply.send(self.0.lock().expect("not poisoned").values().sum());
            }
        }
        Ok(())
    }
}

struct Counter(Service<Entry>);

struct Text(String, oneshot::Sender<u64>);

impl Actor for Counter {
    type Msg = Text;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Text>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Text>, Text(text, reply): Text, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let mut counted = 0;
        for word in text.split_whitespace() {
            let deadline = Instant::now() + Duration::from_secs(5);
            let added = self.0.call(|done| Entry::Add(word.to_owned(), done), deadline).await;
            counted += u64::from(added.is_ok());
        }
        let _ = reply.send(counted);
        Ok(())
    }
}

/// root ─┬ ledger
///       └ counters (one_for_one) ─ counter
struct Words {
    tree: Tree,
    ledger: Service<Entry>,
    counter: Service<Text>,
}

impl Words {
    async fn start(disk: &Disk) -> Result<Words, StartError> {
        let (ledger, counter) = (Service::new("ledger"), Service::new("counter"));
        let intensity = Intensity { restarts: 3, period: Duration::from_secs(5) };
        let (own, to) = (disk.clone(), ledger.clone());
        let counters = vec![ChildSpec::service("counter", &counter, move || (Counter(to.clone()), ()))];
        let children = vec![
            ChildSpec::service("ledger", &ledger, move || (Ledger(own.clone()), ())),
            ChildSpec::supervisor("counters", SupervisorSpec::new(Strategy::OneForOne, intensity, counters)),
        ];
        // When the ledger dies, whoever counts waits for it in vain: it gets this long, not its full shutdown time.
        let sibling_shutdown = Some(Duration::from_millis(10));
        let root =
            SupervisorSpec { sibling_shutdown, ..SupervisorSpec::new(Strategy::RestForOne, intensity, children) };
        let tree = Tree::start("root", root).await?;
        Ok(Words { tree, ledger, counter })
    }

    /// Words that are known to have been counted; the rest may have been.
    async fn count(&self, text: &str) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(5);
        self.counter.call(|reply| Text(text.to_owned(), reply), deadline).await.unwrap_or(0)
    }

    async fn sum(&self) -> u64 {
        loop {
            let deadline = Instant::now() + Duration::from_secs(5);
            if let Ok(sum) = self.ledger.call(Entry::Sum, deadline).await {
                return sum;
            }
        }
    }
}

// With paused time a minute of faults passes in a moment, and a seed repeats its run.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 1. A minute of kills, panics and stalls, while it works; never more than the tree tolerates.
    let disk = Disk::default();
    let words = Words::start(&disk).await?;
    let monkey = Monkey::new(2026)
        .target(Target::workers().weight(3))
        .target(Target::path("root/counters"))
        .fault(Fault::Kill, 3)
        .fault(Fault::Panic, 1)
        .fault(Fault::Stall(Duration::from_millis(200)), 1)
        .trigger(Trigger::Every { interval: Duration::from_secs(1), jitter: 0.5 })
        .budget(Budget::Within { spare: 0 });
    let monkey = monkey.attach(&words.tree);
    let (begun, mut known) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(60) {
        known += words.count("to be or not to be").await;
        sleep(Duration::from_millis(5)).await;
    }
    let outcome = monkey.detach().await;
    print!("{outcome}");
    let sum = words.sum().await;
    println!("{known} words are known to have been counted, {sum} were");
    assert!(outcome.is_survived());
    assert!(sum >= known, "lost {} words", known - sum);

    // 2. A kill at every await of every actor.
    let load = async || {
        words.count("that is the question").await;
        words.sum().await;
    };
    let check = async |_: &Point| match words.count("whether").await {
        1 => Ok(()),
        _ => Err("it does not count any more".to_owned()),
    };
    let table = sweep_awaits(&words.tree, Sweep::new(), load, check).await;
    print!("{table}");
    assert_eq!(table.failures().count(), 0);
    words.tree.stop(Duration::from_secs(5)).await?;

    // 3. How many kills in a row it takes.
    let found = almost_kill(2026, &Target::workers(), 100, async || Ok(Words::start(&disk).await?.tree)).await?;
    println!("it survives {} kills in a row", found.survived);
    assert!(found.survived >= 3);
    Ok(())
}
