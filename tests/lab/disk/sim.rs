//! A disk that forgets: what was not synced may be lost or torn after a crash.
//!
//! One model lies under journal files and database alike. It fails where [`Faults`] say so, and
//! [`SimDisk::crash`] draws one of the disks that a power cut could leave. Operations cost what they
//! touch, not what the files hold; copies of a disk share what they have in common.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use converge_actors::storage::{Disk, File, Lock};
use converge_ledger_core::chance::Dice;

use super::faults::{Change, Counters, Faults};
use super::model::{Model, power_is_off};

/// The disk; clones are the same one.
///
/// # Example
/// ```
/// use std::path::Path;
/// use converge_actors::storage::Disk;
/// use converge_ledger_core::chance::Dice;
/// use converge_lab::disk::SimDisk;
///
/// let disk = SimDisk::default();
/// let file = disk.create(Path::new("/data/file")).unwrap();
/// file.write_at(0, b"synced").unwrap();
/// file.sync_data().unwrap();
/// disk.sync_dir(Path::new("/data")).unwrap();
/// file.write_at(0, b"forgot").unwrap();
///
/// let after = disk.crash(&mut Dice(7));
/// let content = after.content(Path::new("/data/file")).unwrap();
/// assert!(content == b"synced" || content == b"forgot");
/// ```
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Model>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.model().locked.remove(&self.path);
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut model = self.disk.model();
        if let Some(inode) = model.inodes.get_mut(&self.inode) {
            inode.handles -= 1;
            if inode.handles == 0 {
                model.forget();
            }
        }
    }
}

impl SimDisk {
    fn of(model: Model) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(model)))
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to go wrong from now on, in place of what was to.
    pub fn set_faults(&self, faults: Faults) {
        self.model().set_faults(faults);
    }

    /// What is to go wrong, as it was set last.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.model().faults.clone()
    }

    /// The power is off: every operation fails.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.model().off
    }

    /// It has failed an operation, whatever the reason.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed_at().is_some()
    }

    /// The first operation that it has failed.
    #[must_use]
    pub fn failed_at(&self) -> Option<u64> {
        self.model().failed
    }

    /// How many bytes files may take from now on, none for as many as they like; other faults stay.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.model().faults.capacity = capacity;
    }

    /// Bytes that files take now; holes take none.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.model().used()
    }

    /// What was asked of it so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.model().counters
    }

    /// Cuts the power: every later operation on this disk fails.
    pub fn cut(&self) {
        self.model().off = true;
    }

    /// One of the disks that a power cut leaves: one at [`Faults::cut_at`] or [`SimDisk::cut`] if the
    /// power is off, one now otherwise. Other dice give another one.
    #[must_use]
    pub fn crash(&self, dice: &mut Dice) -> SimDisk {
        SimDisk::of(self.model().torn(dice))
    }

    /// What of it is durable: the disk that a power cut now leaves when it takes all that it can.
    #[must_use]
    pub fn durable(&self) -> SimDisk {
        SimDisk::of(self.model().durable())
    }

    /// The disk as a killed process leaves it: all that was written is in the page cache, and what
    /// was not synced is still not.
    #[must_use]
    pub fn killed(&self) -> SimDisk {
        SimDisk::of(self.model().copy())
    }

    /// Keeps the disk in front of every operation that changes it, until
    /// [`SimDisk::recorded`]: each is a place where the power could be cut.
    pub fn record(&self) {
        self.model().moments = Some(Vec::new());
    }

    /// What was kept since [`SimDisk::record`]; no more is kept.
    #[must_use]
    pub fn recorded(&self) -> Vec<Moment> {
        let moments = self.model().moments.take().unwrap_or_default();
        moments.into_iter().map(|(op, change, disk)| Moment { op, change, disk: SimDisk::of(disk) }).collect()
    }

    /// How many changes of files and names are not synced, and could be lost.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.model().unsynced()
    }

    /// All files and their lengths, by name.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let model = self.model();
        model.names.iter().map(|(path, inode)| (path.clone(), model.inodes[inode].now.len())).collect()
    }

    /// The length of a file, if it exists.
    #[must_use]
    pub fn len(&self, path: &Path) -> Option<u64> {
        let model = self.model();
        model.names.get(path).map(|inode| model.inodes[inode].now.len())
    }

    /// The bytes of a file, if it exists.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let model = self.model();
        let file = &model.inodes[model.names.get(path)?].now;
        let mut bytes = vec![0; usize::try_from(file.len()).expect("a simulated file fits memory")];
        file.read(0, &mut bytes).then_some(bytes)
    }

    /// Puts content in place of a file's, as if it had been there and durable for long. Whoever has
    /// the file open must not use it any more.
    pub fn put_content(&self, path: &Path, content: &[u8]) {
        self.model().put(path, content);
    }

    /// Bit rot: turns over one bit of a byte, on the disk and in the page cache. Says no when the
    /// file has no such byte.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> bool {
        self.model().flip(path, offset, bit)
    }

    fn file(&self, model: &mut Model, inode: u64) -> Arc<dyn File> {
        model.inodes.get_mut(&inode).expect("a named file is kept").handles += 1;
        Arc::new(SimFile { disk: self.clone(), inode })
    }
}

/// The disk as it was in front of an operation.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The number of the operation; those before it are done.
    pub op: u64,
    /// What it is.
    pub change: Change,
    /// The disk, with all that was not synced still not synced.
    pub disk: SimDisk,
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.model().operation()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut model = self.model();
        model.opening()?;
        model.operation()?;
        let in_dir = model.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(in_dir.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut model = self.model();
        model.opening()?;
        model.operation()?;
        let inode = model.names.get(path).copied().ok_or_else(missing)?;
        Ok(self.file(&mut model, inode))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut model = self.model();
        model.opening()?;
        model.change(Change::Create)?;
        let inode = model.create(path);
        Ok(self.file(&mut model, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut model = self.model();
        model.change(Change::Rename)?;
        model.rename(from, to).ok_or_else(missing)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut model = self.model();
        model.change(Change::Remove)?;
        model.remove(path).ok_or_else(missing)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut model = self.model();
        model.opening()?;
        model.change(Change::SyncDir)?;
        model.sync_dir(dir);
        Ok(())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut model = self.model();
        model.opening()?;
        model.operation()?;
        if !model.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { disk: self.clone(), path: path.to_owned() })))
    }

    fn free(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.model().free())
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let model = self.disk.model();
        if model.off { Err(power_is_off()) } else { Ok(model.inodes[&self.inode].now.len()) }
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.model().read(self.inode, offset, into)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.model().write(self.inode, offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.model().set_len(self.inode, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.model().sync(self.inode)
    }
}
