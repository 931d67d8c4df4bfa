//! What a batch of appends costs the pure core: its bytes, written and read, and its apply.
#![allow(missing_docs, reason = "Criterion's macros define what they run")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hint::black_box;

use bytes::Bytes;
use converge_ledger_core::{
    Append, Batch, Boot, Command, ContextNo, EntryId, Head, KeyRow, LogIndex, NewEntry, NodeId, State, View, apply,
};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SIZES: [u64; 3] = [1, 16, 256];
const CONTEXTS: u64 = 100;

/// The appends that follow so many others, 256 bytes each.
fn batch(before: u64, size: u64) -> Batch {
    let append = |counter: u64| {
        Command::Append(Append {
            counter,
            id: EntryId(u128::from(counter).to_be_bytes()),
            appended_at_ns: 1_700_000_000_000_000_000 + counter,
            idempotency_key: None,
            expected_sequence: None,
            fence_epoch: None,
            received_lamport: None,
            follows: false,
            entry: NewEntry {
                context_id: format!("context-{}", counter % CONTEXTS),
                key: "event".to_owned(),
                payload: Bytes::from_static(&[0xA5; 256]),
                metadata: BTreeMap::new(),
            },
        })
    };
    let commands = (before + 1..=before + size).map(append).collect();
    Batch { origin: NodeId(1), boot: Boot(1), low_water: before + 1, low_staging: 0, commands }
}

/// Where contexts end, and no idempotency keys.
#[derive(Default)]
struct Ends(BTreeMap<String, Head>);

impl View for Ends {
    type Error = Infallible;

    fn head(&self, context_id: &str) -> Result<Option<Head>, Infallible> {
        Ok(self.0.get(context_id).copied())
    }

    fn key(&self, _: ContextNo, _: &str) -> Result<Option<KeyRow>, Infallible> {
        Ok(None)
    }
}

fn batches(criterion: &mut Criterion) {
    for size in SIZES {
        let mut group = criterion.benchmark_group("batch");
        group.throughput(Throughput::Elements(size));
        let (one, bytes) = (batch(0, size), batch(0, size).encode());
        group.bench_function(BenchmarkId::new("encode", size), |bencher| bencher.iter(|| black_box(&one).encode()));
        group.bench_function(BenchmarkId::new("decode", size), |bencher| {
            bencher.iter(|| Batch::decode(black_box(&bytes)).unwrap());
        });
        let (mut state, mut ends, mut index, mut given) = (State::default(), Ends::default(), LogIndex(0), 0);
        let mut next = || {
            given += size;
            batch(given - size, size)
        };
        let mut step = |batch: Batch| {
            index = index.next();
            let Ok(effects) = apply(&mut state, &ends, index, Some(&batch));
            ends.0.extend(effects.heads.iter().map(|(context, head)| (context.clone(), *head)));
            effects
        };
        group.bench_function(BenchmarkId::new("apply", size), |bencher| {
            bencher.iter_batched(&mut next, &mut step, BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, batches);
criterion_main!(benches);
