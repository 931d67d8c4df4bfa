//! The storage contract of Raft and S1 to S8, against the real store on a real disk, which is
//! closed and opened again after each step.
mod lives;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::support::{Dice, Leader, RunningStorage, keys, small, write};
use bytes::Bytes;
use converge_actors::storage::{
    AppliedMark, EntryKind, Error, Genesis, HardState, LogEntry, Phase, ReadQuery, Settings,
};
use converge_ledger_core::{Batch, Boot, ClusterId, KEY_WINDOW_DEFAULT, LogIndex, NodeId, Sequence, StoreId, Term};

fn plain(index: u64, term: u64) -> LogEntry {
    let data = Bytes::from(format!("entry {index} of term {term}"));
    LogEntry { index: LogIndex(index), term: Term(term), kind: EntryKind::ConfChange, data }
}

fn hard(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote: NodeId(vote), commit: LogIndex(commit) }
}

async fn reopen(node: RunningStorage, settings: &Settings) -> RunningStorage {
    node.stop().await;
    RunningStorage::start(settings.clone()).await
}

#[test]
fn idempotency_keys_are_known_for_a_window_and_then_their_rows_go() {
    keys::rows_leave_with_the_window();
    keys::keys_that_came_and_left_within_a_commit_are_absent();
    keys::what_is_known_does_not_hang_on_what_a_node_has();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_directory_is_empty_and_stays_the_same_store() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path().join("deep/inside"));
    let node = RunningStorage::start(settings.clone()).await;
    let first = node.recover().await;
    assert_eq!((first.applied, first.last_index), (LogIndex(0), LogIndex(0)));
    assert_eq!((first.hard_state, first.genesis.clone()), (HardState::default(), None));
    assert_eq!(node.storage.log_term(LogIndex(0)).unwrap(), Some(Term(0)));
    assert_eq!(node.storage.log_term(LogIndex(1)).unwrap(), None);
    let node = reopen(node, &settings).await;
    let second = node.recover().await;
    assert_eq!(second.store_id, first.store_id);
    assert!(second.boot > first.boot && first.boot > Boot(0));
    node.stop().await;
}

