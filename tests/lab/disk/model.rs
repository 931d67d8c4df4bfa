//! What is on the simulated disk, what of it is durable, and what a power cut leaves.
//!
//! Each write is kept until a sync of its file, each name until a sync of its directory. What was
//! not synced may be lost as a whole, in part, or out of order. A sector of 512 bytes is written as a whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use converge_ledger_core::chance::Dice;

use super::faults::{Change, Counters, Faults};
use super::pages::{PAGE, Pages};

#[derive(Clone, Debug)]
enum Pending {
    Write { offset: u64, data: Arc<[u8]>, len: u64 },
    SetLen(u64),
}

impl Pending {
    /// How long the file is after it.
    fn len(&self) -> u64 {
        match self {
            Pending::Write { len, .. } | Pending::SetLen(len) => *len,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) now: Pages,
    durable: Pages,
    pending: Vec<Pending>,
    /// How often it is open.
    pub(super) handles: usize,
}

#[derive(Clone, Debug)]
enum Naming {
    Set(PathBuf, u64),
    Remove(PathBuf),
}

impl Naming {
    fn path(&self) -> &Path {
        match self {
            Naming::Set(path, _) | Naming::Remove(path) => path,
        }
    }

    fn put(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Naming::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
            Naming::Remove(path) => drop(names.remove(path)),
        }
    }
}

/// How a power cut treats the unsynced writes of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Nothing,
    All,
    /// Those from this one on, itself in part.
    From(usize),
    /// All but this one, itself in part.
    Only(usize),
    /// Each by the toss of a coin, in part or as a whole.
    Some,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    naming: Vec<Naming>,
    next: u64,
    pub(super) locked: BTreeSet<PathBuf>,
    pub(super) counters: Counters,
    pub(super) faults: Faults,
    chance: Dice,
    /// The power was cut.
    pub(super) off: bool,
    /// The first operation that it failed.
    pub(super) failed: Option<u64>,
    /// The number and the kind of each change, and what there was before it.
    pub(super) moments: Option<Vec<(u64, Change, Model)>>,
}

/// "Too many open files".
const EMFILE: i32 = 24;

pub(super) fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("a simulated {what} failed"))
}

