//! A directory of a command's own.

use std::path::{Path, PathBuf};

use crate::config::check_directory;

use super::super::{Failure, Kind};

/// Removed when it is dropped, unless it is the user's.
pub struct Directory {
    path: PathBuf,
    keep: bool,
}

/// A file that is made while its directory is removed keeps that from going.
const REMOVALS: usize = 100;

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            // Somebody may still be writing there, who then finds the directory gone.
            let _ = (0..REMOVALS).find(|_| std::fs::remove_dir_all(&self.path).is_ok() || !self.path.exists());
        }
    }
}

impl Directory {
    /// A new one in the system's place for such, or the empty one that the user named with `flag`.
    pub fn new(command: &str, keep: Option<PathBuf>, flag: &str) -> Result<Self, Failure> {
        let (path, keep) = match keep {
            Some(path) => (path, true),
            None => {
                let name = format!("converge-ledger-{command}-{:08x}", rand::random::<u32>());
                (std::env::temp_dir().join(name), false)
            }
        };
        let checked = path.to_str().map_or(Ok(()), check_directory);
        checked.map_err(|why| Failure::new(Kind::Usage, format!("{flag} {path:?}: {why}")))?;
        let failed = |why: String| Failure::error(format!("{path:?}: {why}; name another one with {flag}"));
        std::fs::create_dir_all(&path).map_err(|error| failed(error.to_string()))?;
        let mut files = std::fs::read_dir(&path).map_err(|error| failed(error.to_string()))?;
        match files.next() {
            // What stands there is somebody's: nothing is made of it that would remove it.
            Some(_) => Err(failed("the directory is not empty".into())),
            None => Ok(Directory { path, keep }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// There is something to be seen in it.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}