/// A directory that was put back from a copy counts boots that the log knows already, of which nothing is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_counts_on_from_the_boots_of_this_node_that_were_applied() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let node = RunningStorage::start(settings.clone()).await;
    let first = node.recover().await;
    let voters = [(NodeId(1), first.store_id), (NodeId(2), StoreId([2; 16]))].into();
    node.storage
        .write_genesis(Genesis { cluster_id: ClusterId([1; 16]), group: 0, voters, key_window: KEY_WINDOW_DEFAULT })
        .await
        .unwrap();
    let of = |node, times: u64| Batch {
        origin: NodeId(node),
        boot: Boot(first.boot.get() + (times << 24)),
        low_water: 1,
        low_staging: 1,
        commands: Vec::new(),
    };
    let (own, others) = (of(1, 7), of(2, 100));
    for (index, batch) in (1..).zip([&own, &others]) {
        let entry = LogEntry { kind: EntryKind::Normal, data: batch.encode(), ..plain(index, 1) };
        node.append(vec![entry.clone()], Some(hard(1, 1, index))).await.unwrap();
        node.apply(vec![entry]).await;
    }
    node.until_covered().await;
    let node = reopen(node, &settings).await;
    let second = node.recover().await.boot;
    assert!(own.boot < second && second < others.boot, "{second} after {}, of another {}", own.boot, others.boot);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_and_hard_state_survive_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let mut node = RunningStorage::start(settings.clone()).await;
    let mut expected: Vec<LogEntry> = Vec::new();
    // (entries from, to, term, hard state)
    let steps =
        [(1, 3, 1, hard(1, 1, 0)), (4, 4, 1, hard(1, 1, 2)), (3, 6, 2, hard(2, 3, 2)), (5, 5, 3, hard(3, 0, 3))];
    for (from, to, term, state) in steps {
        let entries: Vec<_> = (from..=to).map(|i| plain(i, term)).collect();
        expected.truncate(from as usize - 1);
        expected.extend(entries.clone());
        node.append(entries, Some(state)).await.unwrap();
        for round in 0..2 {
            assert_eq!(node.log().unwrap(), expected, "round {round} of term {term}");
            assert_eq!(node.storage.log_last(), LogIndex(to));
            for entry in &expected {
                assert_eq!(node.storage.log_term(entry.index).unwrap(), Some(entry.term));
            }
            assert_eq!(node.storage.log_term(LogIndex(to + 1)).unwrap(), None);
            node = reopen(node, &settings).await;
        }
        let recovered = node.recover().await;
        assert_eq!((recovered.hard_state, recovered.last_index), (state, LogIndex(to)));
        assert_eq!(recovered.applied, state.commit);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_log_cross_from_the_database_to_memory() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { commit_interval: Duration::from_secs(3600), ..small(dir.path()) };
    let node = RunningStorage::start(settings.clone()).await;
    node.append((1..=5).map(|i| plain(i, 1)).collect(), None).await.unwrap();
    let node = reopen(node, &settings).await;
    node.append((6..=9).map(|i| plain(i, 1)).collect(), None).await.unwrap();
    let weight = plain(1, 1).weight();
    for lo in 1..=9 {
        for hi in lo + 1..=10 {
            for fit in 0..=9 {
                let max = fit * weight;
                let got = node.storage.log_entries(LogIndex(lo), LogIndex(hi), max).unwrap();
                let want: Vec<_> = (lo..hi).take(fit.max(1)).map(|i| plain(i, 1)).collect();
                assert_eq!(got, want, "{lo}..{hi} in {max} bytes");
            }
        }
    }
    assert_eq!(node.storage.log_entries(LogIndex(10), LogIndex(12), 99).unwrap(), vec![]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncation_reaches_memory_journal_and_database_at_every_stage() {
    for settle in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let interval = if settle { Duration::ZERO } else { Duration::from_secs(3600) };
        let settings = Settings { commit_interval: interval, ..small(dir.path()) };
        let node = RunningStorage::start(settings.clone()).await;
        node.append((1..=8).map(|i| plain(i, 1)).collect(), Some(hard(1, 1, 2))).await.unwrap();
        if settle {
            node.until_covered().await;
        }
        node.append((4..=5).map(|i| plain(i, 2)).collect(), Some(hard(2, 1, 2))).await.unwrap();
        let want: Vec<_> = (1..=3).map(|i| plain(i, 1)).chain((4..=5).map(|i| plain(i, 2))).collect();
        assert_eq!(node.log().unwrap(), want);
        let node = reopen(node, &settings).await;
        assert_eq!(node.log().unwrap(), want);
        assert_eq!(node.storage.log_term(LogIndex(6)).unwrap(), None);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_entries_are_never_replaced_and_gaps_never_made() {
    let dir = tempfile::tempdir().unwrap();
    let node = RunningStorage::start(small(dir.path())).await;
    node.append((1..=3).map(|i| plain(i, 1)).collect(), Some(hard(1, 1, 2))).await.unwrap();
    for bad in [vec![plain(2, 2)], vec![plain(5, 1)], vec![plain(4, 1), plain(6, 1)]] {
        let storage = node.storage.clone();
        let append = move || storage.append(bad, None, Box::new(|_| {}));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(append));
        assert!(outcome.is_err(), "it was taken: {outcome:?}");
    }
    assert_eq!(node.log().unwrap().len(), 3);
    node.append(vec![plain(4, 1)], None).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_come_in_order_and_a_commit_alone_needs_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let node = RunningStorage::start(small(dir.path())).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    for index in 1..=200 {
        let seen = Arc::clone(&seen);
        let done = Box::new(move |outcome: Result<(), Error>| {
            outcome.unwrap();
            seen.lock().unwrap().push(index);
        });
        node.storage.append(vec![plain(index, 1)], Some(hard(1, 1, 0)), done).unwrap();
    }
    node.append(Vec::new(), Some(hard(1, 1, 150))).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), (1..=200).collect::<Vec<_>>());
    let lsn = node.storage.status().durable_lsn;
    node.append(Vec::new(), Some(hard(1, 1, 160))).await.unwrap();
    assert_eq!(node.storage.status().durable_lsn, lsn);
    assert_eq!(node.storage.status().commit, LogIndex(160));
    node.append(Vec::new(), Some(hard(2, 1, 160))).await.unwrap();
    assert!(node.storage.status().durable_lsn > lsn);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_larger_than_a_record_is_split_and_one_entry_larger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let node = RunningStorage::start(settings.clone()).await;
    let entry = |index| LogEntry { data: Bytes::from(vec![index as u8; 5000]), ..plain(index, 1) };
    let entries: Vec<_> = (1..=40).map(entry).collect();
    node.append(entries.clone(), Some(hard(1, 1, 0))).await.unwrap();
    let large = LogEntry { data: Bytes::from(vec![0; 17 << 10]), ..plain(41, 1) };
    let refused = node.append(vec![large], None).await.unwrap_err();
    assert!(matches!(refused, Error::TooLarge { index: LogIndex(41), .. }), "{refused}");
    let node = reopen(node, &settings).await;
    assert_eq!(node.log().unwrap(), entries);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_read_the_same_from_memory_and_from_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { commit_interval: Duration::from_secs(3600), ..small(dir.path()) };
    let mut node = RunningStorage::start(settings.clone()).await;
    let mut leader = Leader::new();
    let mut dice = Dice(7);
    for round in 0..6 {
        for _ in 0..8 {
            let writes: Vec<_> = (0..1 + dice.below(6))
                .map(|_| {
                    let context = format!("context {}", dice.below(4));
                    let length = dice.below(300) as usize;
                    write(&context, if dice.below(2) == 0 { "even" } else { "odd" }, &dice.bytes(length))
                })
                .collect();
            leader.write(&node, &writes).await;
        }
        leader.check(&node);
        check_queries(&node, &leader, &mut dice);
        if round % 2 == 0 {
            node = reopen(node, &settings).await;
            leader.check(&node);
            check_queries(&node, &leader, &mut dice);
        }
    }
    // A page says up to which log entry it shows all there is, also when that is nothing.
    let AppliedMark { index: applied, position, .. } = node.storage.applied();
    assert_ne!(applied, LogIndex(0));
    let nothing = converge_actors::storage::Page { applied, position, ..Default::default() };
    assert_eq!(node.all("unknown").unwrap(), nothing);
    assert_eq!(node.storage.head("unknown").unwrap(), None);
    node.stop().await;
}

