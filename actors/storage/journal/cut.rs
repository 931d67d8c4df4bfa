//! Going on without a last record that is damaged.
//!
//! In its place comes a sound record with nothing in it. So the run of records has no gap, and the database may cover the
//! record already. What was there is kept in a file beside the journal's.

use std::io;
use std::path::{Path, PathBuf};

use super::record::Builder;
use super::ring::file_name;
use super::scan::Damage;
use super::sectors::SECTOR;
use crate::storage::disk::Disk;

impl Damage {
    /// The journal's file.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(file_name(self.file.slot))
    }
}

/// Keeps what there is from the record to the end of its file, then puts an empty record in its place, and zeros behind
/// it. A crash in between leaves a damaged tail again, or one that was cut.
pub(crate) fn cut(damage: &Damage, disk: &dyn Disk, dir: &Path, step: usize) -> io::Result<PathBuf> {
    let name = format!("{}.record-{}.damaged", file_name(damage.file.slot), damage.lsn);
    if disk.list(dir)?.contains(&name) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is there: move it away first")));
    }
    let (path, file) = (dir.join(name), &damage.file);
    let copy = disk.create(&path)?;
    let end = file.header.bytes;
    let bytes_at = |at| usize::try_from(end - at).map_or(step, |left| left.min(step));
    let pieces = |from: u64| (from..end).step_by(step).map(|at| (at, bytes_at(at)));
    let mut piece = vec![0; step];
    for (at, bytes) in pieces(damage.offset) {
        file.file.read_at(at, &mut piece[..bytes])?;
        copy.write_at(at - damage.offset, &piece[..bytes])?;
    }
    copy.sync_data()?;
    disk.sync_dir(dir)?;
    let mut builder = Builder::default();
    builder.begin();
    let empty = builder.seal(&file.header, damage.offset, damage.lsn);
    // Its beginning first: with another one and some of these sectors, it would look torn.
    for part in [&empty[..SECTOR], empty] {
        file.file.write_at(damage.offset, part)?;
        file.file.sync_data()?;
    }
    piece.fill(0);
    for (at, bytes) in pieces(damage.offset + builder.sealed_len()) {
        file.file.write_at(at, &piece[..bytes])?;
    }
    file.file.sync_data()?;
    Ok(path)
}
