//! The data directory: what is in it, how it is made, and when it is refused.
//!
//! ```text
//! LOCK          held while the directory is in use
//! STORE         marker: format, random store id, whether the making of the directory was finished
//! ledger.redb   the database
//! log/          the segments
//! journal-NNNN  the journal's files
//! ```
//!
//! The marker is written first as unfinished and last as finished: a directory whose making was
//! cut short holds nothing that anybody was told about, and is made anew. A finished one is never
//! initialised again, whatever is missing.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use converge_ledger_core::codec::{decode_keyed, encode_keyed, is_sound};
use converge_ledger_core::{Lsn, StoreId};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, Lock};
use super::error::Cause;
use super::failure::{Failure, newer, refused};
use super::journal::ring;
use super::passing::passes;
use super::settings::Settings;

/// The file in a data directory that whoever has it open holds a lock on.
pub const LOCK_FILE: &str = "LOCK";
/// Says what the directory is.
pub(crate) const MARKER: &str = "STORE";
const MARKER_NEW: &str = "STORE.new";
const MARKER_MAGIC: &[u8; 8] = b"CLSTORE\n";
/// The database's file.
pub(crate) const DATABASE: &str = "ledger.redb";
/// Version of the directory as a whole.
pub(crate) const FORMAT: u32 = 5;
/// A node that was stopped a moment ago in the same process may still be closing its files.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Marker {
    store_id: StoreId,
    finished: bool,
}

/// What opening may make of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// Nothing: an inspection.
    Nothing,
    /// A ledger, where there is none: a process whose storage did not come up yet.
    Fresh,
    /// Nothing, for this process knows the directory. An empty one in its place, another one or an older copy of it lacks
    /// what was acknowledged (S2, S8).
    Known {
        /// Its random name, if that was read.
        store_id: Option<StoreId>,
        /// The last record that is durable in it.
        durable: Lsn,
    },
}

/// A directory that is ours, and locked.
pub(crate) struct Directory {
    pub(crate) store_id: StoreId,
    /// It has to be filled, and then [`finish`]ed.
    pub(crate) fresh: bool,
    /// Slots of the journal's files.
    pub(crate) slots: Vec<u64>,
    pub(crate) has_database: bool,
    pub(crate) lock: Box<dyn Lock>,
}

/// Says what could not be done for the lack of what.
fn failed<'a>(settings: &'a Settings, what: &'a str) -> impl Fn(io::Error) -> Failure + 'a {
    move |error| {
        if passes(&error) {
            return Failure::Passing(format!("{:?}: {what}: {error}", settings.dir));
        }
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "make it writable for this user, or choose another data directory"
            }
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                "something there is no directory: choose another data directory"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on the disk",
            _ => "check the disk, or choose another data directory",
        };
        refused(settings, format!("{what}: {error}; {advice}")).into()
    }
}

/// What an operator is told whose node has lost its directory.
pub(crate) fn gone() -> Cause {
    let error = "its files are gone from there: it was removed, moved or replaced under the running node";
    Cause::Io { what: "looking at the data directory".into(), error: error.into() }
}

/// Nothing there may be used, and nothing may be made. To a process that knows the directory that is a loss.
fn unusable(settings: &Settings, make: Make, reason: &str) -> Failure {
    match make {
        Make::Known { .. } => Failure::Fence(gone()),
        Make::Nothing | Make::Fresh => refused(settings, reason).into(),
    }
}

/// The names in the directory. To be written is no use to one that may not be read.
fn list(settings: &Settings, make: Make) -> Result<Vec<String>, Failure> {
    settings.disk.list(&settings.dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if matches!(make, Make::Known { .. }) => {
            Failure::Fence(gone())
        }
        io::ErrorKind::NotFound => refused(settings, "does not exist: name the directory of a node").into(),
        io::ErrorKind::PermissionDenied => {
            let reason =
                "may not be read by this user: make it readable for this user, or choose another data directory";
            refused(settings, reason).into()
        }
        _ => failed(settings, "cannot be listed")(error),
    })
}

