//! Carries out a plan's faults.

use std::sync::Arc;
use std::time::Duration;

use converge_ledger_core::NodeId;
use tokio::time::{Instant, sleep};

use super::plan::{Ending, Fault, Timed};
use super::world::{End, World};
use converge_ledger::supervisors::Fault as ActorFault;

/// How often it is looked whether the journal ends with a record that the database does not have.
const TAIL_LOOKS: u32 = 400;
/// How long a process is gone whose last record rots.
const TAIL_DOWN_MS: u64 = 100;

/// Carries out all of them, each at its time.
pub(super) async fn drive(world: Arc<World>, faults: Vec<Timed>, until_ms: u64) {
    let began = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for Timed { at_ms, fault } in faults {
        tokio::time::sleep_until(began + Duration::from_millis(at_ms)).await;
        world.trace.note(&[20, at_ms], || format!("FAULT {fault:?}"));
        let restart = matches!(fault, Fault::Restart { .. } | Fault::Older { .. });
        let carried = carry_out(world.clone(), fault);
        if restart {
            // A stop that has begun is not called off.
            tokio::spawn(carried);
        } else {
            running.spawn(carried);
        }
    }
    tokio::time::sleep_until(began + Duration::from_millis(until_ms)).await;
    // What was to be mended later is mended by the healing.
    running.abort_all();
}

/// What a fault did is counted where it is known: what the disk is armed for, when it happens.
async fn carry_out(world: Arc<World>, fault: Fault) {
    let kind = fault.name();
    let took = |world: &World| world.facts.took(kind);
    match fault {
        Fault::Crash { node, power, down_ms } => {
            if world.crash(NodeId(node), end(power)) {
                took(&world);
                come_back(world, node, down_ms).await;
            }
        }
        Fault::Blackout { power, down_ms } => {
            took(&world);
            let gone: Vec<NodeId> = world.ids().into_iter().filter(|id| world.crash(*id, end(power))).collect();
            for (id, n) in gone.into_iter().zip(0..) {
                tokio::spawn(come_back(world.clone(), id.get(), down_ms + n * 37));
            }
        }
        Fault::CrashWithin { node, operations, power } => {
            world.falls_by(NodeId(node), end(power));
            world.arm(NodeId(node), |counters, faults| faults.cut_at = Some(counters.ops + operations));
        }
        Fault::Restart { node, tuning, down_ms } => {
            if world.stop(NodeId(node)).await {
                took(&world);
            }
            world.retune(NodeId(node), *tuning);
            come_back(world, node, down_ms).await;
        }
        Fault::Older { node, for_ms } => older(&world, NodeId(node), for_ms, kind).await,
        Fault::Kill { node, place, panic } => {
            if kill(&world, node, place, panic).await {
                took(&world);
            }
        }
        other => at_the_disk(world, other).await,
    }
}

/// Faults of the disk's work.
async fn at_the_disk(world: Arc<World>, fault: Fault) {
    let kind = fault.name();
    match fault {
        Fault::FailSync { node, nth, operator_ms } => {
            world.arm(NodeId(node), |counters, faults| faults.fail_sync = Some(counters.syncs + nth));
            operator(world, node, operator_ms, kind).await;
        }
        Fault::FailWrite { node, nth, operator_ms } => {
            world.arm(NodeId(node), |counters, faults| faults.fail_write = Some(counters.writes + nth));
            operator(world, node, operator_ms, kind).await;
        }
        Fault::FailRead { node, nth, many, in_start, operator_ms } => {
            fail_reads(&world, NodeId(node), (nth, many), in_start, operator_ms, kind).await;
        }
        Fault::Full { node, room_bytes, for_ms } => {
            world.set_room(NodeId(node), Some(room_bytes));
            sleep(Duration::from_millis(for_ms)).await;
            let met = world.is_short_of_room(NodeId(node));
            world.set_room(NodeId(node), None);
            if met {
                world.facts.took(kind);
            }
        }
        Fault::Lack { node, nth, many, in_start } => lack(&world, NodeId(node), (nth, many), in_start, kind).await,
        other => at_its_content(world, other).await,
    }
}

/// Faults of what a disk holds; the others go on.
async fn at_its_content(world: Arc<World>, fault: Fault) {
    let kind = fault.name();
    let took = |world: &World| world.facts.took(kind);
    match fault {
        Fault::Rot { node, place_permille, bit } => {
            if world.rot(NodeId(node), place_permille, bit) {
                took(&world);
            }
        }
        Fault::RotJournal { node, place, bit, end: ending } => {
            if world.rot_journal(NodeId(node), place, bit) {
                took(&world);
            }
            if let Some(Ending { power, down_ms }) = ending
                && world.crash(NodeId(node), end(power))
            {
                come_back(world, node, down_ms).await;
            }
        }
        Fault::RotTail { node, place, bit, power } => {
            for _ in 0..TAIL_LOOKS {
                if world.rot_tail(NodeId(node), place, bit) {
                    took(&world);
                    world.crash(NodeId(node), end(power));
                    come_back(world, node, TAIL_DOWN_MS).await;
                    break;
                }
                sleep(Duration::from_millis(7)).await;
            }
        }
        Fault::Copy { node } => {
            if world.copy(NodeId(node)) {
                took(&world);
            }
        }
        Fault::PutBack { down_ms } => {
            if world.put_back() {
                took(&world);
                for (node, down_ms) in (1..).zip(down_ms) {
                    tokio::spawn(come_back(world.clone(), node, down_ms));
                }
            }
        }
        simple => {
            took(&world);
            for_a_while(&world, simple).await;
        }
    }
}

