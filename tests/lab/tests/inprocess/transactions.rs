//! Transactions while actors and leaders die: each is in the ledger wholly or not at all, and of two that depend on the same
//! one wins.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::inprocess::{EmbeddedCluster, all, entry, kill, level};
use converge_ledger::{
    AppendOptions, Condition, Entry, Error, FenceEpoch, Ledger, ReadOptions, Sequence, Transaction, TransactionDone,
};
use converge_ledger_core::chance::Dice;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const LEDGER: [&str; 4] = ["root/ledger/storage", "root/ledger/replication", "root/ledger/entry", "root/ledger"];
const ACCOUNTS: u64 = 5;
const BALANCE: i64 = 1000;
/// Transfers of all clients between two deaths.
const BETWEEN_DEATHS: u32 = 12;

fn account(number: u64) -> String {
    format!("account {number}")
}

fn at(context: &str, sequence: Sequence) -> Condition {
    Condition { context_id: context.to_owned(), sequence: Some(sequence), fence_epoch: None }
}

/// A transaction under a key, sent until it is known what became of it.
async fn transact(ledger: &Ledger, transaction: &Transaction) -> Result<TransactionDone, Error> {
    loop {
        match ledger.transact(transaction.clone(), None).await {
            Err(Error::TransactionUnknown(_) | Error::Unavailable { .. }) => {}
            other => return other,
        }
    }
}

