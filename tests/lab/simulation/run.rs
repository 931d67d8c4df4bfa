//! One run of a plan, from fresh directories to the verdict.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use converge_ledger_core::NodeId;
use converge_ledger_core::chance::Dice;
use converge_ledger_core::chance::mix;
use tokio::time::{Instant, sleep, timeout};

use super::client::{Copied, Simulated, followed};
use super::facts::Facts;
use super::links::Counts;
use super::network::SimNetwork;
use super::plan::Plan;
use super::trace::Trace;
use super::world::{Life, World};
use super::{faults, panics};
use crate::history::{self, Begin, Operation};
use crate::segments;
use crate::workload::{Client, Mix, whole};
use converge_ledger::{AppendOptions, Error, NewEntry, Position};

/// After the last fault, all nodes have to agree within this.
const HEAL_MS_MAX: u64 = 30_000;
/// A healthy majority acknowledges within this, whatever happens to the others.
const GO_ON_MS_MAX: u64 = 20_000;
/// Clients finish their last calls within this.
const CLIENTS_MS_MAX: u64 = 60_000;

/// Whether this build can seed all chance: only then is a seed the same run in every process.
pub const REPEATS: bool = cfg!(tokio_unstable);

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct RunOutcome {
    /// What did not hold; empty when all did.
    pub violations: Vec<String>,
    /// Of everything that happened, in order: equal for equal runs.
    pub digest: u64,
    /// Simulated time in milliseconds.
    pub simulated_ms: u64,
    /// Appends that were acknowledged, ended as unknown, were refused.
    pub appends: (u64, u64, u64),
    /// Reads answered.
    pub reads: u64,
    /// Log entries applied.
    pub log_entries: u64,
    /// Faults that did something, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Frames delivered, lost, doubled, reordered.
    pub frames: (u64, u64, u64, u64),
    /// What happened, line by line, where that was asked for.
    pub lines: Vec<String>,
    /// The clients' history.
    pub history: Vec<Operation>,
    /// Something acknowledged may be lost, because copies of different age were put back: its history is not judged.
    pub excused: bool,
    /// A node's process ended by an abort, and with it the run: redb panicked over rotten pages, and again on its way out
    /// of that.
    pub aborted: bool,
}

/// Runs a plan like [`run`], on a thread of its own: this one goes on where the process would abort.
#[must_use]
pub fn run_apart(plan: &Plan, verbose: bool) -> RunOutcome {
    let (tell, told) = channel();
    let plan = plan.clone();
    std::thread::spawn(move || {
        TELL.set(Some(tell.clone()));
        let _ = tell.send(run(&plan, verbose));
    });
    told.recv().unwrap_or_else(|_| RunOutcome {
        violations: vec!["the run ended with a panic".into()],
        ..RunOutcome::default()
    })
}

thread_local! {
    /// Who waits for this thread's run.
    static TELL: RefCell<Option<Sender<RunOutcome>>> = const { RefCell::new(None) };
}

/// What a run comes to whose process would abort: no more than that is known of it.
fn tell_of_abort(facts: &Facts, rots: bool) {
    let Some(tell) = TELL.take() else { return };
    let facts = facts.clone();
    panics::instead_of_abort(move || {
        let (of_redb, others): (Vec<_>, Vec<_>) = panics::so_far().into_iter().partition(|p| panics::is_of_redb(p));
        let is_rotten = rots && facts.effects().contains_key("bit rot");
        let mut violations = facts.violations();
        violations.extend(others);
        if of_redb.is_empty() || !is_rotten {
            violations.push(format!("a node aborts its process, and not over rotten pages: {of_redb:?}"));
        }
        let _ = tell.send(RunOutcome { violations, aborted: true, ..RunOutcome::default() });
    });
}

