//! How many kills a tree survives.

use tokio::time::Duration;

use super::Fault;
use super::dice::Dice;
use super::observer::{Observer, is_temporary};
use super::target::{Target, weight_of};
use crate::snapshot::{ChildState, TreeNode};
use crate::tree::{Escalated, StartError, Tree};

/// For a recovery, and for the end of a tree.
const PATIENCE: Duration = Duration::from_secs(60);

/// What [`almost_kill`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endurance {
    /// Kills in a row, each as soon as the one before was recovered from, after which the tree was whole again.
    pub survived: usize,
    /// What the next one did to it: it gave up, or shut itself down. `None`: the limit was reached, or nobody was left to
    /// kill.
    pub fatal: Option<Escalated>,
    /// Where the kills went; the last is the fatal one.
    pub kills: Vec<String>,
}

/// Finds how many kills a tree survives: one that `make` starts is killed at places of `target`, one after another, until
/// it ends or `kills_max` are through. Then a second tree gets all of these kills but the fatal one, and must be whole.
/// Both are stopped. Which places are killed in which order comes from `seed`. Places that are not restarted, the root and
/// temporary children, are left alone.
///
/// # Errors
/// When `make` fails.
///
/// # Panics
/// When a place neither runs again nor ends its tree within 60 s, or when the second tree does not survive what the first
/// did: the restarts of a tree then depend on something else than its kills.
pub async fn almost_kill(
    seed: u64,
    target: &Target,
    kills_max: usize,
    mut make: impl AsyncFnMut() -> Result<Tree, StartError>,
) -> Result<Endurance, StartError> {
    let endurance = kill(&make().await?, seed, target, kills_max).await;
    if endurance.fatal.is_some() {
        let again = kill(&make().await?, seed, target, endurance.survived).await;
        assert_eq!(again.fatal, None, "a second tree did not survive the {} kills of the first", endurance.survived);
    }
    Ok(endurance)
}

async fn kill(tree: &Tree, seed: u64, target: &Target, kills_max: usize) -> Endurance {
    let (mut dice, mut observer) = (Dice::new(seed), Observer::new(tree));
    let mut endurance = Endurance { survived: 0, fatal: None, kills: Vec::new() };
    while endurance.survived < kills_max {
        // Without the root and what is not restarted.
        let places = observer.places().into_iter().skip(1).filter(|place| !is_temporary(place));
        let nodes: Vec<TreeNode> = places.map(|place| place.look()).collect();
        let weight = |node: &TreeNode| match node.state {
            ChildState::Running => weight_of(std::slice::from_ref(target), node),
            _ => 0,
        };
        let weights: Vec<u32> = nodes.iter().map(weight).collect();
        let Some(chosen) = dice.pick(weights.into_iter()) else { break };
        let (path, before) = (&nodes[chosen].path, observer.running());
        let struck = Some((path.as_str(), nodes[chosen].incarnation));
        tree.inject(path, Fault::Kill).await.expect("it was running");
        endurance.kills.push(path.clone());
        tokio::select! {
            biased;
            end = tree.wait() => {
                let root = tree.root().path.clone();
                let shut_down = || Escalated { path: root, reason: "it shut itself down".to_owned() };
                endurance.fatal = Some(end.err().unwrap_or_else(shut_down));
                break;
            }
            recovered = observer.recovered(&before, struck, PATIENCE) => {
                assert!(recovered, "{path} neither runs again nor ends its tree");
                endurance.survived += 1;
            }
        }
    }
    // One that has ended says so.
    let _ = tree.stop(PATIENCE).await;
    endurance
}
