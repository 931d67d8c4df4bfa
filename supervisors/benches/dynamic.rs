//! What a child of a dynamic supervisor costs to start, to hold and to stop, among a thousand, ten thousand and a
//! hundred thousand.
//!
//! One table, no statistics: what matters is that the cost of one does not grow with their number.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{
    ChildSpec, DynamicSupervisor, Intensity, Started, Strategy, SupervisorSpec, Template, Tree,
};

struct Idle;

impl Actor for Idle {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// Resident memory of this process in KiB, where the system tells.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
}

fn per_child(took: Duration, count: usize) -> String {
    format!("{:.1} µs", took.as_secs_f64() * 1e6 / count as f64)
}

async fn run(count: usize) {
    let pool = DynamicSupervisor::new(Template::default(), |()| Some((Idle, ())));
    let children = vec![ChildSpec::dynamic("pool", &pool)];
    let spec = SupervisorSpec::new(Strategy::OneForOne, Intensity::default(), children);
    let tree = Tree::start("root", spec).await.unwrap();
    let before = resident_kib();

    let began = Instant::now();
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let Ok(Started::Running { id, .. }) = pool.start_child(()).await else { panic!("a child did not start") };
        ids.push(id);
    }
    let started = began.elapsed();
    assert_eq!(pool.count_children().active, count);
    let memory = before.zip(resident_kib()).map(|(before, after)| after.saturating_sub(before) * 1024 / count as u64);

    let began = Instant::now();
    for id in &ids[..count / 2] {
        pool.terminate_child(id).await.unwrap();
    }
    let terminated = began.elapsed();
    assert_eq!(pool.count_children().active, count - count / 2);

    let began = Instant::now();
    tree.stop(Duration::from_secs(600)).await.unwrap();
    let stopped = began.elapsed();
    println!(
        "| {count} | {} | {} | {} | {} |",
        per_child(started, count),
        per_child(terminated, count / 2),
        per_child(stopped, count - count / 2),
        memory.map_or("?".to_owned(), |bytes| format!("{bytes} B")),
    );
}

fn main() {
    println!("| children | start, each | terminate, each | stop of the rest at once, each | memory, each |");
    println!("|---|---|---|---|---|");
    for count in [1_000, 10_000, 100_000] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(count));
    }
}
