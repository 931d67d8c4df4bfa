//! Flipped bits: one at a time, over every byte of every file of a small directory. Each answer of
//! the node is the truth or an error; no context, idempotency key or log entry is silently gone.
//!
//! A run looks at a sample; `STORAGE_FLIPS=all` looks at one bit of each byte that is not zero.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::support::{Dice, Leader, RunningStorage, one_thread, simulated, write};
use converge_actors::storage::{Error, Genesis, LogEntry, ReadQuery, Settings, pieces};
use converge_lab::disk::SimDisk;
use converge_ledger_core::{Batch, ClusterId, Command, KEY_WINDOW_DEFAULT, LogIndex, NodeId, Outcome, StoreId};

fn settings(disk: &SimDisk) -> Settings {
    Settings { journal_file_bytes: 72 << 10, redb_cache_bytes: 1 << 20, ..simulated(disk, 77, 3000) }
}

const CONTEXTS: u64 = 120;
const BATCHES: u64 = 250;

/// Gives every command of a batch an idempotency key.
fn keyed(entry: LogEntry) -> LogEntry {
    let mut batch = Batch::decode(&entry.data).unwrap();
    for command in &mut batch.commands {
        let Command::Append(append) = command else { unreachable!("only appends are made here") };
        append.idempotency_key = Some(format!("request {} of {}", append.counter, append.entry.key));
    }
    LogEntry { data: batch.encode(), ..entry }
}

/// The same commands as a later attempt of the same client.
fn again(entry: &LogEntry, leader: &mut Leader) -> LogEntry {
    leader.index += 1;
    let mut batch = Batch::decode(&entry.data).unwrap();
    batch.low_water = leader.counter + 1;
    for command in &mut batch.commands {
        let Command::Append(append) = command else { unreachable!("only appends are made here") };
        leader.counter += 1;
        append.counter = leader.counter;
    }
    LogEntry { index: LogIndex(leader.index), data: batch.encode(), ..entry.clone() }
}

/// A directory whose tables have branches: closed well, or as a kill leaves it, with records that
/// the database does not have.
async fn furnished(killed: bool) -> (SimDisk, Leader, Vec<LogEntry>) {
    let disk = SimDisk::default();
    let mut dice = Dice(11);
    let mut leader = Leader::new();
    let node = RunningStorage::start(settings(&disk)).await;
    let store_id = node.recover().await.store_id;
    node.storage.write_genesis(genesis(store_id)).await.unwrap();
    fill(&node, &mut leader, &mut dice, BATCHES).await;
    let log = node.log().unwrap();
    node.stop().await;
    if !killed {
        return (disk, leader, log);
    }
    let node = RunningStorage::start(Settings { commit_bytes: 1 << 30, ..settings(&disk) }).await;
    fill(&node, &mut leader, &mut dice, 8).await;
    let log = node.log().unwrap();
    let left = disk.killed();
    node.stop().await;
    (left, leader, log)
}

fn genesis(store_id: StoreId) -> Genesis {
    Genesis {
        cluster_id: ClusterId([7; 16]),
        group: 0,
        voters: [(NodeId(1), store_id)].into(),
        key_window: KEY_WINDOW_DEFAULT,
    }
}

async fn fill(node: &RunningStorage, leader: &mut Leader, dice: &mut Dice, batches: u64) {
    for _ in 0..batches {
        let mut writes = Vec::new();
        for _ in 0..1 + dice.below(5) {
            let context = format!("context number {:04} with a long name", dice.below(CONTEXTS));
            let length = dice.below(60) as usize;
            writes.push(write(&context, "k", &dice.bytes(length)));
        }
        let entry = keyed(leader.batch(&writes));
        node.append(vec![entry.clone()], Some(leader.hard_state())).await.unwrap();
        node.apply(vec![entry]).await;
    }
}

/// What the log made of every key: context and sequence.
fn places(log: &[LogEntry]) -> Vec<Vec<(String, u64)>> {
    let mut latest: BTreeMap<String, u64> = BTreeMap::new();
    let of_entry = |entry: &LogEntry| {
        let commands = Batch::decode(&entry.data).unwrap().commands;
        let places = commands.into_iter().map(|command| {
            let Command::Append(append) = command else { unreachable!("only appends are made here") };
            let sequence = latest.entry(append.entry.context_id.clone()).or_default();
            *sequence += 1;
            (append.entry.context_id, *sequence)
        });
        places.collect()
    };
    log.iter().map(of_entry).collect()
}