fn check_queries(node: &RunningStorage, leader: &Leader, dice: &mut Dice) {
    for (context, kept) in &leader.contexts {
        let latest = kept.len() as u64;
        for _ in 0..20 {
            let after = dice.below(latest + 2);
            let limit = dice.below(5) as usize;
            let key = (dice.below(2) == 0).then(|| "even".to_owned());
            let max_bytes = if dice.below(3) == 0 { 500 } else { usize::MAX };
            let query = ReadQuery { after: Sequence(after), limit, key: key.clone(), max_bytes };
            let page = node.storage.read(context, query.clone()).unwrap();
            let all: Vec<u64> =
                (after + 1..=latest).filter(|s| key.as_ref().is_none_or(|k| *k == kept[*s as usize - 1].0)).collect();
            let got: Vec<u64> = page.entries.iter().map(|e| e.sequence.get()).collect();
            assert_eq!(got, all[..got.len()], "{query:?}");
            assert_eq!(page.latest, Sequence(latest));
            if !page.truncated {
                assert_eq!(got.len(), all.len(), "{query:?} ended early");
            } else {
                assert!(!got.is_empty() || page.next_after > Sequence(after), "{query:?} goes nowhere");
                let rest: Vec<u64> = all.iter().copied().filter(|s| *s > page.next_after.get()).collect();
                assert_eq!(got.len() + rest.len(), all.len(), "{query:?} skips entries");
            }
            if limit > 0 {
                assert!(got.len() <= limit);
            }
        }
        let one = node.storage.entry(context, Sequence(latest)).unwrap().unwrap();
        assert_eq!(&one.payload[..], &kept[latest as usize - 1].1[..]);
        assert_eq!(node.storage.entry(context, Sequence(latest + 1)).unwrap(), None);
        assert_eq!(node.storage.entry(context, Sequence(0)).unwrap(), None);
        assert_eq!(node.storage.head(context).unwrap().unwrap().latest, Sequence(latest));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_passes_over_what_it_has_and_reports_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = RunningStorage::start(small(dir.path())).await;
    let mut leader = Leader::new();
    let entries: Vec<_> = (0..5).map(|n| leader.batch(&[write("c", "k", &[n])])).collect();
    node.append(entries.clone(), Some(leader.hard_state())).await.unwrap();
    node.apply(entries[..3].to_vec()).await;
    node.apply(entries.clone()).await;
    let seen: Vec<_> = node.outcomes.lock().unwrap().iter().map(|b| b.index.get()).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    leader.check(&node);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_applied_when_recover_answers() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let node = RunningStorage::start(settings.clone()).await;
    let mut leader = Leader::new();
    let entries: Vec<_> = (0..300).map(|n: u32| leader.batch(&[write("c", "k", &n.to_le_bytes())])).collect();
    node.append(entries, Some(leader.hard_state())).await.unwrap();
    assert_eq!(node.recover().await.applied, LogIndex(300));
    leader.check(&node);
    let digest = node.storage.status().digest;
    let node = reopen(node, &settings).await;
    assert_eq!(node.recover().await.applied, LogIndex(300));
    assert_eq!(node.storage.status().digest, digest);
    leader.check(&node);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_genesis_is_kept_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let node = RunningStorage::start(settings.clone()).await;
    let store_id = node.recover().await.store_id;
    let voters = BTreeMap::from([(NodeId(1), store_id)]);
    let genesis = Genesis { cluster_id: ClusterId([1; 16]), group: 0, voters, key_window: KEY_WINDOW_DEFAULT };
    node.storage.write_genesis(genesis.clone()).await.unwrap();
    for node in [reopen(node, &settings).await] {
        assert_eq!(node.recover().await.genesis, Some(genesis.clone()));
        node.storage.write_genesis(genesis.clone()).await.unwrap();
        let other = Genesis { cluster_id: ClusterId([2; 16]), ..genesis.clone() };
        let refused = node.storage.write_genesis(other).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journal_files_are_reused_and_their_number_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let mut node = RunningStorage::start(settings.clone()).await;
    let mut leader = Leader::new();
    for round in 0..4_u8 {
        for n in 0..60 {
            leader.write(&node, &[write("c", "k", &vec![n ^ round; 2000])]).await;
        }
        node = reopen(node, &settings).await;
    }
    leader.check(&node);
    let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let journal = names.filter(|name| name.starts_with("journal-")).count();
    assert!((2..=3).contains(&journal), "{journal} journal files");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journal_files_of_another_size_are_replaced_before_a_record_outgrows_them() {
    let dir = tempfile::tempdir().unwrap();
    let before = small(dir.path());
    let after = Settings { journal_file_bytes: 1 << 20, journal_record_bytes_max: 200 << 10, ..before.clone() };
    let mut leader = Leader::new();
    let mut node = RunningStorage::start(before.clone()).await;
    for n in 0..80_u8 {
        leader.write(&node, &[write("c", "k", &vec![n; 2000])]).await;
    }
    for settings in [&after, &after, &before, &after] {
        node = reopen(node, settings).await;
        assert_eq!(node.storage.status().phase, Phase::Serving);
        leader.check(&node);
        let large = settings.journal_record_bytes_max - 8000;
        for n in 0..12_u8 {
            leader.write(&node, &[write("c", "k", &vec![n; large])]).await;
        }
    }
    let node = reopen(node, &after).await;
    assert_eq!(node.storage.status().phase, Phase::Serving);
    leader.check(&node);
    node.until_covered().await;
    node.stop().await;
    let sizes = journal_sizes(dir.path());
    assert!((2..=4).contains(&sizes.len()), "{sizes:?}");
}

/// The sizes of the journal's files.
fn journal_sizes(dir: &std::path::Path) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let journal = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with("journal-"));
    journal.map(|entry| entry.metadata().unwrap().len()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_ledger_takes_little_and_takes_the_largest_entry_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(dir.path().to_path_buf());
    let (mut leader, mut node) = (Leader::new(), RunningStorage::start(settings.clone()).await);
    leader.write(&node, &[write("c", "k", b"small")]).await;
    let mut taken: u64 = journal_sizes(dir.path()).iter().sum();
    taken += std::fs::metadata(dir.path().join("ledger.redb")).unwrap().len();
    assert!(taken <= 16 << 20, "{taken} bytes");
    node = reopen(node, &settings).await;
    let large = settings.journal_record_bytes_max - 8000;
    for n in 0..20_u8 {
        leader.write(&node, &[write("c", "k", &vec![n; large])]).await;
    }
    leader.check(&node);
    node.until_covered().await;
    node = reopen(node, &settings).await;
    leader.check(&node);
    node.stop().await;
    let sizes = journal_sizes(dir.path());
    assert!(sizes.iter().all(|size| *size == settings.journal_file_bytes), "{sizes:?}");
}
