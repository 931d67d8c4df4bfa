//! Planted bugs: whoever has to find one finds it, and where none is planted nothing is found.
//!
//! What storage alone finds is in `tests/lab/tests/planted_storage.rs`. Here are the pure core beside its model, whole nodes in
//! the simulated world, the clients' history of that, the system calls of a real process, and real processes under chaos.
//!
//! Each bug has the seed that finds it. A change of what seeds mean may move it: then the search goes on for
//! [`SEEDS_MORE`] seeds, and says which one to write down. `PLANTED=<name>` looks at one bug alone.
#![allow(missing_docs, clippy::print_stderr)]

#[path = "../../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use converge_lab::simulation::{Plan, RunOutcome, Shape, run};
use converge_lab::{fuzzing, history};
use converge_ledger_core::chance::Dice;
use converge_ledger_core::planted::{self, Bug, Level};
use serde_json::{Value, json};
use support::node::Node;
use support::strace::{Recorded, can_trace, marker, violations, wrapper};
use support::wire::{self, AppendRequest};

const BINARY: &str = env!("CARGO_BIN_EXE_converge-lab");

/// Where the search of a bug begins, if not at seed 1.
const FIRST: &[(Bug, u64)] = &[
    (Bug::VoteUnsynced, 29),
    (Bug::StaleRows, 9),
    (Bug::WatchSkips, 3),
    (Bug::ReadUnapplied, 5),
    (Bug::RetryApplies, 2),
    (Bug::OutcomeForgotten, 2),
    (Bug::KeyForgottenEarly, 6),
    (Bug::KeyWindowLocal, 17),
    (Bug::TornTaken, 30),
    (Bug::LackFences, 13),
    (Bug::VoteUnwritten, 6),
    (Bug::RotTakenForTorn, 24),
    (Bug::UnknownSkipped, 6),
    (Bug::UncommittedSettled, 63),
    (Bug::BlockClosedEarly, 2),
];
/// Seeds behind the first one, before a bug counts as not found.
const SEEDS_MORE: u64 = 40;
/// As in a run of the simulation itself.
const SHAPE: Shape = Shape { faults: 60, faults_ms: 60_000 };
/// How often a node is cut off, where that is all that happens.
const ISOLATIONS: u64 = 7;
/// How often the process ends, where the journal is always ahead.
const HURRIES: u64 = 20;
/// How often a read fails, where a start has to tell that from the journal's end.
const MISREADS: u64 = 24;
/// A run that takes so much real time goes round in circles.
const STUCK: Duration = Duration::from_secs(300);
/// Inputs for the core and its model.
const INPUTS: u64 = 4000;

fn of_level(level: Level) -> Vec<Bug> {
    let only = std::env::var("PLANTED").ok();
    let wanted = |bug: &Bug| bug.levels().contains(&level) && only.as_ref().is_none_or(|only| *only == bug.name());
    Bug::ALL.iter().copied().filter(wanted).collect()
}

#[test]
fn there_are_bugs_for_every_level_and_each_has_its_own_name() {
    let names: BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    assert_eq!(names.len(), Bug::ALL.len());
    assert!(names.len() >= 18, "only {} bugs", names.len());
    let levels = [Level::Model, Level::Crash, Level::Flips, Level::Simulation, Level::History, Level::Syscalls];
    for level in levels {
        assert!(Bug::ALL.iter().any(|bug| bug.levels().contains(&level)), "nothing for {level:?} to find");
    }
    assert!(!Bug::ALL.iter().copied().any(planted::is), "none is planted unless it is asked for");
}

// The pure core.

/// What the core does with input after input, held against its model, and with snapshots that were damaged.
fn core() -> Option<String> {
    let mut dice = Dice(1);
    let targets = ["apply", "snapshot"].map(fuzzing::named);
    let feed = |target: &fuzzing::Target, input: &[u8]| catch_unwind(AssertUnwindSafe(|| (target.feed)(input)));
    (0..INPUTS).find_map(|n| {
        let length = dice.below(600) as usize;
        let input = dice.bytes(length);
        targets.iter().find_map(|target| feed(target, &input).err().map(|_| format!("{}, input {n}", target.name)))
    })
}

#[test]
fn the_model_finds_its_bugs() {
    assert_eq!(core(), None, "without a bug");
    for bug in of_level(Level::Model) {
        let _planted = planted::plant(bug);
        let found = core();
        eprintln!("{:>18} model: {found:?}", bug.name());
        assert!(found.is_some(), "{} is not found by the model", bug.name());
    }
}

// The simulation, and the history of its clients.