/// Faults that always do what they say, and that end.
async fn for_a_while(world: &World, fault: Fault) {
    match fault {
        Fault::OneWay { from, to, for_ms } => cut(world, vec![(from, to)], for_ms).await,
        Fault::Apart { a, b, for_ms } => cut(world, vec![(a, b), (b, a)], for_ms).await,
        Fault::Split { side, for_ms } => cut(world, between(world, &side), for_ms).await,
        Fault::Isolate { for_ms } => {
            if let Some(leader) = world.leader() {
                world.trace.note(&[22, leader.get()], || format!("node {leader} leads, and is cut off"));
                cut(world, between(world, &[leader.get()]), for_ms).await;
            }
        }
        Fault::Reset { a, b } => world.network.reset(NodeId(a), NodeId(b)),
        Fault::Weather { weather, for_ms } => {
            let number = world.network.worsen(weather);
            sleep(Duration::from_millis(for_ms)).await;
            world.network.clear_up(number);
        }
        Fault::SlowDisk { node, step_ms: (least, most), for_ms } => {
            world.slow_down(NodeId(node), (least * 1000, most * 1000));
            sleep(Duration::from_millis(for_ms)).await;
            world.speed_up(NodeId(node));
        }
        Fault::Clock { node, by_ms } => world.jump(NodeId(node), by_ms),
        other => unreachable!("{other:?} is carried out elsewhere"),
    }
}

/// All ways between one side and the others.
fn between(world: &World, side: &[u64]) -> Vec<(u64, u64)> {
    let others: Vec<u64> = world.ids().iter().map(|id| id.get()).filter(|id| !side.contains(id)).collect();
    side.iter().flat_map(|a| others.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect()
}

fn end(power: bool) -> End {
    if power { End::PowerCut } else { End::Kill }
}

async fn come_back(world: Arc<World>, node: u64, down_ms: u64) {
    sleep(Duration::from_millis(down_ms)).await;
    // Not within this task: that one ends with the faults, a start does not.
    tokio::spawn(world.start(NodeId(node)));
}

/// Has a node be of an older program for a while, and every start of it meanwhile.
async fn older(world: &Arc<World>, node: NodeId, for_ms: u64, kind: &'static str) {
    if !world.downgrade(node) {
        return;
    }
    world.stop(node).await;
    come_back(world.clone(), node.get(), 0).await;
    sleep(Duration::from_millis(for_ms)).await;
    if world.is_outdated(node) {
        world.facts.took(kind);
    }
    if world.upgrade(node) {
        world.stop(node).await;
        come_back(world.clone(), node.get(), 0).await;
    }
}

/// Looks after a while, and starts a fenced node anew.
async fn operator(world: Arc<World>, node: u64, after_ms: u64, kind: &'static str) {
    sleep(Duration::from_millis(after_ms)).await;
    if world.is_fenced(NodeId(node)) && world.crash(NodeId(node), End::Kill) {
        world.facts.took(kind);
        tokio::spawn(world.start(NodeId(node)));
    }
}

/// Has files not be opened, and looks until that happened, or the process is gone.
async fn lack(world: &Arc<World>, node: NodeId, (nth, many): (u64, u64), in_start: bool, kind: &'static str) {
    if in_start && !world.crash(node, End::Kill) {
        return;
    }
    let mut first = 0;
    world.arm(node, |counters, faults| {
        first = counters.opens + nth;
        faults.fail_open = Some(first..first + many);
    });
    let disk = world.disk(node);
    if in_start {
        tokio::spawn(world.clone().start(node));
    }
    while !disk.is_off() && disk.counters().opens < first {
        sleep(Duration::from_millis(50)).await;
    }
    if disk.counters().opens >= first {
        world.facts.took(kind);
    }
}

/// Has reads fail, and looks until one has, or the process is gone that was to meet it.
async fn fail_reads(
    world: &Arc<World>,
    node: NodeId,
    (nth, many): (u64, u64),
    in_start: bool,
    operator_ms: u64,
    kind: &'static str,
) {
    if in_start && !world.crash(node, End::Kill) {
        return;
    }
    let mut first = 0;
    world.arm(node, |counters, faults| {
        first = counters.reads + nth;
        faults.fail_read = Some(first..first.saturating_add(many));
    });
    let disk = world.disk(node);
    if in_start {
        tokio::spawn(world.clone().start(node));
    }
    while !disk.is_off() && !world.is_fenced(node) {
        sleep(Duration::from_millis(operator_ms)).await;
    }
    if disk.counters().reads >= first {
        world.facts.took(kind);
    }
    if !disk.is_off() && world.crash(node, End::Kill) {
        tokio::spawn(world.clone().start(node));
    }
}

async fn cut(world: &World, ways: Vec<(u64, u64)>, for_ms: u64) {
    for (from, to) in &ways {
        world.network.cut(NodeId(*from), NodeId(*to));
    }
    sleep(Duration::from_millis(for_ms)).await;
    for (from, to) in &ways {
        world.network.mend(NodeId(*from), NodeId(*to));
    }
}

/// Says whether somebody was there to die.
async fn kill(world: &World, node: u64, place: u64, panic: bool) -> bool {
    let Some(tree) = world.tree(NodeId(node)) else { return false };
    // Everything below the root, whose death is the node's.
    let paths: Vec<String> = tree.snapshot().nodes.into_iter().skip(1).map(|node| node.path).collect();
    if paths.is_empty() {
        return false;
    }
    let path = &paths[usize::try_from(place % paths.len() as u64).expect("small")];
    world.trace.note(&[21, node, place % paths.len() as u64], || format!("node {node}: {path} dies"));
    let fault = if panic { ActorFault::Panic } else { ActorFault::Kill };
    world.hurt(NodeId(node));
    // It may be between two incarnations.
    tree.inject(path, fault).await.is_ok()
}
