//! Calls between the hosts of whole nodes: what is told is true, and nothing runs twice, while nodes and their actors die.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::inprocess::{EmbeddedCluster, PATIENCE, eventually, load, strike, verify};
use converge_ledger::remote::{
    CallContext, MayHaveRun, NodeEvent, NotSent, RegisterError, Registration, Remote, RemoteCalls, RemoteError,
};
use converge_ledger::supervisors::Fault;
use converge_ledger::supervisors::ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use converge_ledger::{Ledger, Node, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

#[derive(Serialize, Deserialize)]
struct Deposit {
    number: u64,
}

impl Remote for Deposit {
    const TAG: &'static str = "bank.Deposit";
    type Reply = u64;
}

/// The same name with other content, as a newer program might have.
#[derive(Serialize, Deserialize)]
struct NewerDeposit {
    number: u64,
    currency: String,
}

impl Remote for NewerDeposit {
    const TAG: &'static str = "bank.Deposit.2";
    type Reply = u64;
}

/// A program that changed the message and kept its tag.
#[derive(Serialize, Deserialize)]
struct LongerDeposit {
    number: u64,
    currency: String,
}

impl Remote for LongerDeposit {
    const TAG: &'static str = Deposit::TAG;
    type Reply = u64;
}

/// The same message, by a program that takes its answer for something else.
#[derive(Serialize, Deserialize)]
struct Stranger {
    number: u64,
}

impl Remote for Stranger {
    const TAG: &'static str = Deposit::TAG;
    type Reply = (u64, String);
}

/// How often each deposit was carried out.
#[derive(Clone, Default)]
struct Bank(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Bank {
    fn open_at(&self, remote: &RemoteCalls) -> Registration {
        let bank = self.clone();
        let handler = move |_: CallContext, deposit: Deposit| {
            let bank = bank.clone();
            async move {
                assert_ne!(std::thread::current().name(), Some("ledger"), "a handler takes a turn of the ledger's");
                tokio::task::yield_now().await;
                *bank.0.lock().unwrap().entry(deposit.number).or_default() += 1;
                tokio::task::yield_now().await;
                if deposit.number.is_multiple_of(13) { Err("bad luck") } else { Ok(deposit.number) }
            }
        };
        remote.register("bank", handler).unwrap()
    }

    fn runs(&self, number: u64) -> u32 {
        self.0.lock().unwrap().get(&number).copied().unwrap_or(0)
    }
}

type Told = BTreeMap<u64, Result<u64, RemoteError>>;

/// Calls all nodes in turn until it is told to stop.
async fn customer(ledger: Ledger, first: u64, mut stop: watch::Receiver<bool>) -> Told {
    let (remote, mut told) = (ledger.remote(), Told::new());
    for number in (first..).step_by(3) {
        if *stop.borrow_and_update() {
            break;
        }
        let ended = remote.call(NodeId(1 + number / 3 % 3), "bank", Deposit { number }, Duration::from_secs(2)).await;
        if matches!(ended, Err(RemoteError::NotSent(_))) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        told.insert(number, ended);
    }
    told
}

fn true_of(bank: &Bank, number: u64, ended: &Result<u64, RemoteError>) -> bool {
    match (ended, bank.runs(number)) {
        (Ok(answer), 1) => *answer == number,
        (Err(RemoteError::Failed(_)), 1) => number.is_multiple_of(13),
        (Err(RemoteError::NotSent(_)), 0) | (Err(RemoteError::Unknown(_)), 0 | 1) => true,
        _ => false,
    }
}

async fn reached(ledgers: &[Ledger]) {
    let all = || ledgers.iter().all(|ledger| ledger.remote().nodes().len() == ledgers.len() - 1);
    eventually("every node can call every other", all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_no_call_runs_twice_and_what_callers_are_told_is_true() {
    let mut cluster = EmbeddedCluster::start_on_a_thread(3).await;
    let bank = Bank::default();
    let mut open: Vec<_> = cluster.nodes.iter().map(|node| bank.open_at(&node.remote())).collect();
    let (ledgers, stop) = (cluster.ledgers(), watch::Sender::new(false));
    reached(&ledgers).await;
    let appends = load(&ledgers, 2, &Arc::default());
    let mut customers = JoinSet::new();
    for (ledger, first) in ledgers.iter().zip(1..) {
        customers.spawn(customer(ledger.clone(), first, stop.subscribe()));
    }
    for round in 0..3 {
        for path in ["links/2-call", "links/3-call", "links", "listener"] {
            let fault = if round % 2 == 0 { Fault::Kill } else { Fault::Panic };
            strike(&cluster.nodes[0], &format!("root/distribution/{path}"), fault).await;
            appends.progress(1).await;
        }
    }
    let record = appends.finish().await;
    assert_eq!(record.failures(), 0, "the ledger felt it: {:?}", record.operations());
    // A node ends under its callers, and another process of it comes up.
    drop(open.remove(2));
    cluster.take(2).stop(PATIENCE).await.unwrap();
    assert_eq!(
        ledgers[2].remote().call(NodeId(1), "bank", Deposit { number: 0 }, PATIENCE).await,
        Err(NotSent::Down.into())
    );
    cluster.bring_back(2).await;
    open.push(bank.open_at(&cluster.nodes[2].remote()));
    reached(&cluster.ledgers()).await;
    stop.send_replace(true);
    let told: Told = customers.join_all().await.into_iter().flatten().collect();
    for (number, ended) in &told {
        assert!(
            true_of(&bank, *number, ended),
            "{number} ran {} times, its caller was told {ended:?}",
            bank.runs(*number)
        );
    }
    let answered = told.values().filter(|ended| ended.is_ok()).count();
    assert!(answered > 100, "of {} calls only {answered} were answered", told.len());
    let unsure = |ended: &&_| matches!(ended, Err(RemoteError::NotSent(_) | RemoteError::Unknown(_)));
    assert!(told.values().filter(unsure).count() > 0, "nothing was in the way of any call");
    verify(&cluster, &record).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_is_told_of_and_so_is_its_next_process() {
    let mut cluster = EmbeddedCluster::start(3).await;
    let ledgers = cluster.ledgers();
    reached(&ledgers).await;
    let remote = cluster.nodes[0].remote();
    let mut events = remote.events();
    let incarnation = remote.nodes()[1].incarnation;
    cluster.take(2).stop(PATIENCE).await.unwrap();
    let node = NodeId(3);
    let mut next = async || timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next().await, NodeEvent::Down { node, incarnation });
    assert_eq!(remote.nodes().iter().map(|up| up.node).collect::<Vec<_>>(), [NodeId(2)]);
    let all = remote.call_all("bank", Deposit { number: 1 }, PATIENCE).await;
    let reasons = [NotSent::NoSuchName, NotSent::NoSuchName, NotSent::Down].map(|reason| Err(reason.into()));
    assert_eq!(all, (1..).map(NodeId).zip(reasons).collect::<Vec<_>>());
    cluster.bring_back(2).await;
    let NodeEvent::Up { node: up, incarnation: newer } = next().await else { panic!("it is not up") };
    assert!(up == node && newer != incarnation);
    cluster.stop().await;
    while let Some(event) = timeout(PATIENCE, events.next()).await.unwrap() {
        assert!(matches!(event.unwrap(), NodeEvent::Down { .. } | NodeEvent::Up { .. }));
    }
}

/// An actor of the host's that knows nothing of nodes.
struct Cashier;

enum CashierMessage {
    Deposit(u64, RpcReplyPort<u64>),
    Never(RpcReplyPort<u64>),
    Drop,
}

impl Actor for Cashier {
    type Msg = CashierMessage;
    type State = (u64, Vec<RpcReplyPort<u64>>);
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok((0, Vec::new()))
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: CashierMessage,
        (sum, kept): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CashierMessage::Deposit(number, reply) => {
                *sum += number;
                reply.send(*sum)?;
            }
            CashierMessage::Never(reply) => kept.push(reply),
            CashierMessage::Drop => {}
        }
        Ok(())
    }
}

async fn asked(from: &Node, name: &str) -> Result<u64, RemoteError> {
    let patience = if name == "never" { Duration::from_millis(500) } else { PATIENCE };
    from.remote().call(NodeId(2), name, Deposit { number: 5 }, patience).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_of_the_host_is_called_from_another_node() {
    let cluster = EmbeddedCluster::start(3).await;
    reached(&cluster.ledgers()).await;
    let [one, two, _] = &cluster.nodes[..] else { panic!("there are three") };
    let (teller, ended) = Actor::spawn(None, Cashier, ()).await.unwrap();
    let remote = two.remote();
    let names = [
        remote.register_actor("sum", teller.clone(), |deposit: Deposit, reply| {
            CashierMessage::Deposit(deposit.number, reply)
        }),
        remote.register_actor("never", teller.clone(), |_: Deposit, reply| CashierMessage::Never(reply)),
        remote.register_actor("drop", teller.clone(), |_: Deposit, _| CashierMessage::Drop),
    ];
    let names = names.map(Result::unwrap);
    assert_eq!([asked(one, "sum").await, asked(two, "sum").await], [Ok(5), Ok(10)]);
    assert_eq!(one.remote().cast(NodeId(2), "sum", Deposit { number: 7 }), Ok(()));
    let other = NewerDeposit { number: 1, currency: "EUR".into() };
    let other = one.remote().call(NodeId(2), "sum", other, PATIENCE).await;
    assert_eq!(other, Err(NotSent::WrongType.into()));
    let longer = LongerDeposit { number: 1, currency: "EUR".into() };
    let longer = one.remote().call(NodeId(2), "sum", longer, PATIENCE).await;
    assert_eq!(longer, Err(NotSent::WrongType.into()), "what is behind the message was passed over");
    assert_eq!(asked(one, "never").await, Err(RemoteError::Unknown(MayHaveRun::Deadline)));
    assert_eq!(asked(one, "drop").await, Err(RemoteError::Unknown(MayHaveRun::NoAnswer)));
    let stranger = one.remote().call(NodeId(2), "sum", Stranger { number: 0 }, PATIENCE).await;
    assert_eq!(stranger, Err(RemoteError::Unknown(MayHaveRun::Unreadable)), "it ran, and is not said to have failed");
    teller.stop(None);
    ended.await.unwrap();
    assert_eq!(asked(one, "sum").await, Err(NotSent::NoSuchName.into()));
    drop(names);
    assert_eq!(asked(two, "sum").await, Err(NotSent::NoSuchName.into()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_calls_itself_and_its_handlers_end_with_it() {
    let cluster = EmbeddedCluster::start(1).await;
    let (remote, bank) = (cluster.nodes[0].remote(), Bank::default());
    let _open = bank.open_at(&remote);
    let call = async |node| remote.call(NodeId(node), "bank", Deposit { number: 3 }, PATIENCE).await;
    assert_eq!([call(1).await, call(2).await], [Ok(3), Err(NotSent::UnknownNode.into())]);
    let (begun, mut begins) = watch::channel(false);
    let forever = move |_: CallContext, _: Deposit| {
        begun.send_replace(true);
        std::future::pending::<Result<u64, String>>()
    };
    let _endless = remote.register("endless", forever).unwrap();
    let (ended, ()) = tokio::join!(remote.call(NodeId(1), "endless", Deposit { number: 1 }, PATIENCE), async {
        begins.wait_for(|begun| *begun).await.unwrap();
        cluster.stop().await;
    });
    assert_eq!(ended, Err(RemoteError::Unknown(MayHaveRun::NoAnswer)));
    assert_eq!(call(1).await, Err(NotSent::Down.into()));
    assert!(remote.events().next().await.is_none());
    let late = remote.register("late", |_: CallContext, _: Deposit| async { Ok::<u64, String>(1) });
    assert_eq!(late.unwrap_err(), RegisterError::Stopped);
}