/// The plan of a seed; for a bug that only a leader cut off from the others shows, or a journal that is always ahead of
/// the database, or one read of hundreds, the seed's nodes in such a world.
fn plan(bug: Option<Bug>, seed: u64) -> Plan {
    let drawn = Plan::draw(seed, SHAPE);
    match bug {
        Some(Bug::ReadByLease | Bug::QuorumOfOne) => isolating(&drawn),
        Some(Bug::FileOutOfOrder) => hurrying(&drawn),
        Some(Bug::ReadEndsJournal) => misreading(&drawn),
        Some(Bug::HistoryUnchecked) => putting_back(&drawn),
        _ => drawn,
    }
}

/// The same nodes, each cut off in turn, for so long that another leads in the end; and clients that do not pause.
fn isolating(drawn: &Plan) -> Plan {
    let mut plan = serde_json::to_value(drawn).unwrap();
    let nodes = plan["nodes"].as_array().unwrap().len() as u64;
    let split =
        |n: u64| json!({ "at_ms": n * 4_000, "fault": { "split": { "side": [n % nodes + 1], "for_ms": 3_000 } } });
    plan["faults"] = (1..ISOLATIONS).map(split).collect();
    plan["faults_ms"] = (ISOLATIONS * 4_000).into();
    for client in plan["clients"].as_array_mut().unwrap() {
        // Each read is of all there is: few entries at a time, and none of many.
        let wishes = [("contexts", 1), ("think_ms", 5), ("read_one_in", 2), ("watch_one_in", 1_000)];
        for (name, value) in wishes.into_iter().chain([("many_one_in", u64::MAX)]) {
            client[name] = value.into();
        }
        client["deadline_ms"] = json!([20, 200]);
    }
    serde_json::from_value(plan).unwrap()
}

/// A node alone whose journal fills file after file while the database commits, and whose process ends before it has:
/// each start makes one more file, until there are enough to use them in a wrong order.
fn hurrying(drawn: &Plan) -> Plan {
    let mut plan = serde_json::to_value(drawn).unwrap();
    let mut node = plan["nodes"][0].clone();
    for (name, value) in [
        ("journal_record_bytes", 16 << 10),
        ("journal_file_records", 5),
        ("commit_interval_ms", 1),
        ("commit_bytes", 1 << 10),
        ("overlay_bytes", 1 << 20),
        ("batches", 6),
        ("batch_bytes", 512),
        ("batch_commands", 1),
    ] {
        node[name] = value.into();
    }
    node["disk_us"] = json!([500, 2_000]);
    node["bounds"] = json!({ "commit_steps": 150 });
    plan["nodes"] = json!([node]);
    let mut client = plan["clients"][0].clone();
    for (name, value) in [("contexts", 20), ("think_ms", 1), ("payload_bytes", 500), ("read_one_in", 50)] {
        client[name] = value.into();
    }
    client["home"] = json!(null);
    plan["clients"] = vec![client; 8].into();
    plan["victims"] = json!(null);
    let crash = |n: u64| json!({ "crash": { "node": 1, "power": n % 4 == 1, "down_ms": 10 } });
    let within = |n: u64| json!({ "crash_within": { "node": 1, "operations": 100, "power": n.is_multiple_of(4) } });
    let fault = |n: u64| json!({ "at_ms": n * 300, "fault": if n % 2 == 1 { crash(n) } else { within(n) } });
    plan["faults"] = (1..=HURRIES).map(fault).collect();
    plan["faults_ms"] = ((HURRIES + 1) * 300).into();
    serde_json::from_value(plan).unwrap()
}

/// The same nodes and clients; each node in turn starts anew, and one of its first reads fails.
fn misreading(drawn: &Plan) -> Plan {
    let mut plan = serde_json::to_value(drawn).unwrap();
    let nodes = plan["nodes"].as_array().unwrap().len() as u64;
    let read =
        |n: u64| json!({ "node": n % nodes + 1, "nth": n * 11, "many": 1, "in_start": true, "operator_ms": 100 });
    let fault = |n: u64| json!({ "at_ms": n * 1_000, "fault": { "fail_read": read(n) } });
    plan["faults"] = (1..=MISREADS).map(fault).collect();
    plan["faults_ms"] = ((MISREADS + 1) * 1_000).into();
    serde_json::from_value(plan).unwrap()
}