impl Model {
    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.chance = Dice(faults.seed);
        self.faults = faults;
    }

    /// This operation fails.
    fn fails(&mut self) {
        self.failed.get_or_insert(self.counters.ops);
    }

    /// Counts an operation that changes nothing.
    pub(super) fn operation(&mut self) -> io::Result<()> {
        self.counters.ops += 1;
        if self.off || self.faults.cut_at.is_some_and(|at| self.counters.ops >= at) {
            self.off = true;
            self.fails();
            return Err(power_is_off());
        }
        Ok(())
    }

    /// Something takes a descriptor. A lack of one is no failure of the disk.
    pub(super) fn opening(&mut self) -> io::Result<()> {
        self.counters.opens += 1;
        let lacks = self.faults.fail_open.as_ref().is_some_and(|opens| opens.contains(&self.counters.opens));
        if lacks && !self.off { Err(io::Error::from_raw_os_error(EMFILE)) } else { Ok(()) }
    }

    /// What files may still take.
    pub(super) fn free(&self) -> u64 {
        self.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Counts an operation that changes something.
    pub(super) fn change(&mut self, change: Change) -> io::Result<()> {
        self.operation()?;
        if self.moments.is_some() {
            let before = self.copy();
            self.moments.get_or_insert_default().push((self.counters.ops, change, before));
        }
        Ok(())
    }

    /// All files as they are, with what is not synced; nothing of who uses them.
    pub(super) fn copy(&self) -> Model {
        let mut inodes = self.inodes.clone();
        inodes.values_mut().for_each(|inode| inode.handles = 0);
        Model {
            inodes,
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            naming: self.naming.clone(),
            next: self.next,
            ..Model::default()
        }
    }

    /// One of the disks that a power cut now could leave.
    pub(super) fn torn(&self, dice: &mut Dice) -> Model {
        let mut names = self.durable_names.clone();
        let keep = usize::try_from(dice.below(self.naming.len() as u64 + 1)).expect("small");
        self.naming[..keep].iter().for_each(|naming| naming.put(&mut names));
        let mut inodes = BTreeMap::new();
        for &inode in names.values() {
            let content = self.inodes[&inode].torn(dice);
            inodes.insert(inode, Inode { now: content.clone(), durable: content, ..Inode::default() });
        }
        Model { inodes, durable_names: names.clone(), names, next: self.next, ..Model::default() }
    }

    /// The disk that a power cut now leaves when it takes all that it can.
    pub(super) fn durable(&self) -> Model {
        let names = self.durable_names.clone();
        let inodes = names.values().map(|inode| {
            let durable = self.inodes[inode].durable.clone();
            (*inode, Inode { now: durable.clone(), durable, ..Inode::default() })
        });
        Model { inodes: inodes.collect(), durable_names: names.clone(), names, next: self.next, ..Model::default() }
    }

    pub(super) fn unsynced(&self) -> usize {
        self.naming.len() + self.inodes.values().map(|inode| inode.pending.len()).sum::<usize>()
    }

    pub(super) fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.now.allocated()).sum()
    }

    pub(super) fn create(&mut self, path: &Path) -> u64 {
        self.next += 1;
        self.inodes.insert(self.next, Inode::default());
        self.names.insert(path.to_owned(), self.next);
        self.naming.push(Naming::Set(path.to_owned(), self.next));
        self.next
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Option<()> {
        let inode = self.names.remove(from)?;
        self.names.insert(to.to_owned(), inode);
        self.naming.push(Naming::Set(to.to_owned(), inode));
        self.naming.push(Naming::Remove(from.to_owned()));
        Some(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> Option<()> {
        self.names.remove(path)?;
        self.naming.push(Naming::Remove(path.to_owned()));
        Some(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let (synced, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.naming).into_iter().partition(|naming| naming.path().parent() == Some(dir));
        synced.iter().for_each(|naming| naming.put(&mut self.durable_names));
        self.naming = rest;
        self.forget();
    }

    /// Lets go of files that have no name and are not open.
    pub(super) fn forget(&mut self) {
        let named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        let naming: BTreeSet<u64> = self
            .naming
            .iter()
            .filter_map(|naming| match naming {
                Naming::Set(_, inode) => Some(*inode),
                Naming::Remove(_) => None,
            })
            .collect();
        self.inodes.retain(|inode, it| it.handles > 0 || named.contains(inode) || naming.contains(inode));
    }

    pub(super) fn read(&mut self, inode: u64, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.operation()?;
        self.counters.reads += 1;
        if self.faults.fail_read.as_ref().is_some_and(|reads| reads.contains(&self.counters.reads)) {
            self.fails();
            return Err(broken("read"));
        }
        let whole = self.inodes[&inode].now.read(offset, into);
        if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(super) fn write(&mut self, inode: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write)?;
        self.counters.writes += 1;
        self.counters.bytes += data.len() as u64;
        let fails = self.faults.fail_write == Some(self.counters.writes);
        let room = self.room_for(inode, offset, data.len());
        let file = self.inodes.get_mut(&inode).expect("an open file is kept");
        if fails {
            let done = usize::try_from(self.chance.below(data.len() as u64 + 1)).expect("part of a length");
            file.write(offset, &data[..whole_sectors(offset, done)]);
            self.fails();
            return Err(broken("write"));
        }
        file.write(offset, &data[..room]);
        if room < data.len() {
            self.fails();
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// How many of these bytes there is room for; when not for all, perhaps fewer are written.
    fn room_for(&mut self, inode: u64, offset: u64, len: usize) -> usize {
        let Some(capacity) = self.faults.capacity else { return len };
        let grown = self.inodes[&inode].now.holes(offset, len) * PAGE as u64;
        let left = capacity.saturating_sub(self.used());
        if grown == 0 || grown <= left {
            return len;
        }
        let now = &self.inodes[&inode].now;
        let fits = (0..=len).rev().step_by(512).find(|part| now.holes(offset, *part) * PAGE as u64 <= left);
        let done = usize::try_from(self.chance.below(fits.unwrap_or(0) as u64 + 1)).expect("part of a length");
        whole_sectors(offset, done)
    }

    pub(super) fn set_len(&mut self, inode: u64, len: u64) -> io::Result<()> {
        self.change(Change::SetLen)?;
        let file = self.inodes.get_mut(&inode).expect("an open file is kept");
        file.now.set_len(len);
        file.pending.push(Pending::SetLen(len));
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: u64) -> io::Result<()> {
        self.change(Change::Sync)?;
        self.counters.syncs += 1;
        let file = self.inodes.get_mut(&inode).expect("an open file is kept");
        if self.faults.fail_sync == Some(self.counters.syncs) {
            file.durable = file.torn(&mut self.chance);
            file.pending.clear();
            self.fails();
            return Err(broken("sync"));
        }
        file.sync();
        Ok(())
    }

    /// Turns over a bit, on the disk and in the page cache.
    pub(super) fn flip(&mut self, path: &Path, offset: u64, bit: u8) -> bool {
        let Some(inode) = self.names.get(path).and_then(|inode| self.inodes.get_mut(inode)) else {
            return false;
        };
        inode.now.flip(offset, bit);
        inode.durable.flip(offset, bit);
        offset < inode.now.len()
    }

    /// Puts content in place of a file's, as if it had been there and durable for long.
    pub(super) fn put(&mut self, path: &Path, content: &[u8]) {
        let mut pages = Pages::default();
        pages.write(0, content);
        let inode = match self.names.get(path) {
            Some(inode) => *inode,
            None => {
                self.next += 1;
                self.next
            }
        };
        self.inodes.insert(inode, Inode { now: pages.clone(), durable: pages, ..Inode::default() });
        self.names.insert(path.to_owned(), inode);
        self.durable_names.insert(path.to_owned(), inode);
    }
}

impl Inode {
    fn write(&mut self, offset: u64, data: &[u8]) {
        if !data.is_empty() {
            self.now.write(offset, data);
            self.pending.push(Pending::Write { offset, data: data.into(), len: self.now.len() });
        }
    }

    fn sync(&mut self) {
        for pending in self.pending.drain(..) {
            match pending {
                Pending::Write { offset, data, .. } => self.durable.take(&self.now, offset, data.len()),
                Pending::SetLen(len) => self.durable.set_len(len),
            }
        }
        self.durable.set_len(self.now.len());
    }

    /// What a power cut leaves: each unsynced write kept, lost, or kept in some of its sectors only,
    /// and one of the lengths that the file had. It is never shorter than it was at a sync, unless
    /// it was cut since.
    fn torn(&self, dice: &mut Dice) -> Pages {
        let mut content = self.durable.clone();
        let count = self.pending.len() as u64;
        let loss = loss(count, dice);
        for (n, pending) in self.pending.iter().enumerate() {
            let (keep, whole) = match loss {
                Loss::Nothing => (true, true),
                Loss::All => (false, false),
                Loss::From(at) => (n <= at, n < at),
                Loss::Only(at) => (true, n != at),
                Loss::Some => (dice.below(2) == 0, dice.below(3) > 0),
            };
            match pending {
                _ if !keep => {}
                Pending::SetLen(len) => content.set_len(*len),
                Pending::Write { offset, data, .. } if whole => content.write(*offset, data),
                Pending::Write { offset, data, .. } => write_part(&mut content, *offset, data, dice),
            }
        }
        if loss != Loss::Nothing && count > 0 && dice.one_in(4) {
            let nth = usize::try_from(dice.below(count + 1)).expect("small");
            content.set_len(self.pending.get(nth).map_or(self.durable.len(), Pending::len));
        }
        content
    }
}

fn loss(count: u64, dice: &mut Dice) -> Loss {
    let mut nth = || usize::try_from(dice.below(count.max(1))).expect("small");
    let at = nth();
    match dice.below(8) {
        _ if count == 0 => Loss::Nothing,
        0 => Loss::Nothing,
        1 => Loss::All,
        2 | 3 => Loss::From(at),
        4 => Loss::Only(at),
        _ => Loss::Some,
    }
}

/// Bytes that a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// How much of a write is done that ends after so many bytes: it ends between two sectors.
fn whole_sectors(offset: u64, done: usize) -> usize {
    let within = usize::try_from((offset + done as u64) % SECTOR as u64).expect("small");
    done.saturating_sub(within)
}

/// A write of which only some sectors reached the disk.
fn write_part(content: &mut Pages, offset: u64, data: &[u8], dice: &mut Dice) {
    let sector = if dice.below(2) == 0 { SECTOR } else { 4096 };
    // Sectors are where they are on the disk, wherever the write begins.
    let lead = sector - usize::try_from(offset % sector as u64).expect("small");
    let (first, rest) = data.split_at(lead.min(data.len()));
    let mut at = offset;
    for piece in std::iter::once(first).chain(rest.chunks(sector)) {
        if dice.below(2) == 0 {
            content.write(at, piece);
        }
        at += piece.len() as u64;
    }
}