/// Locks the directory and finds out what it is. With [`Make::Fresh`], one that does not exist is made.
pub(crate) fn open(settings: &Settings, make: Make) -> Result<Directory, Failure> {
    let disk = settings.disk.as_ref();
    let dir = settings.dir.as_path();
    if make == Make::Fresh {
        let made = disk.create_dir_all(dir);
        made.map_err(failed(settings, "cannot be made"))?;
    }
    let names = list(settings, make)?;
    let marked = names.iter().any(|name| name == MARKER);
    if !marked {
        let ours = [LOCK_FILE, MARKER_NEW, "lost+found"];
        if let Some(stranger) = names.iter().find(|name| !ours.contains(&&name[..])) {
            let reason = format!(
                "it has no {MARKER} file but holds {stranger:?}: not a ledger's directory, or a damaged one; choose an \
                 empty directory"
            );
            return Err(unusable(settings, make, &reason));
        }
        if make != Make::Fresh {
            return Err(unusable(settings, make, "holds no ledger"));
        }
    }
    let lock = take_lock(settings)?;
    let marker = if marked {
        read_marker(settings)?
    } else {
        let random = &settings.random;
        let id = (u128::from(random()) << 64) | u128::from(random());
        let marker = Marker { store_id: StoreId(id.to_be_bytes()), finished: false };
        write_marker(disk, dir, marker).map_err(failed(settings, "its marker cannot be written"))?;
        marker
    };
    if matches!(make, Make::Known { store_id: Some(known), .. } if known != marker.store_id) {
        return Err(Failure::Fence(gone()));
    }
    let mut names = list(settings, make)?;
    if !marker.finished && make != Make::Fresh {
        return Err(unusable(settings, make, "was never finished: start the node once"));
    }
    let doomed = |name: &String| {
        ring::unfinished(name) || (!marker.finished && (name == DATABASE || ring::slot_of(name).is_some()))
    };
    for name in names.iter().filter(|name| doomed(name)) {
        let removed = disk.remove(&dir.join(name));
        removed.map_err(failed(settings, "an unfinished file cannot be removed"))?;
    }
    names.retain(|name| !doomed(name));
    Ok(Directory {
        store_id: marker.store_id,
        fresh: !marker.finished,
        slots: names.iter().filter_map(|name| ring::slot_of(name)).collect(),
        has_database: names.iter().any(|name| name == DATABASE),
        lock,
    })
}

/// Everything is in the directory now.
pub(crate) fn finish(settings: &Settings, store_id: StoreId) -> io::Result<()> {
    let marker = Marker { store_id, finished: true };
    write_marker(settings.disk.as_ref(), &settings.dir, marker)
}

fn take_lock(settings: &Settings) -> Result<Box<dyn Lock>, Failure> {
    let path = settings.dir.join(LOCK_FILE);
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let lock = settings.disk.try_lock(&path);
        if let Some(lock) = lock.map_err(failed(settings, "its LOCK file cannot be opened"))? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(refused(
                settings,
                "another node has it open: stop that one first, or choose another data directory",
            )
            .into());
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

fn write_marker(disk: &dyn Disk, dir: &Path, marker: Marker) -> io::Result<()> {
    let new: PathBuf = dir.join(MARKER_NEW);
    let mut bytes = MARKER_MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    let covered = bytes.clone();
    bytes.extend_from_slice(&encode_keyed(&covered, &marker));
    let file = disk.create(&new)?;
    file.write_at(0, &bytes)?;
    file.sync_data()?;
    disk.rename(&new, &dir.join(MARKER))?;
    disk.sync_dir(dir)
}

fn read_marker(settings: &Settings) -> Result<Marker, Failure> {
    let read = || {
        let file = settings.disk.open(&settings.dir.join(MARKER))?;
        let len = usize::try_from(file.len()?.min(1 << 12)).expect("small");
        let mut bytes = vec![0; len];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    };
    let bytes: Vec<u8> = read().map_err(failed(settings, "its STORE file cannot be read"))?;
    let damaged = || {
        let reason = "its STORE file is damaged: replace this node, or choose another directory";
        refused(settings, reason)
    };
    let rest = bytes.strip_prefix(MARKER_MAGIC).ok_or_else(damaged)?;
    let (format, content) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let format = u32::from_le_bytes(*format);
    let covered = &bytes[..MARKER_MAGIC.len() + 4];
    // The checksum is where it is in every format.
    if !is_sound(covered, content) {
        return Err(damaged().into());
    }
    match format.cmp(&FORMAT) {
        Ordering::Equal => decode_keyed(covered, content).map_err(|_| damaged().into()),
        Ordering::Greater => Err(newer(format!("data directory {:?}", settings.dir), format, FORMAT)),
        Ordering::Less => {
            let reason = format!(
                "OLDER_FORMAT: it has format {format}, this program reads {FORMAT}: open it with the program that wrote \
                 it, copy its contexts with 'snapshot', and load them into a new directory; nothing was changed"
            );
            Err(refused(settings, reason).into())
        }
    }
}
