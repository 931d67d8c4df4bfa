//! Cuts a failing plan down to the faults that matter.

use super::plan::Plan;
use super::run::run_apart;

/// Leaves out as many faults as it can with the plan still failing, first in large pieces, then one by one, in at most
/// `runs` runs. Says how many it took.
#[must_use]
pub fn shrink(plan: &Plan, runs: u64, mut progress: impl FnMut(&Plan)) -> (Plan, u64) {
    let mut best = plan.clone();
    let mut taken = 0;
    let fails = |plan: &Plan| !run_apart(plan, false).violations.is_empty();
    let mut piece = best.faults.len().div_ceil(2).max(1);
    while taken < runs {
        let mut at = 0;
        let mut shorter = false;
        while at < best.faults.len() && taken < runs {
            let mut candidate = best.clone();
            candidate.faults.drain(at..(at + piece).min(candidate.faults.len()));
            taken += 1;
            if fails(&candidate) {
                best = candidate;
                shorter = true;
                progress(&best);
            } else {
                at += piece;
            }
        }
        if piece == 1 && !shorter {
            break;
        }
        piece = (piece / 2).max(1);
    }
    (best, taken)
}
