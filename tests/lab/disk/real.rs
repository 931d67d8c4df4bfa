//! The file system of the machine, on which room can be made to be missing, and the look at names to be blind. It counts what
//! each thread reads, and reads can hang.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use converge_actors::storage::{Disk, File, Lock, RealDisk};

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct WatchedDisk {
    full: Arc<AtomicBool>,
    blind: Arc<AtomicBool>,
    /// By the names of the thread and of the file.
    reads: Arc<Mutex<BTreeMap<(String, String), u64>>>,
    /// Where reads hang, and who waits for them to go on.
    hung: Arc<(Mutex<Option<PathBuf>>, Condvar)>,
}

#[derive(Debug)]
struct WatchedFile {
    disk: WatchedDisk,
    path: PathBuf,
    file: Arc<dyn File>,
}

#[derive(Debug)]
struct WatchedLock {
    disk: WatchedDisk,
    lock: Box<dyn Lock>,
}

impl WatchedDisk {
    /// No write finds room from now on, or each does.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// Nobody notices any more that a file has lost its name.
    pub fn blind(&self) {
        self.blind.store(true, Ordering::SeqCst);
    }

    /// Reads by threads of files; `counts` is given the name of each.
    #[must_use]
    pub fn reads(&self, counts: impl Fn(&str, &str) -> bool) -> u64 {
        let reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.iter().filter(|((thread, file), _)| counts(thread, file)).map(|(_, count)| count).sum()
    }

    /// Reads of files below this directory hang, until another one is named, or none.
    pub fn hang(&self, below: Option<&Path>) {
        *self.hung.0.lock().unwrap_or_else(PoisonError::into_inner) = below.map(Path::to_owned);
        self.hung.1.notify_all();
    }

    fn begin_read(&self, path: &Path) {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        *reads.entry((thread, file.into_owned())).or_default() += 1;
        drop(reads);
        let below = self.hung.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs = |below: &mut Option<PathBuf>| below.as_ref().is_some_and(|below| path.starts_with(below));
        drop(self.hung.1.wait_while(below, hangs).unwrap_or_else(PoisonError::into_inner));
    }

    fn room(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn is_blind(&self) -> bool {
        self.blind.load(Ordering::SeqCst)
    }

    fn file(&self, path: &Path, file: io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(WatchedFile { disk: self.clone(), path: path.to_owned(), file: file? }))
    }
}

impl Disk for WatchedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.file(path, RealDisk.open(path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.file(path, RealDisk.create(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let lock = RealDisk.try_lock(path)?;
        Ok(lock.map(|lock| Box::new(WatchedLock { disk: self.clone(), lock }) as Box<dyn Lock>))
    }

    fn free(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free(dir)
    }
}

impl File for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.begin_read(&self.path);
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.room()?;
        self.file.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        if self.disk.is_blind() { Ok(true) } else { self.file.is_at(path) }
    }
}

impl Lock for WatchedLock {
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        if self.disk.is_blind() { Ok(true) } else { self.lock.is_at(path) }
    }
}