/// Runs a plan; `verbose` keeps a line for everything that happens.
#[must_use]
pub fn run(plan: &Plan, verbose: bool) -> RunOutcome {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    // Whom a watch channel wakes first is tokio's chance.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&plan.seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime without I/O needs nothing from the system");
    let (outcome, panics) = panics::watching(|| {
        let outcome = runtime.block_on(live(plan, verbose));
        // Everything that still runs ends here, within what is watched.
        drop(runtime);
        outcome
    });
    // The simulator, or what of a node runs in its task, panicked: the rest of the run is not known.
    let mut outcome = outcome.unwrap_or_else(|| RunOutcome {
        violations: vec!["the run ended with a panic".into()],
        ..RunOutcome::default()
    });
    // redb trips over rotten pages; storage catches that, and has to call it data loss.
    let rots = plan.rots_database();
    outcome.violations.extend(panics.into_iter().filter(|panic| !(rots && panics::is_of_redb(panic))));
    outcome
}

async fn live(plan: &Plan, verbose: bool) -> RunOutcome {
    let trace = Trace::new(verbose);
    let facts = Facts::new(trace.clone());
    plan.key_window.into_iter().for_each(|key_window| facts.record(Operation::Begin(Begin { key_window })));
    tell_of_abort(&facts, plan.rots_database());
    let mut dice = Dice(mix(plan.seed ^ 0xc0de));
    let tap = facts.clone();
    let tap = Arc::new(move |from, to, payload: &bytes::Bytes| tap.sent(from, to, payload));
    let network = SimNetwork::new(plan.network.clone(), Dice(dice.roll()), trace.clone(), tap);
    let moving = tokio::spawn(network.clone().run());
    let world = World::new(plan, network.clone(), facts.clone(), trace.clone());
    for id in world.ids() {
        tokio::spawn(world.clone().start(id));
    }
    let mut clients = tokio::task::JoinSet::new();
    for (client, id) in plan.clients.iter().zip(1..) {
        let api = Simulated { client: id, world: world.clone() };
        clients.spawn(Client::new(id, client.clone(), Dice(dice.roll()), api).run());
    }
    let going_on = tokio::spawn(go_on(world.clone(), plan.victims.clone()));
    faults::drive(world.clone(), plan.faults.clone(), plan.faults_ms).await;
    going_on.abort();
    trace.note(&[30], || "no more faults".into());
    world.heal().await;
    world.end();
    let finished = async { while clients.join_next().await.is_some() {} };
    if timeout(Duration::from_millis(CLIENTS_MS_MAX), finished).await.is_err() {
        facts.violated(format!("clients still wait {CLIENTS_MS_MAX} ms after the last fault"));
    }
    converge(&world).await;
    if !world.is_restored() || (has_majority(&world) && !facts.is_excused()) {
        record_states(&world, plan).await;
        check_copies(&world).await;
        check_positions(&world, plan).await;
    }
    let whole = whole_ids(&world);
    for id in world.ids() {
        if !world.stop(id).await && !world.is_rotten(id) {
            facts.violated(format!("node {id} does not stop in order, with nothing wrong"));
        }
    }
    check_segments(&world, whole.into_iter().collect());
    moving.abort();
    network.close();
    let history = facts.history();
    let verdict = history::check(&history);
    for violation in verdict.violations {
        facts.disputed(format!("history: {violation}"));
    }
    summary(&trace, &facts, network.counts(), verdict.counts, history)
}

/// Liveness: where faults touch only a minority, each of the others acknowledges within a bounded time, once there is a
/// cluster.
async fn go_on(world: Arc<World>, victims: Option<Vec<u64>>) {
    let Some(victims) = victims else { return };
    let others: Vec<NodeId> = world.ids().into_iter().filter(|id| !victims.contains(&id.get())).collect();
    let mut formed = false;
    loop {
        for id in &others {
            sleep(Duration::from_millis(500)).await;
            let Some(life) = world.life(*id) else { continue };
            formed |= life.ledger().status().leader_id != 0;
            if !formed {
                continue;
            }
            let deadline = Some(Duration::from_millis(GO_ON_MS_MAX));
            let options = AppendOptions { deadline, ..AppendOptions::default() };
            match life.ledger().append(probe_entry(), options).await {
                Ok(_) | Err(Error::Overloaded { .. }) => {}
                Err(error) => world.facts.violated(format!(
                    "node {id} acknowledges nothing within {GO_ON_MS_MAX} ms, though faults touch only {victims:?}: {error}"
                )),
            }
        }
    }
}