/// Three of these nodes; the copies of two of them are put back, and the third comes later, with what the two have lost.
fn putting_back(drawn: &Plan) -> Plan {
    let mut plan = serde_json::to_value(drawn).unwrap();
    let node = plan["nodes"][0].clone();
    plan["nodes"] = vec![node; 3].into();
    for client in plan["clients"].as_array_mut().unwrap() {
        client["home"] = json!(null);
    }
    plan["victims"] = json!(null);
    plan["faults"] = json!([
        { "at_ms": 6_000, "fault": { "copy": { "node": 1 } } },
        { "at_ms": 6_500, "fault": { "copy": { "node": 2 } } },
        { "at_ms": 12_000, "fault": { "put_back": { "down_ms": [0, 0, 8_000] } } },
    ]);
    plan["faults_ms"] = json!(30_000);
    serde_json::from_value(plan).unwrap()
}

/// A run with a bug planted, or with none; in a thread of its own, for a bug may keep it from ending.
fn simulate(bug: Option<Bug>, plan: Plan) -> Result<RunOutcome, RecvTimeoutError> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let _planted = bug.map(planted::plant);
        let _ = tell.send(run(&plan, false));
    });
    told.recv_timeout(STUCK)
}

/// What a search came to: for each level the seed that found the bug, and the first thing that did not hold.
#[derive(Default)]
struct Found {
    simulation: Option<(u64, String)>,
    history: Option<(u64, String)>,
}

impl Found {
    fn look(&mut self, bug: Bug, seed: u64) {
        let outcome = match simulate(Some(bug), plan(Some(bug), seed)) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                self.simulation.get_or_insert((seed, "it does not end".into()));
                return;
            }
            Err(RecvTimeoutError::Disconnected) => panic!("seed {seed} with {}: the simulator panicked", bug.name()),
        };
        if let Some(first) = outcome.violations.into_iter().next() {
            self.simulation.get_or_insert((seed, first));
        }
        if let Some(first) = history::check(&outcome.history).violations.first() {
            self.history.get_or_insert((seed, first.to_string()));
        }
    }

    fn by(&self, level: Level) -> Option<&(u64, String)> {
        match level {
            Level::Simulation => self.simulation.as_ref(),
            Level::History => self.history.as_ref(),
            _ => unreachable!("only these are looked for"),
        }
    }
}

/// Searches until every level that has to has found it.
fn search(bug: Bug) -> (Found, u64) {
    let first = FIRST.iter().find(|(of, _)| *of == bug).map_or(1, |(_, seed)| *seed);
    let levels = [Level::Simulation, Level::History];
    let wanted: Vec<_> = levels.into_iter().filter(|level| bug.levels().contains(level)).collect();
    let mut found = Found::default();
    for seed in first..=first + SEEDS_MORE {
        found.look(bug, seed);
        if wanted.iter().all(|level| found.by(*level).is_some()) {
            return (found, seed);
        }
    }
    (found, first + SEEDS_MORE)
}