/// Reads all there is, and asks for every key once more.
async fn ask(
    node: &RunningStorage,
    leader: &Leader,
    log: &[LogEntry],
    places: &[Vec<(String, u64)>],
) -> Result<(), Error> {
    let recovered = node.storage.recover().await?;
    assert_eq!(recovered.last_index, LogIndex(leader.index), "a silently shorter log");
    assert_eq!(recovered.hard_state, leader.hard_state());
    assert_eq!(recovered.genesis, Some(genesis(recovered.store_id)));
    assert_eq!(node.log()?, log, "another log");
    for (context, kept) in &leader.contexts {
        let page = node.storage.read(context, ReadQuery { max_bytes: usize::MAX, ..ReadQuery::default() })?;
        let got: Vec<_> = page.entries.iter().map(|e| (e.key.clone(), e.payload.to_vec())).collect();
        assert_eq!(got, *kept, "wrong bytes in {context}");
        assert_eq!(node.storage.head(context)?.map(|head| head.latest.get()), Some(kept.len() as u64));
    }
    let mut leader = leader.clone();
    let retries: Vec<_> = log.iter().map(|entry| again(entry, &mut leader)).collect();
    node.append(retries.clone(), Some(leader.hard_state())).await?;
    node.storage.apply(retries.clone())?;
    loop {
        let status = node.storage.status();
        if let converge_actors::storage::Phase::Fenced { cause } = status.phase {
            return Err(cause.error());
        }
        if status.applied == LogIndex(leader.index) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let outcomes = node.outcomes.lock().unwrap();
    let of_retries = outcomes.iter().filter(|batch| batch.index >= retries[0].index);
    for (batch, places) in of_retries.zip(places) {
        for ((_, outcome), (context, sequence)) in batch.outcomes.iter().zip(places) {
            let Outcome::Appended(place) = outcome else { panic!("{outcome:?}") };
            assert!(place.deduplicated, "{context}/{sequence} was appended again as {}", place.sequence);
            assert_eq!(place.sequence.get(), *sequence, "in {context}");
        }
    }
    Ok(())
}

/// The database's own panics are caught: no need to print each.
fn quiet(info: &std::panic::PanicHookInfo<'_>) {
    if info.location().is_some_and(|at| at.file().contains("actors") || at.file().contains("ledger/")) {
        eprintln!("{info}");
    }
}

#[test]
fn no_flipped_bit_is_believed_after_a_stop() {
    no_flipped_bit_is_believed(false);
}

#[test]
fn no_flipped_bit_is_believed_after_a_kill() {
    no_flipped_bit_is_believed(true);
}

fn no_flipped_bit_is_believed(killed: bool) {
    let (disk, leader, log) = one_thread(furnished(killed));
    let places = places(&log);
    one_thread(async {
        let node = RunningStorage::start(settings(&disk.killed())).await;
        ask(&node, &leader, &log, &places).await.unwrap();
        node.stop().await;
    });
    let mut dice = Dice(5);
    let mut flips = Vec::new();
    for (path, _) in disk.files() {
        let content = disk.content(&path).unwrap();
        for at in (0..content.len()).filter(|at| content[*at] != 0) {
            flips.push((path.clone(), at as u64 * 8 + dice.below(8)));
        }
    }
    let all = flips.len();
    let wanted = std::env::var("STORAGE_FLIPS").unwrap_or_else(|_| "250".into());
    if let Ok(wanted) = wanted.parse::<usize>() {
        let first = dice.below(all as u64) as usize;
        flips = (0..wanted).map(|n| flips[(first + n * all / wanted) % all].clone()).collect();
    }
    // Of the last record, which is not even vouched for by one that follows, and of its padding.
    let last = pieces(&disk.killed(), Path::new("/data")).pop().expect("the journal has records");
    assert_eq!(last.bytes % 4096, 0, "with its padding");
    let bits = (last.offset * 8..(last.offset + last.bytes) * 8).step_by(97);
    flips.extend(bits.map(|bit| (last.path.clone(), bit)));
    // Small and vital, and a sample would miss it: what the database says of itself.
    let database = PathBuf::from("/data/ledger.redb");
    let content = disk.content(&database).unwrap();
    for name in ["genesis", "identity", "progress", "state", "counts", "secret"] {
        let found = (0..content.len()).filter(|at| content[*at..].starts_with(name.as_bytes()));
        let bits = found.flat_map(|at| at * 8..(at + name.len()) * 8);
        flips.extend(bits.step_by(5).map(|bit| (database.clone(), bit as u64)));
    }
    // And where its tables begin.
    let pages = (0..content.len()).step_by(4096);
    let has = |page: usize, name: &[u8]| content[page..page + 4096].windows(name.len()).any(|found| found == name);
    for page in pages.filter(|page| has(*page, b"contexts") && has(*page, b"positions")) {
        let bits = (page..page + 450).filter(|at| content[*at] != 0).flat_map(|at| at * 8..at * 8 + 8);
        flips.extend(bits.step_by(7).map(|bit| (database.clone(), bit as u64)));
    }
    std::panic::set_hook(Box::new(quiet));
    let (mut noticed, mut believed) = (0, Vec::new());
    for (path, bit) in &flips {
        let outcome = std::panic::catch_unwind(|| {
            one_thread(async {
                let disk = disk.killed();
                assert!(disk.flip(path, bit / 8, (bit % 8) as u8));
                let Ok(node) = RunningStorage::try_start(settings(&disk)).await else { return false };
                let sound = ask(&node, &leader, &log, &places).await.is_ok();
                node.stop().await;
                sound
            })
        });
        match outcome {
            Ok(true) => {}
            Ok(false) => noticed += 1,
            Err(_) => believed.push((path.clone(), *bit)),
        }
    }
    let _ = std::panic::take_hook();
    eprintln!("{} flips of {all} bytes, {noticed} noticed, {} believed", flips.len(), believed.len());
    assert!(believed.is_empty(), "believed: {believed:?}");
    assert!(noticed > flips.len() / 10, "only {noticed} of {} flips were noticed", flips.len());
}
