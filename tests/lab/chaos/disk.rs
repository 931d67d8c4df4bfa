//! A small file system for each node, in memory, which can be made full.
//!
//! Only in a mount namespace of our own: they end with it. A sync on such a disk costs nothing and means nothing; that
//! is no loss here, for a killed process loses nothing that it has written, and no power fails.

use std::path::{Path, PathBuf};

use super::system;

/// Of each node. Memory is taken for what is written only.
const SIZE: &str = "4g";
/// What a full disk still takes: less than a batch, or nothing.
const LEFT_KIB: [u64; 3] = [0, 16, 200];
/// The node may write between the look at its disk and what is done to it.
const TRIES: u64 = 10;

/// See the module.
pub(super) struct Disks {
    /// Each node's data, by node from 1 on.
    paths: Vec<PathBuf>,
}

impl Disks {
    /// Mounts them at the nodes' data directories; says why where that cannot be done.
    pub(super) async fn mount<'p>(data: impl IntoIterator<Item = &'p Path>) -> Result<Disks, String> {
        let mut paths = Vec::new();
        for path in data {
            std::fs::create_dir_all(path).map_err(|error| format!("{path:?}: {error}"))?;
            let target = path.to_str().ok_or("a path is not text")?;
            system::run(&["mount", "-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs", target]).await?;
            paths.push(path.to_owned());
        }
        Ok(Disks { paths })
    }

    fn path(&self, node: u64) -> &str {
        // Their text was looked at when they were mounted.
        self.paths[node as usize - 1].to_str().unwrap_or_default()
    }

    /// Makes it full, or nearly.
    pub(super) async fn fill(&self, node: u64) -> Result<(), String> {
        let path = self.path(node);
        let mut last = String::new();
        for round in 0..TRIES {
            let used = used_kib(&system::run(&["df", "-k", "-P", path]).await?)?;
            // More with each round: it is filled while it is written to.
            let size = used + LEFT_KIB[(used % LEFT_KIB.len() as u64) as usize] + 64 * round;
            match self.resize(node, &format!("{size}k")).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) async fn make_room(&self, node: u64) -> Result<(), String> {
        self.resize(node, SIZE).await
    }

    async fn resize(&self, node: u64, size: &str) -> Result<(), String> {
        let options = format!("remount,size={size}");
        system::run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", self.path(node)]).await.map(drop)
    }

    /// Copies what is on them to where they are mounted: to be called when the nodes are gone.
    pub(super) async fn save(&self) -> Result<(), String> {
        for path in &self.paths {
            let from = path.to_str().unwrap_or_default();
            let aside = format!("{from}.copy");
            system::run(&["cp", "-a", "--sparse=always", from, &aside]).await?;
            system::run(&["umount", from]).await?;
            std::fs::remove_dir(path).map_err(|error| format!("{from}: {error}"))?;
            std::fs::rename(&aside, path).map_err(|error| format!("{aside}: {error}"))?;
        }
        Ok(())
    }
}

/// The third column of the second line, as POSIX has it.
pub(super) fn used_kib(df: &str) -> Result<u64, String> {
    let used = df.lines().nth(1).and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
    used.ok_or_else(|| format!("`df` says {df:?}"))
}
