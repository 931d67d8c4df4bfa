//! A disk that forgets: what was not synced may be lost or torn after a crash.
//!
//! One model lies under journal files and database alike. Each write is kept beside the durable
//! content until a sync of its file; names are kept beside the durable names until a sync of their
//! directory. [`SimDisk::crash`] draws one of the disks that a power cut could leave.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use converge_actors::storage::{Disk, File, Lock};

use super::Dice;

#[derive(Clone, Debug)]
enum Pending {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
enum Naming {
    Set(PathBuf, u64),
    Remove(PathBuf),
}

#[derive(Clone, Debug, Default)]
struct Model {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    naming: Vec<Naming>,
    next: u64,
    locked: bool,
    /// Operations so far.
    ops: u64,
    faults: Faults,
    /// What a power cut at the chosen operation left.
    image: Option<Box<Model>>,
}

/// What is to go wrong, by the number of the operation.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The power is cut before this operation; it and all later ones fail.
    pub cut_at: Option<u64>,
    /// This sync fails, and what it should have written is forgotten or not.
    pub fail_sync: Option<u64>,
    /// Files may not grow beyond this in total.
    pub capacity: Option<u64>,
    /// For what the faults leave to chance.
    pub seed: u64,
    pub syncs: u64,
}

/// The disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Model>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
}

#[derive(Debug)]
struct SimLock(SimDisk);

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.model().locked = false;
    }
}

fn put(into: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + data.len());
    if into.len() < end {
        into.resize(end, 0);
    }
    into[start..end].copy_from_slice(data);
}

impl Model {
    fn operation(&mut self) -> io::Result<()> {
        self.ops += 1;
        if self.faults.cut_at.is_some_and(|at| self.ops >= at) {
            if self.image.is_none() {
                let mut dice = Dice(self.faults.seed);
                self.image = Some(Box::new(self.torn(&mut dice)));
            }
            return Err(io::Error::other("the power is off"));
        }
        Ok(())
    }

    /// One of the disks that a power cut now could leave.
    fn torn(&self, dice: &mut Dice) -> Model {
        let mut names = self.durable_names.clone();
        let keep = dice.below(self.naming.len() as u64 + 1) as usize;
        for naming in &self.naming[..keep] {
            match naming {
                Naming::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
                Naming::Remove(path) => drop(names.remove(path)),
            }
        }
        let mut inodes = BTreeMap::new();
        for &inode in names.values() {
            let content = torn_content(&self.inodes[&inode], dice);
            let settled = Inode { now: content.clone(), durable: content, pending: Vec::new() };
            inodes.insert(inode, settled);
        }
        Model { inodes, durable_names: names.clone(), names, next: self.next, ..Model::default() }
    }

    fn total(&self) -> u64 {
        self.inodes.values().map(|inode| inode.now.len() as u64).sum()
    }

    fn room_for(&self, inode: u64, end: u64) -> io::Result<()> {
        let grown = end.saturating_sub(self.inodes[&inode].now.len() as u64);
        if self.faults.capacity.is_some_and(|max| grown > 0 && self.total() + grown > max) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

/// Each write kept, lost, or kept in some of its sectors only. A file is never shorter than what
/// was synced.
fn torn_content(inode: &Inode, dice: &mut Dice) -> Vec<u8> {
    let mut content = inode.durable.clone();
    // All, nothing, or anything between, the same for one crash.
    let mode = dice.below(4);
    for pending in &inode.pending {
        let keep = match mode {
            0 => true,
            1 => false,
            _ => dice.below(2) == 0,
        };
        match pending {
            Pending::SetLen(len) if keep => content.resize(*len as usize, 0),
            Pending::Write(offset, data) if keep => {
                if mode == 0 || dice.below(3) > 0 {
                    put(&mut content, *offset, data);
                    continue;
                }
                let sector = if dice.below(2) == 0 { 512 } else { 4096 };
                for (n, piece) in data.chunks(sector).enumerate() {
                    if dice.below(2) == 0 {
                        put(&mut content, offset + (n * sector) as u64, piece);
                    }
                }
            }
            _ => {}
        }
    }
    content
}

impl SimDisk {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap()
    }

    pub fn set_faults(&self, faults: Faults) {
        let mut model = self.model();
        let syncs = model.faults.syncs;
        model.faults = Faults { syncs, ..faults };
    }

    pub fn ops(&self) -> u64 {
        self.model().ops
    }

    pub fn syncs(&self) -> u64 {
        self.model().faults.syncs
    }

    /// The disk after a power cut: the one drawn at `cut_at`, or one drawn now.
    pub fn crash(&self, dice: &mut Dice) -> SimDisk {
        let model = self.model();
        let image = model.image.as_deref().cloned();
        let image = image.unwrap_or_else(|| model.torn(dice));
        SimDisk(Arc::new(Mutex::new(image)))
    }

    /// The disk as a killed process leaves it: all that was written is in the page cache.
    pub fn killed(&self) -> SimDisk {
        let mut model = self.model().clone();
        model.locked = false;
        model.faults = Faults::default();
        model.image = None;
        SimDisk(Arc::new(Mutex::new(model)))
    }

    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let model = self.model();
        model.names.iter().map(|(path, inode)| (path.clone(), model.inodes[inode].now.len())).collect()
    }

