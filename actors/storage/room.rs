//! Room on the disk, and other things that may be lacking for a while.
//!
//! The room is looked at before it is used, so that no write has to fail: below the mark
//! ([`super::Settings::free_bytes_min`]) nothing new is proposed here, below half of it nothing is committed to
//! segments and database, and no journal file is made. What the journal has is durable all the same; when memory is full of what
//! waits, the writer waits, too, and nothing more is acknowledged. Everything goes on as soon as there is room.
//!
//! A write that finds no room nevertheless (somebody else took it first) fences; the fence says when that may be left
//! again (`fence`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use converge_ledger_core::planted::{self, Bug};

use super::settings::Settings;

/// How often the room and the directory are looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before what is lacking is asked for again.
pub(crate) const LACK_PAUSE: Duration = Duration::from_millis(200);

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// Enough.
    #[default]
    Ample,
    /// So little that nothing should be begun here.
    Low {
        /// Bytes that are free.
        free: u64,
    },
    /// Not even enough to store what is begun: it waits in the journal.
    Out {
        /// Bytes that are free.
        free: u64,
    },
}

impl Room {
    fn of(free: u64, mark: u64) -> Room {
        match free {
            _ if planted::is(Bug::RoomUnwatched) => Room::Ample,
            _ if free < mark / 2 => Room::Out { free },
            _ if free < mark => Room::Low { free },
            _ => Room::Ample,
        }
    }

    fn level(self) -> u8 {
        match self {
            Room::Ample => 0,
            Room::Low { .. } => 1,
            Room::Out { .. } => 2,
        }
    }

    /// What an operator is told; none when there is nothing to say.
    pub(crate) fn alarm(self, mark: u64) -> Option<String> {
        match self {
            Room::Ample => None,
            Room::Low { free } => Some(format!(
                "the disk has little room: {free} bytes are free, storage.free_bytes_min = {mark}. Appends are refused \
                 here; make room, and they go on"
            )),
            Room::Out { free } => Some(format!(
                "the disk has no room: {free} bytes are free, less than half of storage.free_bytes_min = {mark}. This \
                 node stores nothing more; make room, and it goes on"
            )),
        }
    }
}

/// What is lacking, as it was seen last.
#[derive(Debug, Default)]
pub(crate) struct Lacks(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    room: Room,
    /// Descriptors, memory, threads.
    other: Option<String>,
    /// The system does not say how much room there is.
    uncounted: bool,
}

impl Lacks {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room as it was seen last.
    pub(crate) fn room(&self) -> Room {
        self.seen().room
    }

    /// What else is lacking.
    pub(crate) fn other(&self) -> Option<String> {
        self.seen().other.clone()
    }

    /// The bytes that are free, if the system says so.
    pub(crate) fn free(&self, settings: &Settings) -> Option<u64> {
        let free = settings.disk.free(&settings.dir);
        let before = std::mem::replace(&mut self.seen().uncounted, free.is_err());
        free.inspect_err(|error| {
            if !before {
                let dir = settings.dir.display();
                tracing::warn!(%dir, %error, "the system does not say how much room the disk has");
            }
        })
        .ok()
    }

    /// Looks at the room. A look that fails is no news: what was seen last holds.
    pub(crate) fn look(&self, settings: &Settings) -> Room {
        let mark = settings.free_bytes_min;
        let Some(free) = self.free(settings) else { return self.room() };
        let room = Room::of(free, mark);
        let before = std::mem::replace(&mut self.seen().room, room);
        match (room.level(), room.alarm(mark)) {
            (level, _) if level == before.level() => {}
            (_, Some(alarm)) => tracing::warn!(dir = %settings.dir.display(), "{alarm}"),
            (_, None) => tracing::info!(dir = %settings.dir.display(), "there is room on the disk again"),
        }
        room
    }

    /// Says what is lacking, or that nothing is any more; once each.
    pub(crate) fn say(&self, what: Option<String>) {
        let before = std::mem::replace(&mut self.seen().other, what.clone());
        match (before, what) {
            (None, Some(what)) => tracing::warn!(what, "something is lacking for the moment; it is tried again"),
            (Some(_), None) => tracing::info!("what was lacking is there again"),
            _ => {}
        }
    }
}

/// Bytes that have to be free before a full disk is left: recovery may need a journal file, and who has less room than the
/// mark would take nothing anyway.
pub(crate) fn leaves_from(settings: &Settings) -> u64 {
    settings.free_bytes_min.max(settings.journal_file_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_and_half_of_it_are_the_bounds() {
        assert_eq!(Room::of(100, 100), Room::Ample);
        assert_eq!(Room::of(99, 100), Room::Low { free: 99 });
        assert_eq!(Room::of(50, 100), Room::Low { free: 50 });
        assert_eq!(Room::of(49, 100), Room::Out { free: 49 });
        assert_eq!(Room::of(0, 0), Room::Ample, "a mark of 0 asks for nothing");
    }
}