/// Each item once, on two threads.
fn share<T: Send, R: Send>(items: Vec<T>, act: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (items, results) = (Mutex::new(items.into_iter()), Mutex::new(Vec::new()));
    let next = || items.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = next() {
                    let result = act(item);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

fn short(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(160).collect()
}

#[test]
fn the_simulation_and_its_history_find_their_bugs() {
    let searched = share(of_level(Level::Simulation), |bug| {
        let began = Instant::now();
        let (found, last) = search(bug);
        let took = began.elapsed().as_secs_f64();
        let mut missed = Vec::new();
        for level in [Level::Simulation, Level::History] {
            match found.by(level) {
                Some((seed, what)) => eprintln!("{:>18} {level:?}, seed {seed}: {}", bug.name(), short(what)),
                None if bug.levels().contains(&level) => missed.push((bug.name(), level)),
                None => {}
            }
        }
        eprintln!("{:>18} {took:.1} s, up to seed {last}, missed {missed:?}", bug.name());
        ((bug, last), missed)
    });
    let missed: Vec<_> = searched.iter().flat_map(|(_, missed)| missed).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
    // The control: the plans that found bugs find none where none is.
    let plans = searched.iter().map(|((bug, last), _)| plan(Some(*bug), *last));
    let plans: BTreeSet<String> = plans.map(|plan| serde_json::to_string(&plan).unwrap()).collect();
    let controls = share(plans.into_iter().collect(), |text| {
        let outcome = simulate(None, serde_json::from_str(&text).unwrap());
        (text, outcome.map(|outcome| outcome.violations))
    });
    for (text, violations) in controls {
        assert_eq!(violations, Ok(Vec::new()), "without a bug: {text}");
    }
}

// A real process.

/// Every sync takes so much longer, or a reply in front of it would only be seen where it wins a race.
const SYNC_DELAY_US: u64 = 5_000;

const APPENDS: u32 = 20;
/// A node that fences itself before it has acknowledged anything shows nothing; the next one will.
const NODES_MAX: u32 = 5;

/// The binary of a build without the switch would pass for one without a bug.
fn has_switch() -> bool {
    let mut command = Command::new(BINARY);
    command.args(["sim", "--seed", "1", "--faults", "0", "--faults-for", "1ms"]);
    let misspelt = command.env(planted::VARIABLE, "no bug's name").output().unwrap();
    !misspelt.status.success()
}

/// Appends that a node alone acknowledges, and what is wrong with its system calls.
async fn traced(bug: Option<Bug>) -> Vec<String> {
    support::program::instead(&[BINARY, "node"]);
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), 1);
    let path = root.path().join("strace").display().to_string();
    node.through = wrapper(&path);
    node.through.extend(["-e".to_owned(), format!("inject=fdatasync,fsync:delay_enter={SYNC_DELAY_US}")]);
    if let Some(bug) = bug {
        node.environment.insert(planted::VARIABLE.to_owned(), bug.name().to_owned());
    }
    node.start().await;
    let mut acknowledged = 0;
    for number in 0..=APPENDS {
        let payload = marker(number).into_bytes();
        let request = AppendRequest { context_id: "traced".to_owned(), payload, ..Default::default() };
        match wire::append(&node.channel(), tonic::Request::new(request)).await {
            Ok(_) => acknowledged += 1,
            // A node that notices that it is ahead of its disk fences itself.
            Err(status) if bug.is_some() => {
                eprintln!("append {number}: {status}");
                break;
            }
            Err(status) => panic!("append {number}: {status}"),
        }
    }
    let recorded = Recorded::of(&mut node, &path).await;
    // Not the last one: only the reply behind it says that the calls of a reply have returned.
    let markers: Vec<u32> = (1..acknowledged).map(|number| number - 1).collect();
    violations(&[recorded], &markers, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_calls_give_their_bugs_away() {
    if !can_trace("planted bugs in system calls") {
        return;
    }
    assert!(has_switch(), "{BINARY} was built without planted bugs, by another build than this test's");
    assert_eq!(traced(None).await, Vec::<String>::new(), "without a bug");
    for bug in of_level(Level::Syscalls) {
        let mut found = Vec::new();
        for _ in 0..NODES_MAX {
            found = traced(Some(bug)).await;
            if !found.is_empty() {
                break;
            }
        }
        eprintln!("{:>18} system calls: {:?}", bug.name(), found.first());
        assert!(!found.is_empty(), "{} is not seen in the system calls", bug.name());
    }
}

// Real processes and clients under faults.

/// Draws a log that nobody reads among its first faults.
const CHAOS: [&str; 9] = ["chaos", "--planted", "--for", "4s", "--seed", CHAOS_SEED, "--clients", "4", "--output=json"];
const CHAOS_SEED: &str = "4";

/// What is wrong after a run of process chaos.
fn process_chaos(bug: Option<Bug>) -> Vec<String> {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    command.args(CHAOS).env("TMPDIR", temporary.path()).stdin(Stdio::null());
    if let Some(bug) = bug {
        command.env(planted::VARIABLE, bug.name());
    }
    let output = command.output().unwrap();
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let unread = |kind: &String| kind.starts_with("log that nobody reads");
    assert!(verdict["faults"].as_object().unwrap().keys().any(unread), "another seed: {verdict}");
    assert_eq!(verdict["ok"] == true, output.status.success(), "{output:?}");
    let violations = verdict["violations"].as_array().unwrap();
    violations.iter().map(|violation| violation.as_str().unwrap().to_owned()).collect()
}

#[test]
fn process_chaos_finds_its_bugs() {
    assert!(has_switch(), "{BINARY} was built without planted bugs, by another build than this test's");
    assert_eq!(process_chaos(None), Vec::<String>::new(), "without a bug");
    for bug in of_level(Level::Chaos) {
        let found = process_chaos(Some(bug));
        let sign = match bug {
            Bug::LogKills => "ended by itself",
            Bug::SilentStays => "somebody new is not served",
            Bug::BudgetUnbounded => "KiB of memory",
            other => panic!("nobody says what chaos sees of {}", other.name()),
        };
        let found = found.iter().find(|violation| violation.contains(sign));
        eprintln!("{:>18} chaos: {found:?}", bug.name());
        assert!(found.is_some(), "{} is not seen by chaos", bug.name());
    }
}