    pub fn content(&self, path: &Path) -> Vec<u8> {
        let model = self.model();
        model.inodes[&model.names[path]].now.clone()
    }

    pub fn put_content(&self, path: &Path, content: Vec<u8>) {
        let mut model = self.model();
        let inode = model.names[path];
        model.inodes.insert(inode, Inode { now: content.clone(), durable: content, pending: Vec::new() });
    }

    pub fn flip(&self, path: &Path, bit: u64) {
        let mut content = self.content(path);
        content[(bit / 8) as usize] ^= 1 << (bit % 8);
        self.put_content(path, content);
    }

    fn file(&self, inode: u64) -> Arc<dyn File> {
        Arc::new(SimFile { disk: self.clone(), inode })
    }
}

fn missing() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.model().operation()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut model = self.model();
        model.operation()?;
        let in_dir = model.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(in_dir.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut model = self.model();
        model.operation()?;
        let inode = model.names.get(path).copied().ok_or_else(missing)?;
        Ok(self.file(inode))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut model = self.model();
        model.operation()?;
        model.next += 1;
        let inode = model.next;
        model.inodes.insert(inode, Inode::default());
        model.names.insert(path.to_owned(), inode);
        model.naming.push(Naming::Set(path.to_owned(), inode));
        Ok(self.file(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut model = self.model();
        model.operation()?;
        let inode = model.names.remove(from).ok_or_else(missing)?;
        model.names.insert(to.to_owned(), inode);
        model.naming.push(Naming::Set(to.to_owned(), inode));
        model.naming.push(Naming::Remove(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut model = self.model();
        model.operation()?;
        model.names.remove(path).ok_or_else(missing)?;
        model.naming.push(Naming::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut model = self.model();
        model.operation()?;
        model.durable_names = model.names.clone();
        model.naming.clear();
        Ok(())
    }

    fn try_lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut model = self.model();
        model.operation()?;
        if std::mem::replace(&mut model.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock(self.clone()))))
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.model().inodes[&self.inode].now.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut model = self.disk.model();
        model.operation()?;
        let now = &model.inodes[&self.inode].now;
        let from = now.get(offset as usize..offset as usize + into.len());
        into.copy_from_slice(from.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut model = self.disk.model();
        model.operation()?;
        model.room_for(self.inode, offset + data.len() as u64)?;
        let inode = model.inodes.get_mut(&self.inode).unwrap();
        put(&mut inode.now, offset, data);
        inode.pending.push(Pending::Write(offset, data.to_vec()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut model = self.disk.model();
        model.operation()?;
        model.room_for(self.inode, len)?;
        let inode = model.inodes.get_mut(&self.inode).unwrap();
        inode.now.resize(len as usize, 0);
        inode.pending.push(Pending::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut model = self.disk.model();
        model.operation()?;
        model.faults.syncs += 1;
        let fails = model.faults.fail_sync == Some(model.faults.syncs);
        let mut dice = Dice(model.faults.seed);
        let inode = model.inodes.get_mut(&self.inode).unwrap();
        if fails {
            // The page cache shows what the disk may not have, and will not write it again.
            let left = torn_content(inode, &mut dice);
            inode.durable = left;
            inode.pending.clear();
            return Err(io::Error::other("the sync failed"));
        }
        inode.durable = inode.now.clone();
        inode.pending.clear();
        Ok(())
    }
}
