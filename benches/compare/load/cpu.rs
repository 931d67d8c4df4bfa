//! Processor time of servers: user and system time of processes and of all that descends from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// A hundredth of a second: Linux tells user space no other unit, whatever the kernel counts in.
const TICK: Duration = Duration::from_millis(10);

/// What one process has used.
struct Used {
    parent: u32,
    /// Its own ticks, and those of children that have ended.
    ticks: u64,
}

/// The time that these processes use between two moments. It blocks until the second.
pub(crate) fn between(roots: &[u32], from: Instant, to: Instant) -> anyhow::Result<Duration> {
    thread::sleep(from.saturating_duration_since(Instant::now()));
    let before = used(roots)?;
    thread::sleep(to.saturating_duration_since(Instant::now()));
    Ok(used(roots)?.saturating_sub(before))
}

fn used(roots: &[u32]) -> anyhow::Result<Duration> {
    let mut processes = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        processes.insert(pid, parse(&stat).with_context(|| format!("/proc/{pid}/stat is not understood"))?);
    }
    if let Some(gone) = roots.iter().find(|pid| !processes.contains_key(*pid)) {
        bail!("process {gone} has ended: what it used is not known");
    }
    Ok(TICK * u32::try_from(ticks(roots, &processes))?)
}

fn ticks(roots: &[u32], processes: &BTreeMap<u32, Used>) -> u64 {
    let mut counted = BTreeSet::new();
    let mut next: Vec<u32> = roots.to_vec();
    let mut ticks = 0;
    while let Some(pid) = next.pop() {
        if counted.insert(pid) {
            ticks += processes[&pid].ticks;
            next.extend(processes.iter().filter(|(_, used)| used.parent == pid).map(|(child, _)| *child));
        }
    }
    ticks
}

/// The name, in parentheses, may hold anything; what follows it are numbers.
fn parse(stat: &str) -> Option<Used> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let ticks = (11..15).map(number).sum::<Option<u64>>()?;
    Some(Used { parent: u32::try_from(number(1)?).ok()?, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_with_its_children_dead_or_alive() {
        let stat = |pid: u32, parent: u32, ticks: &str| {
            (pid, parse(&format!("{pid} (a) b) R {parent} 1 1 0 -1 4194304 0 0 0 0 {ticks} 20 0 1")).unwrap())
        };
        let processes = BTreeMap::from([
            stat(1, 0, "100 100 100 100"),
            stat(2, 1, "1 2 3 4"),
            stat(3, 2, "10 20 0 0"),
            stat(4, 1, "7 0 0 0"),
        ]);
        assert_eq!(ticks(&[2], &processes), 40);
        assert_eq!(ticks(&[2, 3], &processes), 40, "none is counted twice");
        assert_eq!(ticks(&[3, 4], &processes), 37);
    }

    #[test]
    fn the_time_of_this_process_is_told() {
        let spin = Instant::now();
        while spin.elapsed() < Duration::from_millis(50) {}
        assert!(used(&[std::process::id()]).unwrap() > Duration::ZERO);
        assert!(used(&[u32::MAX]).unwrap_err().to_string().contains("has ended"));
    }
}
