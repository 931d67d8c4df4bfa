//! Calls: what they end in, and that none is carried out twice, whatever becomes of the links.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use crate::calling::*;
use crate::support::*;
use bytes::Bytes;
use converge_actors::distribution::calls::{
    EVENTS_MAX, EventsLost, HostCalls, MESSAGE_BYTES_MAX, MayHaveRun, NAME_BYTES_MAX, NodeEvent, NotSent, OPEN_MAX,
    RegisterError, RemoteError,
};
use converge_actors::distribution::{Lane, LinkEvent};
use converge_ledger_core::NodeId;
use converge_ledger_core::planted::{self, Bug, Level};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

fn not_sent(reason: NotSent) -> Result<String, RemoteError> {
    Err(RemoteError::NotSent(reason))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_in_its_answer_or_says_why_there_is_none() {
    let pair = Pair::start().await;
    let shops = [&pair.one, &pair.two].map(|node| {
        let shop = Shop::default();
        (shop.open_at(node), shop)
    });
    for (node, other) in [(&pair.one, 2), (&pair.two, 1), (&pair.one, 1)] {
        let call = |name, body| node.call(other, name, body, PATIENCE);
        assert_eq!(call("shop", "hello").await, Ok("hello".to_owned()));
        assert_eq!(call("shop", "fail").await, Err(RemoteError::Failed("as it was told".into())));
        let panicked = "the handler panicked: as it was told";
        assert_eq!(call("shop", "panic").await, Err(RemoteError::Failed(panicked.into())));
        assert_eq!(call("shop", "long").await, Err(RemoteError::Unknown(MayHaveRun::NoAnswer)));
        assert_eq!(call("bar", "hello").await, not_sent(NotSent::NoSuchName));
        assert_eq!(call(&"n".repeat(NAME_BYTES_MAX + 1), "hello").await, not_sent(NotSent::NoSuchName));
        assert_eq!(node.call(9, "shop", "hello", PATIENCE).await, not_sent(NotSent::UnknownNode));
        assert_eq!(node.call(other, "shop", "hello", Duration::ZERO).await, not_sent(NotSent::Late));
        let (calls, other) = (&node.calls, NodeId(other));
        let wrong = calls.call(other, "shop", "test.Other", Bytes::new(), Instant::now() + PATIENCE).await;
        assert_eq!(wrong, Err(NotSent::WrongType.into()));
        let longest = "x".repeat(MESSAGE_BYTES_MAX);
        assert_eq!(node.call(other.get(), "shop", &longest, PATIENCE).await, Ok(longest.clone()));
        assert_eq!(node.call(other.get(), "shop", &(longest + "x"), PATIENCE).await, not_sent(NotSent::TooLong));
        assert_eq!(calls.cast(other, "shop", TAG, Bytes::from_static(b"cast")), Ok(()));
    }
    shops[0].1.ended("cast").await;
    shops[1].1.ended("cast").await;
    let deadline = Instant::now() + PATIENCE;
    let all = pair.one.calls.call_all("shop", TAG, Bytes::from_static(b"all"), deadline).await;
    assert_eq!(all, [1, 2].map(|id| (NodeId(id), Ok(Bytes::from_static(b"all")))));

    let taken = pair.one.calls.register("shop", TAG, std::sync::Arc::new(|_, _| unreachable!()));
    assert_eq!(taken.unwrap_err(), RegisterError::Taken);
    drop(shops);
    assert_eq!(pair.two.call(1, "shop", "hello", PATIENCE).await, not_sent(NotSent::NoSuchName));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_before_the_answer_leaves_a_call_unknown_and_its_answer_reaches_nobody() {
    let (pair, shop) = (Pair::start().await, Shop::default());
    let _open = shop.open_at(&pair.one);
    let (first, ()) = tokio::join!(pair.two.call(1, "shop", "wait first", PATIENCE), async {
        shop.begun(1).await;
        pair.cut().await;
    });
    assert_eq!(first, Err(UNKNOWN));
    // Its handler goes on, and answers over a connection that is no more.
    let (second, ()) = tokio::join!(pair.two.call(1, "shop", "wait second", PATIENCE), async {
        shop.begun(2).await;
        shop.let_go();
        shop.ended("wait first").await;
    });
    assert_eq!(second, Ok("wait second".to_owned()));
    assert_eq!([shop.runs("wait first"), shop.runs("wait second")], [1, 1]);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_connection_nothing_is_sent() {
    let (pair, shop) = (Pair::start().await, Shop::default());
    let _open = shop.open_at(&pair.one);
    let mut events = pair.two.calls.events();
    let Pair { one, two, proxy } = pair;
    drop(proxy);
    assert!(matches!(next(&mut events).await, NodeEvent::Down { node: NodeId(1), .. }));
    assert_eq!(two.call(1, "shop", "hello", PATIENCE).await, not_sent(NotSent::Down));
    assert_eq!(two.calls.cast(NodeId(1), "shop", TAG, Bytes::new()), Err(NotSent::Down));
    assert_eq!((shop.all_runs(), two.calls.nodes()), (0, Vec::new()));
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_ends_the_handler() {
    let (pair, shop) = (Pair::start().await, Shop::default());
    let _open = [shop.open_at(&pair.one), shop.open_at(&pair.two)];
    for (n, node) in [(1, 1), (2, 2)] {
        let dropped = format!("wait dropped {n}");
        tokio::select! {
            _ = pair.two.call(node, "shop", &dropped, PATIENCE) => panic!("nobody lets it go on"),
            () = shop.begun(2 * n - 1) => {}
        }
        shop.ended(&dropped).await;
        let late = format!("wait late {n}");
        let call = pair.two.call(node, "shop", &late, Duration::from_secs(2));
        let (ended, ()) = tokio::join!(call, shop.begun(2 * n));
        assert_eq!(ended, Err(RemoteError::Unknown(MayHaveRun::Deadline)));
        shop.ended(&late).await;
    }
    assert_eq!(pair.two.call(1, "shop", "hello", PATIENCE).await, Ok("hello".to_owned()));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_calls_are_under_way_and_no_more_also_across_connections() {
    let (pair, shop) = (Pair::start().await, Shop::default());
    let _open = shop.open_at(&pair.one);
    let mut under_way = JoinSet::new();
    for n in 0..OPEN_MAX {
        let calls = pair.two.calls.clone();
        let body = Bytes::from(format!("wait {n}"));
        under_way.spawn(async move { calls.call(NodeId(1), "shop", TAG, body, Instant::now() + PATIENCE).await });
    }
    shop.begun(OPEN_MAX as u32).await;
    assert_eq!(pair.two.call(1, "shop", "one more", PATIENCE).await, not_sent(NotSent::Full));
    pair.cut().await;
    assert!(under_way.join_all().await.iter().all(|ended| *ended == Err(UNKNOWN)));
    // Nobody waits for them any more, but their handlers go on.
    assert_eq!(pair.two.call(1, "shop", "one more", PATIENCE).await, not_sent(NotSent::Overloaded));
    shop.let_go();
    for n in 0..OPEN_MAX {
        shop.ended(&format!("wait {n}")).await;
    }
    assert_eq!(shop.runs("one more"), 0);
    let until = Instant::now() + PATIENCE;
    // A handler's future is dropped a moment before its place is free.
    while pair.two.call(1, "shop", "after", PATIENCE).await != Ok("after".to_owned()) {
        assert!(Instant::now() < until, "the places are not given back");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ups_and_downs_alternate_and_name_the_process() {
    let pair = Pair::start().await;
    let mut events = pair.two.calls.events();
    let before = pair.two.calls.nodes();
    let incarnation = before[0].incarnation;
    let node = NodeId(1);
    for _ in 0..3 {
        pair.proxy.cut();
        assert_eq!(next(&mut events).await, NodeEvent::Down { node, incarnation });
        assert_eq!(next(&mut events).await, NodeEvent::Up { node, incarnation });
    }
    assert_eq!(pair.two.calls.nodes(), before);

    // Another process of the same node.
    let Pair { one, two, proxy } = pair;
    one.stop().await;
    assert_eq!(next(&mut events).await, NodeEvent::Down { node, incarnation });
    let (socket, address) = bind();
    drop(proxy);
    two.stop().await;
    assert!(timeout(PATIENCE, events.next()).await.unwrap().is_none(), "it ends with its node");
    let peers = [(1, address), (2, "unused.invalid:1".to_owned())];
    let one = CallNode::start(1, settings(), Some(socket), &peers).await;
    let two = CallNode::start(2, settings(), None, &peers).await;
    two.sees(1).await;
    assert_ne!(two.calls.nodes()[0].incarnation, incarnation);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_slow_subscriber_is_told_what_it_missed() {
    let (calls, peer, lane) = (HostCalls::new(NodeId(1), [NodeId(2)]), NodeId(2), Lane::Call);
    let mut slow = calls.events();
    for epoch in 0..EVENTS_MAX as u64 {
        calls.event(LinkEvent::Up { peer, lane, epoch });
        calls.event(LinkEvent::Down { peer, lane, epoch });
    }
    assert_eq!(slow.next().await, Some(Err(EventsLost(EVENTS_MAX as u64))));
    assert!(calls.nodes().is_empty());
    calls.stop();
    let mut left = Vec::new();
    while let Some(event) = slow.next().await {
        left.push(event.unwrap());
    }
    assert_eq!(left.len(), EVENTS_MAX);
    assert!(matches!(left[..], [NodeEvent::Up { .. }, .., NodeEvent::Down { .. }]), "{left:?}");
}

/// Calls while links are cut: after each answer, while a handler runs, and at any time. What a caller was told has to be
/// true; says what is not.
async fn cuts(seed: u64) -> Option<String> {
    const CALLS: u32 = 60;
    let (pair, shop) = (Pair::start().await, Shop::default());
    let _open = shop.open_at(&pair.one);
    let mut chance = StdRng::seed_from_u64(seed);
    let mut told = BTreeMap::new();
    for round in 0..CALLS {
        let waits = chance.random_range(0..2) == 0;
        let (text, begun) = (format!("{} {round}", if waits { "wait" } else { "go" }), shop.all_runs());
        shop.close();
        let turns = chance.random_range(0..200);
        let disturbed = async {
            if waits {
                shop.begun(begun + 1).await;
                shop.let_go();
            }
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        };
        let mut call = pin!(pair.two.call(1, "shop", &text, PATIENCE));
        let early = tokio::select! {
            biased;
            () = disturbed => None,
            ended = &mut call => Some(ended),
        };
        pair.proxy.cut();
        let ended = match early {
            Some(ended) => ended,
            None => call.await,
        };
        told.insert(text.clone(), ended);
        // The node at the other end may hear of it later than the caller does.
        pair.connected().await;
    }
    // A handler that was begun at the end is heard of before the link goes.
    pair.stop().await;
    told.into_iter().find_map(|(text, ended)| {
        let fits = match (&ended, shop.runs(&text)) {
            (Ok(answer), 1) => *answer == text,
            (Err(RemoteError::NotSent(_)), 0) | (Err(RemoteError::Unknown(_)), 0 | 1) => true,
            _ => false,
        };
        (!fits).then(|| format!("{text:?} ran {} times, and its caller was told {ended:?}", shop.runs(&text)))
    })
}

/// Calls whose deadline comes while they wait in the queue of a link that stands. What was said not to be sent has not to
/// run when the link goes on; says what did.
async fn recalled() -> Option<String> {
    let (pair, shop) = (Pair::patient().await, Shop::default());
    let _open = shop.open_at(&pair.one);
    pair.proxy.stall(true);
    let filler = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
    let late = async {
        for round in 0.. {
            // The sockets take some of it, until they are full, too.
            while pair.two.calls.cast(NodeId(1), "nobody", TAG, filler.clone()).is_ok() {}
            let text = format!("late {round}");
            let ended = pair.two.call(1, "shop", &text, Duration::from_millis(100)).await;
            if ended == not_sent(NotSent::Late) {
                return text;
            }
        }
        unreachable!("it goes round until then")
    };
    let late = timeout(PATIENCE, late).await.expect("the queue is never full");
    pair.proxy.stall(false);
    let after = async {
        while pair.two.call(1, "shop", "after", PATIENCE).await != Ok("after".to_owned()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, after).await.expect("the link goes on");
    pair.stop().await;
    (shop.runs(&late) > 0).then(|| format!("{late:?} ran, and its caller was told that it was not sent"))
}

#[tokio::test]
async fn a_call_whose_deadline_came_in_the_queue_never_runs() {
    assert_eq!(recalled().await, None);
}

#[tokio::test]
async fn whatever_is_cut_no_call_runs_twice_and_what_is_told_is_true() {
    for seed in 1..=3 {
        assert_eq!(cuts(seed).await, None, "seed {seed}");
    }
}

#[tokio::test]
async fn a_planted_bug_of_the_links_is_found() {
    let bugs = Bug::ALL.iter().filter(|bug| bug.levels().contains(&Level::Links));
    let mut looked_for = 0;
    for bug in bugs {
        let _planted = planted::plant(*bug);
        let mut found = None;
        for seed in 1..=10 {
            found = cuts(seed).await;
            if found.is_none() {
                found = recalled().await;
            }
            if found.is_some() {
                break;
            }
        }
        assert!(found.is_some(), "{} is not found", bug.name());
        looked_for += 1;
    }
    assert!(looked_for > 0, "there is none to look for");
}
