//! A random world: children die, start badly and are asked about at any moment, and what must hold holds.

use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::*;
use crate::spec::Strategy;

fn restarts() -> impl proptest::strategy::Strategy<Value = Restart> {
    prop_oneof![4 => Just(Restart::Permanent), 1 => Just(Restart::Transient), 1 => Just(Restart::Temporary)]
}

fn one() -> impl proptest::strategy::Strategy<Value = Terms> {
    let backoff = prop_oneof![3 => Just(None), 1 => Just(Some(BACKOFF))];
    (restarts(), backoff).prop_map(|(restart, backoff)| term(restart, backoff))
}

fn some() -> impl proptest::strategy::Strategy<Value = Vec<Terms>> {
    prop::collection::vec(one(), 1..6)
}

fn kinds() -> impl proptest::strategy::Strategy<Value = (Strategy, bool)> {
    prop_oneof![
        Just((Strategy::OneForOne, false)),
        Just((Strategy::OneForAll, false)),
        Just((Strategy::RestForOne, false)),
        Just((Strategy::OneForOne, true)),
    ]
}

fn deeds(most: usize) -> impl proptest::strategy::Strategy<Value = Vec<(usize, Deed)>> {
    let luck = prop_oneof![5 => Just(Luck::Well), 1 => Just(Luck::Ignored), 2 => Just(Luck::Failed)];
    let deed = prop_oneof![
        12 => (luck, any::<bool>()).prop_map(|(luck, normal)| Deed::Poke(luck, normal)),
        2 => one().prop_map(Deed::Start),
        1 => Just(Deed::Restart),
        2 => Just(Deed::Terminate),
        1 => Just(Deed::Delete),
    ];
    prop::collection::vec((0usize..8, deed), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever dies and whatever is asked whenever: order is respected, nothing runs twice, everyone is answered, and
    /// in the end all that must run does, and can be stopped and deleted.
    #[test]
    fn gets_whole_again(kind in kinds(), terms in some(), deeds in deeds(60)) {
        let (strategy, dynamic) = kind;
        let mut world = MachineWorld::new(Rules { dynamic, ..rules(strategy, LAX) }, terms);
        world.step(Input::Boot);
        for (i, deed) in deeds {
            world.do_it(i, deed);
        }
        world.settle();
        prop_assert!(world.ready && !world.exited);
        prop_assert!(matches!(world.machine.phase, MachinePhase::Running), "{:?}", world.machine);
        for (i, kid) in &world.kids {
            prop_assert!(kid.asked.is_none() && !kid.terminating, "{} is still waited for", i);
            if kid.terms.restart == Restart::Permanent && !kid.rests {
                prop_assert_eq!(kid.really, Really::Up, "{}", i);
            }
        }
        for _ in 0..world.kids.len() {
            let before = world.kids.len();
            world.do_it(0, Deed::Terminate);
            world.settle();
            if world.kids.len() == before {
                world.do_it(0, Deed::Delete);
            }
            prop_assert_eq!(world.kids.len(), before - 1, "one is terminated and deleted");
        }
    }

    /// A shutdown at any moment ends with nothing left and nobody waiting.
    #[test]
    fn stops_from_anywhere(
        kind in kinds(),
        terms in some(),
        restarts in 0u32..4,
        significant in any::<[bool; 6]>(),
        auto_shutdown in prop::sample::select(
            &[AutoShutdown::Never, AutoShutdown::AnySignificant, AutoShutdown::AllSignificant][..],
        ),
        deeds in deeds(40),
    ) {
        let intensity = Intensity { restarts, period: Duration::from_secs(3600) };
        let (strategy, dynamic) = kind;
        let mut terms = terms;
        for (terms, significant) in terms.iter_mut().zip(significant) {
            let may = terms.restart != Restart::Permanent && auto_shutdown != AutoShutdown::Never;
            terms.significant = significant && may;
        }
        let rules = Rules { strategy, intensity, auto_shutdown, dynamic };
        let mut world = MachineWorld::new(rules, terms);
        world.step(Input::Boot);
        for (i, deed) in deeds {
            if !world.exited {
                world.do_it(i, deed);
            }
        }
        if !world.exited {
            world.step(Input::Shutdown);
        }
        for _ in 0..100 {
            let there = world.kids.iter().rev().find_map(|(&i, kid)| kid.really.is_there().then_some(i));
            let Some(i) = there.filter(|_| !world.exited) else { break };
            world.poke(i, Luck::Well, false);
        }
        prop_assert!(world.exited, "{:?}", world.machine);
    }
}
