//! Reading blocks, for many readers at once: each block is read and checked once, and kept while there is room.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use converge_ledger_core::LogIndex;
use converge_ledger_core::planted::{self, Bug};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::format::{BlockHead, piece_checksum};
use super::{BlockPlace, SegmentError, name, path};
use crate::storage::disk::{Disk, File};
use crate::storage::layout::MARKER;
use crate::storage::passing::passes;
use crate::storage::rowed::RowedEntry;
use crate::storage::settings::Settings;
use crate::storage::types::LogEntry;

/// So many files are kept open for readers.
const FILES_MAX: usize = 4;
/// What an entry takes in memory besides its data.
const ENTRY_BYTES: usize = 160;

/// A block in memory.
#[derive(Debug)]
pub(crate) struct DecodedBlock {
    first: LogIndex,
    entries: Vec<Arc<RowedEntry>>,
    /// Of the block on the disk: who holds data of an entry holds all of it.
    pub(crate) bytes: usize,
}

impl DecodedBlock {
    /// The entry, if it is in here.
    pub(crate) fn get(&self, index: LogIndex) -> Option<&Arc<RowedEntry>> {
        let at = index.get().checked_sub(self.first.get())?;
        self.entries.get(usize::try_from(at).ok()?)
    }
}

#[derive(Clone, Debug)]
struct Weigh;

impl Weighter<u64, Arc<DecodedBlock>> for Weigh {
    /// Rows are made when they are asked for: they take as much as data again at most.
    fn weight(&self, _: &u64, block: &Arc<DecodedBlock>) -> u64 {
        (2 * block.bytes + block.entries.len() * ENTRY_BYTES) as u64
    }
}

/// The same in every run: which block makes room for which is no chance.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// What readers hold open.
#[derive(Default)]
struct OpenFiles {
    /// By number, the one that was used last at the end.
    files: VecDeque<(u64, Arc<dyn File>)>,
    /// Held for its descriptor alone, which is given up where one is lacking.
    reserve: Option<Arc<dyn File>>,
}

/// Reads blocks. One for all incarnations of storage.
pub(crate) struct SegmentReader {
    disk: Arc<dyn Disk>,
    /// The data directory.
    dir: PathBuf,
    files: Mutex<OpenFiles>,
    /// By first log index.
    blocks: Cache<u64, Arc<DecodedBlock>, Weigh, Hasher>,
}

impl SegmentReader {
    pub(crate) fn new(settings: &Settings) -> SegmentReader {
        let Settings { segment_cache_bytes, segment_block_bytes, .. } = settings;
        let options = OptionsBuilder::new()
            .weight_capacity(*segment_cache_bytes as u64)
            .estimated_items_capacity(segment_cache_bytes / segment_block_bytes.max(&1) + 1)
            .shards(1)
            .build()
            .expect("both capacities are given");
        SegmentReader {
            disk: Arc::clone(&settings.disk),
            dir: settings.dir.clone(),
            files: Mutex::default(),
            blocks: Cache::with_options(options, Weigh, Hasher::default(), DefaultLifecycle::default()),
        }
    }

    /// Begins anew. Nothing of an earlier incarnation is kept: an operator may have put another directory in its place.
    pub(crate) fn begin(&self) {
        self.blocks.clear();
        let mut open = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        open.files.clear();
        open.reserve = self.disk.open(&self.dir.join(MARKER)).ok();
    }

    /// The block that begins with this entry.
    pub(crate) fn block(&self, first: LogIndex, place: &BlockPlace) -> Result<Arc<DecodedBlock>, SegmentError> {
        if let Some(block) = self.blocks.get(&first.get()) {
            return Ok(block);
        }
        let file = self.file(place.file)?;
        let (_, entries) = read_block(file.as_ref(), first, place)?;
        let entries = entries.into_iter().map(RowedEntry::new).collect();
        let block = Arc::new(DecodedBlock { first, entries, bytes: place.length as usize });
        self.blocks.insert(first.get(), Arc::clone(&block));
        Ok(block)
    }

    /// The file of this number, open. Where a descriptor is lacking, others of ours are given up for it.
    fn file(&self, number: u64) -> Result<Arc<dyn File>, SegmentError> {
        let mut open = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let OpenFiles { files, reserve } = &mut *open;
        let found = files.iter().position(|(of, _)| *of == number).and_then(|at| files.remove(at));
        let file = match found {
            Some((_, file)) => file,
            None => {
                if files.len() >= FILES_MAX {
                    files.pop_front();
                }
                let path = path(&self.dir, number);
                let mut opened = self.disk.open(&path);
                if lacks(&opened) {
                    files.clear();
                    opened = self.disk.open(&path);
                }
                if lacks(&opened) {
                    *reserve = None;
                    opened = self.disk.open(&path);
                }
                if reserve.is_none() {
                    *reserve = self.disk.open(&self.dir.join(MARKER)).ok();
                }
                opened.map_err(|error| SegmentError::of(&name(number), error))?
            }
        };
        files.push_back((number, Arc::clone(&file)));
        Ok(file)
    }
}

fn lacks<T>(opened: &std::io::Result<T>) -> bool {
    opened.as_ref().is_err_and(passes)
}

/// Reads a block whole and holds it against what the database says of it.
pub(super) fn read_block(
    file: &dyn File,
    first: LogIndex,
    place: &BlockPlace,
) -> Result<(Bytes, Vec<LogEntry>), SegmentError> {
    let mut bytes = vec![0; place.length as usize];
    file.read_at(place.offset, &mut bytes).map_err(|error| SegmentError::of(&name(place.file), error))?;
    let bytes = Bytes::from(bytes);
    let what = || format!("block {first}..={} of {}", place.last, name(place.file));
    let (head, entries) = BlockHead::decode(&bytes).map_err(|error| SegmentError::unreadable(what(), error))?;
    let is_it = piece_checksum(&bytes) == Some(place.crc) || planted::is(Bug::BlockUnchecked);
    if (head.first, head.last) != (first, place.last) || !is_it {
        return Err(SegmentError::DataLoss(format!("{} is another one", what())));
    }
    Ok((bytes, entries))
}