/// Where an account is, and what is in it.
async fn look(ledger: &Ledger, account: &str) -> (Sequence, i64) {
    loop {
        match ledger.read(account, ReadOptions::default()).await {
            Ok(page) => return (page.latest, page.entries.last().map_or(BALANCE, balance)),
            Err(Error::Unavailable { .. } | Error::ReadTimeout) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// An entry of an account says what is in it then.
fn balance(entry: &Entry) -> i64 {
    std::str::from_utf8(&entry.payload).unwrap().parse().unwrap()
}

/// Moves money from one account to another, as they are; none where they moved on, or there is none.
async fn transfer(ledger: &Ledger, dice: &mut Dice, key: &str) -> Option<TransactionDone> {
    let from = dice.below(ACCOUNTS);
    let to = (from + 1 + dice.below(ACCOUNTS - 1)) % ACCOUNTS;
    let [from, to] = [from, to].map(account);
    let ((from_at, has), (to_at, gets)) = (look(ledger, &from).await, look(ledger, &to).await);
    let amount = 1 + dice.below(100).cast_signed();
    if has < amount {
        return None;
    }
    let transaction = Transaction {
        entries: vec![entry(&from, (has - amount).to_string()).into(), entry(&to, (gets + amount).to_string()).into()],
        conditions: vec![at(&from, from_at), at(&to, to_at)],
        idempotency_key: Some(key.to_owned()),
    };
    match transact(ledger, &transaction).await {
        Ok(done) => Some(done),
        Err(Error::Condition { .. }) => None,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_is_moved_wholly_or_not_whoever_dies() {
    let cluster = EmbeddedCluster::start(3).await;
    let (stop, moved) = (Arc::<AtomicBool>::default(), Arc::new(Semaphore::new(0)));
    let mut clients = JoinSet::new();
    for (number, ledger) in (0u64..).zip(cluster.ledgers().into_iter().cycle().take(6)) {
        let (stop, moved) = (stop.clone(), moved.clone());
        clients.spawn(async move {
            let mut dice = Dice(number);
            let mut done = Vec::new();
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if let Some(transfer) = transfer(&ledger, &mut dice, &format!("{number}/{n}")).await {
                    assert_eq!(transfer.entries.len(), 2);
                    moved.add_permits(1);
                    done.push(transfer);
                }
            }
            done
        });
    }
    for node in &cluster.nodes {
        for path in LEDGER {
            moved.acquire_many(BETWEEN_DEATHS).await.unwrap().forget();
            kill(node, path).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    let ledgers = cluster.ledgers();
    level(&ledgers).await;
    for ledger in &ledgers {
        let mut stored = BTreeMap::new();
        for number in 0..ACCOUNTS {
            let entries = all(ledger, &account(number)).await;
            stored.extend(entries.into_iter().map(|entry| (entry.position, entry)));
        }
        for transfer in &acknowledged {
            for entry in &transfer.entries {
                assert_eq!(stored.get(&entry.position), Some(entry), "what was acknowledged is there");
            }
        }
        // Nothing else is in the ledger: two positions are a transfer each, and after each the sum is what it was.
        let stored: Vec<Entry> = stored.into_values().collect();
        assert_eq!(stored.len(), 2 * acknowledged.len());
        assert_eq!(stored.last().unwrap().position.get(), stored.len() as u64);
        let mut balances: BTreeMap<_, _> = (0..ACCOUNTS).map(|number| (account(number), BALANCE)).collect();
        for transfer in stored.chunks(2) {
            for entry in transfer {
                balances.insert(entry.context_id.clone(), balance(entry));
            }
            assert_eq!(balances.values().sum::<i64>(), BALANCE * ACCOUNTS.cast_signed(), "{transfer:?}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_that_race_on_a_condition_one_wins() {
    const ROUNDS: u64 = 20;
    let cluster = EmbeddedCluster::start(3).await;
    let ledgers = cluster.ledgers();
    for round in 0..ROUNDS {
        let mut racers = JoinSet::new();
        for (number, ledger) in ledgers.iter().cycle().take(6).cloned().enumerate() {
            racers.spawn(async move {
                // Each writes elsewhere, too: what it depends on is what they race for.
                let own = format!("racer {number}");
                let transaction = Transaction {
                    entries: vec![entry("race", own.clone()).into(), entry(&own, "won").into()],
                    conditions: vec![at("race", Sequence(round))],
                    idempotency_key: Some(format!("{round} {number}")),
                };
                match transact(&ledger, &transaction).await {
                    Ok(done) => assert!(!done.deduplicated && done.entries[0].sequence == Sequence(round + 1)),
                    Err(Error::Condition { nth: 0, latest, .. }) if latest == Sequence(round + 1) => return false,
                    Err(other) => panic!("{other}"),
                }
                true
            });
        }
        let winners = racers.join_all().await.into_iter().filter(|has_won| *has_won).count();
        assert_eq!(winners, 1, "in round {round}");
    }
    let mut won = 0;
    for number in 0..6 {
        won += all(&ledgers[0], &format!("racer {number}")).await.len() as u64;
    }
    assert_eq!(won, ROUNDS, "who lost wrote nothing");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_writer_is_refused_on_every_node() {
    let cluster = EmbeddedCluster::start(3).await;
    let ledgers = cluster.ledgers();
    let under = |epoch: u64| AppendOptions { fence_epoch: Some(FenceEpoch(epoch)), ..AppendOptions::default() };
    let first = ledgers[0].fence("owned", None, None).await.unwrap();
    assert_eq!((first.epoch, first.latest), (FenceEpoch(1), Sequence(0)), "a context without entries can be fenced");
    ledgers[1].append(entry("owned", "by the first"), under(1)).await.unwrap();
    let second = ledgers[2].fence("owned", Some(FenceEpoch(5)), None).await.unwrap();
    assert_eq!((second.epoch, second.latest), (FenceEpoch(5), Sequence(1)));
    for ledger in &ledgers {
        let refused = ledger.append(entry("owned", "by the first"), under(1)).await;
        assert!(matches!(refused, Err(Error::StaleFence { current: FenceEpoch(5) })), "{refused:?}");
        let condition = Condition { fence_epoch: Some(FenceEpoch(1)), ..at("owned", Sequence(1)) };
        let transaction = Transaction {
            entries: vec![entry("elsewhere", "by the first").into()],
            conditions: vec![at("elsewhere", Sequence(0)), condition],
            idempotency_key: None,
        };
        let refused = ledger.transact(transaction, None).await;
        let due = (1, Sequence(1), FenceEpoch(5));
        assert!(
            matches!(refused, Err(Error::Condition { nth, latest, fence_epoch }) if (nth, latest, fence_epoch) == due),
            "{refused:?}"
        );
        let lower = ledger.fence("owned", Some(FenceEpoch(5)), None).await;
        assert!(matches!(lower, Err(Error::StaleFence { current: FenceEpoch(5) })), "{lower:?}");
    }
    ledgers[0].append(entry("owned", "by the second"), under(5)).await.unwrap();
    assert_eq!(all(&ledgers[0], "owned").await.len(), 2);
    assert_eq!(all(&ledgers[0], "elsewhere").await.len(), 0);
    // It is in the database, or the log: a restart does not forget it.
    kill(&cluster.nodes[0], "root/ledger").await;
    level(&ledgers).await;
    let refused = ledgers[0].append(entry("owned", "late"), under(1)).await;
    assert!(matches!(refused, Err(Error::StaleFence { .. })), "{refused:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_transactions_are_told_before_anything_is_written() {
    let cluster = EmbeddedCluster::start(1).await;
    let ledger = &cluster.ledgers()[0];
    let told = async |transaction: Transaction| match ledger.transact(transaction, None).await {
        Err(Error::InvalidArgument(why)) => why,
        other => panic!("{other:?}"),
    };
    let with =
        |entries: usize| Transaction { entries: vec![entry("a", "x").into(); entries], ..Transaction::default() };
    assert!(told(with(0)).await.contains("at least one entry"));
    assert!(told(with(1001)).await.contains("1001 entries"));
    let conditions = vec![at("a", Sequence(0)); 129];
    assert!(told(Transaction { conditions, ..with(1) }).await.contains("129 conditions"));
    let conditions = vec![at("a", Sequence(0)), Condition { context_id: "a".to_owned(), ..Condition::default() }];
    assert!(told(Transaction { conditions, ..with(1) }).await.contains("condition 2 names neither"));
    let large = vec![entry("a", vec![0; 3 << 20]).into(); 2];
    assert!(told(Transaction { entries: large, ..with(1) }).await.contains("the limit is 5242880"));
    assert_eq!(all(ledger, "a").await.len(), 0);
    // What is just within them.
    let most = vec![entry("a", vec![7; (5 << 20) / 2 - 256]).into(); 2];
    let done = ledger.transact(Transaction { entries: most, ..with(1) }, None).await.unwrap();
    assert_eq!(done.entries.len(), 2);
    let done = ledger.transact(Transaction { idempotency_key: Some("k".into()), ..with(1000) }, None).await.unwrap();
    let places = done.entries.iter().map(|e| (e.sequence.get(), e.position.get()));
    assert!(places.eq((3..1003).map(|n| (n, n))));
    let again = ledger.transact(Transaction { idempotency_key: Some("k".into()), ..with(1000) }, None).await.unwrap();
    assert!(again.deduplicated && again.entries == done.entries);
    let other = ledger.transact(Transaction { idempotency_key: Some("k".into()), ..with(999) }, None).await;
    assert!(matches!(other, Err(Error::TransactionMismatch { first }) if first.get() == 3), "{other:?}");
    cluster.stop().await;
}
