//! Tells what passes by itself from a disk that is broken.
//!
//! [`Sorting`] lies over the file system and marks two kinds of failures:
//! - A file could not be opened for lack of a descriptor, of memory, or because of a signal. Nothing was written, so
//!   nothing can be lost: whoever asked may try again after a pause ([`passes`]).
//! - A *write* found no room. What was written before it is still to be synced, so the directory may be opened again
//!   once there is room. A *sync* that found no room is like any other failed sync: what it should have written is
//!   unknown, and it loses its kind here, so that nobody takes the one for the other.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use converge_ledger_core::planted::{self, Bug};

use super::disk::{Disk, File, Lock};

/// Out of descriptors, in the process and in the system; the same numbers on every Unix.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// The mark.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Passing(io::Error);

/// Whether a failure is a passing lack, and nothing was written.
pub(crate) fn passes(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Passing>())
}

/// A lack that was noticed before anything was tried.
pub(crate) fn lack(what: String) -> io::Error {
    io::Error::other(Passing(io::Error::other(what)))
}

/// No thread could be had: the same lack, of another thing.
pub(crate) fn is_lack(error: &io::Error) -> bool {
    no_descriptor(error)
        || matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::OutOfMemory)
}

/// Only opening a file can lack a descriptor.
fn no_descriptor(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Whether no room was left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn mark_if(lack: fn(&io::Error) -> bool) -> impl Fn(io::Error) -> io::Error {
    move |error| match lack(&error) && !planted::is(Bug::LackFences) {
        true => io::Error::new(error.kind(), Passing(error)),
        false => error,
    }
}

fn synced(result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| if is_full(&error) { io::Error::other(format!("a sync: {error}")) } else { error })
}

/// A file system whose failures are marked.
#[derive(Debug)]
pub(crate) struct Sorting(pub(crate) Arc<dyn Disk>);

#[derive(Debug)]
struct SortingFile(Arc<dyn File>);

impl Disk for Sorting {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        // It makes names and syncs them: of its failures only the lack of a descriptor is surely one of opening.
        synced(self.0.create_dir_all(dir)).map_err(mark_if(no_descriptor))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir).map_err(mark_if(is_lack))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.0.open(path).map_err(mark_if(is_lack))?;
        Ok(Arc::new(SortingFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.0.create(path).map_err(mark_if(is_lack))?;
        Ok(Arc::new(SortingFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        synced(self.0.sync_dir(dir)).map_err(mark_if(no_descriptor))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.try_lock(path).map_err(mark_if(is_lack))
    }

    fn free(&self, dir: &Path) -> io::Result<u64> {
        self.0.free(dir)
    }
}

impl File for SortingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        synced(self.0.sync_data())
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.0.is_at(path)
    }
}