fn probe_entry() -> NewEntry {
    NewEntry { context_id: "probe".into(), key: String::new(), payload: bytes::Bytes::new(), metadata: BTreeMap::new() }
}

/// Nodes that are to be whole: all but one whose disk rotted and that says so.
fn whole_ids(world: &World) -> Vec<NodeId> {
    let well = |id: &_| !(world.is_rotten(*id) && (world.is_fenced(*id) || world.life(*id).is_none()));
    world.ids().into_iter().filter(well).collect()
}

/// Whether they can go on.
fn has_majority(world: &World) -> bool {
    whole_ids(world).len() * 2 > world.ids().len()
}

/// Those of them that run: all, in the end.
fn whole_lives(world: &World) -> Vec<Arc<Life>> {
    whole_ids(world).into_iter().filter_map(|id| world.life(id)).collect()
}

/// Invariant 3 and liveness: a new append is acknowledged, and all nodes apply the same.
async fn converge(world: &Arc<World>) {
    let until = Instant::now() + Duration::from_millis(HEAL_MS_MAX);
    let mut acknowledged = false;
    while Instant::now() < until {
        if !acknowledged {
            acknowledged = probe(world).await;
        }
        let lives = whole_lives(world);
        let statuses: Vec<_> = lives.iter().map(|life| life.ledger().status()).collect();
        let last = statuses.iter().map(|status| status.commit_index).max().unwrap_or(0);
        let same = statuses.iter().all(|s| s.applied_index == last && s.leader_id != 0);
        let digests: BTreeSet<_> = statuses.iter().map(|status| &status.digest).collect();
        let whole = whole_ids(world);
        let everybody = lives.len() == whole.len();
        let heard = lives.iter().all(|life| !life.unheard().iter().any(|voter| whole.contains(voter)));
        if acknowledged
            && same
            && digests.len() == 1
            && everybody
            && heard
            && (last == world.facts.applied_max() || world.is_restored())
        {
            return;
        }
        // Nothing is acknowledged any more where a majority has fenced itself.
        if world.is_restored() && !has_majority(world) {
            return;
        }
        if same && digests.len() > 1 {
            return world.facts.violated(format!("nodes that applied {last} differ: {digests:?}"));
        }
        sleep(Duration::from_millis(100)).await;
    }
    let status = |life: &Arc<Life>| {
        let s = life.ledger().status();
        format!(
            "node {} {} leader {} term {} commit {} applied {} does not hear {:?}",
            life.id,
            s.role,
            s.leader_id,
            s.term,
            s.commit_index,
            s.applied_index,
            life.unheard()
        )
    };
    let lives: Vec<String> = whole_lives(world).iter().map(status).collect();
    world.facts.violated(format!(
        "no convergence within {HEAL_MS_MAX} ms after the last fault (a new append acknowledged: {acknowledged}, applied anywhere: {}): {lives:?}",
        world.facts.applied_max()
    ));
}

async fn probe(world: &Arc<World>) -> bool {
    for life in whole_lives(world) {
        let options = AppendOptions { deadline: Some(Duration::from_secs(5)), ..AppendOptions::default() };
        if life.ledger().append(probe_entry(), options).await.is_ok() {
            return true;
        }
    }
    false
}

/// Contexts that clients write to.
fn contexts(plan: &Plan) -> impl Iterator<Item = String> {
    plan.clients.iter().max_by_key(|client| client.contexts).into_iter().flat_map(Mix::contexts)
}

