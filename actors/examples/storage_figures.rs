//! What storage costs: appends per second through the journal, beside a bare file and its syncs;
//! size of the database over payload; time to open after an unclean stop.
//!
//! ```text
//! cargo run --release -p converge-actors --example storage_figures -- DIR [entries] [megabytes]
//! ```
//!
//! `DIR` must be on the disk that is to be measured. Runs as two processes: the one that fills a
//! directory for the last figure is killed.
#![allow(clippy::print_stdout)]

#[path = "../benches/running/mod.rs"]
mod running;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use converge_actors::storage::ReadQuery;
use converge_ledger_core::Sequence;
use running::{Fallible, PAYLOAD, RunningStorage};

const WAIT: Duration = Duration::from_secs(60);

fn percentile(times: &mut [Duration], of_hundred: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * of_hundred / 100]
}

/// A zero-filled file, 4 KiB written and synced at a time.
fn bare_syncs(dir: &Path) -> Fallible<Duration> {
    use std::os::unix::fs::FileExt;
    let path = dir.join("bare");
    let file = std::fs::File::create(&path)?;
    file.write_all_at(&vec![0; 16 << 20], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for n in 0..2000_u64 {
        let start = Instant::now();
        file.write_all_at(&[1; 4096], n * 4096)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(percentile(&mut times, 50))
}

async fn appends(dir: &Path, size: usize, contexts: u64, entries: usize) -> Fallible<()> {
    let dir = dir.join(format!("batch-{size}-{contexts}"));
    let _ = std::fs::remove_dir_all(&dir);
    let mut node = RunningStorage::start(&dir, |_| ()).await?;
    let mut times = Vec::new();
    let start = Instant::now();
    for _ in 0..entries.div_ceil(size) {
        times.push(node.write(size, contexts).await?);
    }
    node.until_applied().await?;
    let rate = node.counter as f64 / start.elapsed().as_secs_f64();
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    let payload = node.counter * PAYLOAD as u64;
    let query = ReadQuery { after: Sequence(0), limit: 10, key: None, max_bytes: 1 << 20 };
    let page = node.storage.read(&format!("ctx-{}", 1 % contexts), query)?;
    assert!(!page.entries.is_empty(), "what was written can be read");
    node.tree.stop(WAIT).await?;
    let file = std::fs::metadata(dir.join("ledger.redb"))?.blocks() * 512;
    println!(
        "batch {size:>4}, {contexts:>4} contexts: {rate:>9.0} appends/s, p50 {p50:>9.1?}, p99 {p99:>9.1?}, \
         {:.2} x payload",
        file as f64 / payload as f64
    );
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Fills a directory until this process is killed from outside.
async fn fill(dir: &Path, megabytes: u64) -> Fallible<()> {
    let mut node = RunningStorage::start(dir, |_| ()).await?;
    let entries = (megabytes << 20) / PAYLOAD as u64;
    while node.counter < entries {
        node.write(256, 100).await?;
    }
    println!("filled");
    loop {
        node.write(16, 100).await?;
    }
}

async fn reopen(dir: &Path, megabytes: u64) -> Fallible<()> {
    use std::io::{BufRead, BufReader};
    let dir = dir.join("reopen");
    let _ = std::fs::remove_dir_all(&dir);
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .args(["--fill".as_ref(), dir.as_os_str(), megabytes.to_string().as_ref()])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    child.kill()?;
    child.wait()?;
    let start = Instant::now();
    let node = RunningStorage::start(&dir, |_| ()).await?;
    let took = start.elapsed();
    let status = node.storage.status();
    println!(
        "after SIGKILL at {megabytes} MB of payload ({} MB database): serving in {took:.1?}, {} log entries",
        status.redb_bytes >> 20,
        status.last
    );
    node.tree.stop(WAIT).await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, dir, megabytes] = &args[..]
        && flag == "--fill"
    {
        return fill(Path::new(dir), megabytes.parse()?).await;
    }
    let dir = Path::new(args.first().ok_or("usage: storage_figures DIR [entries] [megabytes]")?);
    let entries: usize = args.get(1).map_or(Ok(20_000), |n| n.parse())?;
    let megabytes: u64 = args.get(2).map_or(Ok(100), |n| n.parse())?;
    std::fs::create_dir_all(dir)?;
    println!("bare 4 KiB write and fdatasync: p50 {:.1?}", bare_syncs(dir)?);
    for (size, contexts) in [(1, 1), (1, 100), (16, 1), (16, 100), (256, 1), (256, 100)] {
        appends(dir, size, contexts, entries.max(size * 20)).await?;
    }
    reopen(dir, megabytes / 8).await?;
    reopen(dir, megabytes).await
}