/// The segments of all nodes are the same bytes, as far as they go.
fn check_segments(world: &Arc<World>, mut whole: Vec<NodeId>) {
    whole.retain(|id| !world.is_rotten(*id));
    let Some((&first, others)) = whole.split_first() else { return };
    let own = world.segments(first);
    for &other in others {
        if let Err(differs) = segments::common(&own, &world.segments(other)) {
            world.facts.violated(format!("segments of nodes {first} and {other}: {differs}"));
        }
    }
}

/// What every node holds in the end goes into the history.
async fn record_states(world: &Arc<World>, plan: &Plan) {
    for life in whole_lives(world) {
        for context in contexts(plan) {
            match whole(life.ledger(), &context).await {
                Ok(entries) => {
                    let brought = followed(life.ledger(), &context, entries.len()).await;
                    if brought != entries && !world.is_rotten(life.id) {
                        world.facts.violated(format!(
                            "a watch of {context} on node {} brings {} entries that are not the {} there",
                            life.id,
                            brought.len(),
                            entries.len()
                        ));
                    }
                    world.facts.record(Operation::State(history::State { node: life.id, context, entries }));
                }
                Err(error) if world.is_rotten(life.id) => {
                    world.trace.note(&[31], || format!("node {} cannot be read: {error}", life.id));
                }
                Err(error) => world.facts.violated(format!("node {} cannot be read in the end: {error}", life.id)),
            }
        }
    }
}

/// A load is all or nothing, on every node, and what it restored is the original.
async fn check_copies(world: &Arc<World>) {
    for life in whole_lives(world) {
        for copied in world.facts.copies() {
            let Copied { from, to, .. } = &copied;
            let (Ok(original), Ok(copy)) = (whole(life.ledger(), from).await, whole(life.ledger(), to).await) else {
                if !world.is_rotten(life.id) {
                    world.facts.violated(format!("node {} cannot read {from} or its copy {to} in the end", life.id));
                }
                continue;
            };
            let same = copy.iter().zip(&original).all(|(a, b)| (a.sequence, &a.value) == (b.sequence, &b.value));
            if !same || !copied.allows(copy.len() as u64) {
                let held = copy.len();
                world.facts.violated(format!(
                    "node {} holds {held} entries in {to}, a copy that came out as {copied:?}; the same entries: {same}",
                    life.id
                ));
            }
        }
    }
}

/// Invariant 2: the entries of all contexts together have the positions 1 to the last, on every node.
async fn check_positions(world: &Arc<World>, plan: &Plan) {
    let copies: BTreeSet<String> = world.facts.copies().into_iter().map(|copied| copied.to).collect();
    let all: Vec<String> = contexts(plan).chain(copies).chain(["probe".to_owned()]).collect();
    for life in whole_lives(world).into_iter().filter(|life| !world.is_rotten(life.id)) {
        let mut positions = Vec::new();
        for context in &all {
            let entries = whole(life.ledger(), context).await.unwrap_or_default();
            positions.extend(entries.into_iter().filter_map(|seen| seen.position).map(Position::get));
        }
        positions.sort_unstable();
        if let Some((expected, found)) = (1..).zip(positions).find(|(expected, found)| expected != found) {
            let id = life.id;
            world.facts.violated(format!("node {id} has position {found} where {expected} should be"));
        }
    }
}

fn summary(trace: &Trace, facts: &Facts, frames: Counts, seen: history::Counts, history: Vec<Operation>) -> RunOutcome {
    RunOutcome {
        violations: facts.violations(),
        digest: trace.digest(),
        simulated_ms: trace.elapsed_ms(),
        appends: (seen.acknowledged, seen.unknown, seen.refused),
        reads: seen.reads + seen.reads_stale,
        log_entries: facts.applied_max(),
        faults: facts.effects(),
        frames: (frames.delivered, frames.lost, frames.duplicated, frames.reordered),
        lines: trace.lines(),
        history,
        excused: facts.is_excused(),
        aborted: false,
    }
}
