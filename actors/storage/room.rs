//! Room on the disk, and other things that may be lacking for a while.
//!
//! The room is looked at before it is used, so that no write has to fail: below the mark
//! ([`super::Settings::free_bytes_min`]) nothing new is proposed here, below half of it nothing is committed to the
//! database and no journal file is made. What the journal has is durable all the same; when memory is full of what
//! waits, the writer waits, too, and nothing more is acknowledged. Everything goes on as soon as there is room.
//!
//! A write that finds no room nevertheless (somebody else took it first) fences; [`Shared::may_leave`] says when that
//! may be left again.

use std::sync::PoisonError;
use std::time::Duration;

use converge_ledger_core::planted::{self, Bug};
use tokio::time::Instant;

use super::error::Cause;
use super::settings::Settings;
use super::shared::Shared;

/// How often the room and the directory are looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before what is lacking is asked for again.
pub(crate) const LACK_PAUSE: Duration = Duration::from_millis(200);
/// A full disk is left this long after it was met, then twice as long after it was met again: each try is a restart,
/// and more than the supervisor forgives would end the node.
const LEAVE_PAUSE_MIN: Duration = Duration::from_secs(5);
const LEAVE_PAUSE_MAX: Duration = Duration::from_secs(20);

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

/// What is lacking now.
#[derive(Debug, Default)]
pub(crate) struct Lacks {
    pub(crate) room: Room,
    /// Descriptors, memory, threads.
    pub(crate) other: Option<String>,
    /// When a full disk may be left, and after what pause.
    leave: Option<(Instant, Duration)>,
    /// The system does not say how much room there is.
    uncounted: bool,
}

impl Shared {
    /// The room as it was seen last.
    pub(crate) fn room(&self) -> Room {
        self.lacks().room
    }

    /// The bytes that are free, if the system says so.
    fn free(&self) -> Option<u64> {
        let free = self.settings.disk.free(&self.settings.dir);
        let before = std::mem::replace(&mut self.lacks().uncounted, free.is_err());
        free.inspect_err(|error| {
            if !before {
                let dir = self.settings.dir.display();
                tracing::warn!(%dir, %error, "the system does not say how much room the disk has");
            }
        })
        .ok()
    }

    /// Looks at the room. A look that fails is no news: what was seen last holds.
    pub(crate) fn look(&self) -> Room {
        let mark = self.settings.free_bytes_min;
        let Some(free) = self.free() else { return self.room() };
        let room = Room::of(free, mark);
        let before = std::mem::replace(&mut self.lacks().room, room);
        match (room.level(), room.alarm(mark)) {
            (level, _) if level == before.level() => {}
            (_, Some(alarm)) => tracing::warn!(dir = %self.settings.dir.display(), "{alarm}"),
            (_, None) => tracing::info!(dir = %self.settings.dir.display(), "there is room on the disk again"),
        }
        room
    }

    /// Says what is lacking, or that nothing is any more; once each.
    pub(crate) fn lacking(&self, what: Option<String>) {
        let before = std::mem::replace(&mut self.lacks().other, what.clone());
        match (before, what) {
            (None, Some(what)) => tracing::warn!(what, "something is lacking for the moment; it is tried again"),
            (Some(_), None) => tracing::info!("what was lacking is there again"),
            _ => {}
        }
    }

    /// The disk was found full.
    pub(crate) fn found_full(&self) {
        let (mut lacks, now) = (self.lacks(), Instant::now());
        let pause = match lacks.leave {
            Some((until, pause)) if now < until + LEAVE_PAUSE_MAX => (2 * pause).min(LEAVE_PAUSE_MAX),
            _ => LEAVE_PAUSE_MIN,
        };
        lacks.leave = Some((now + pause, pause));
    }

    /// Whether storage is fenced for a full disk alone, and there is room again. Room that cannot be counted is none: a
    /// directory that was moved away has no number either, and S8 forbids to make another in its place.
    pub(crate) fn may_leave(&self) -> bool {
        let settings = &self.settings;
        matches!(self.fenced(), Some(Cause::DiskFull { .. }))
            && self.lacks().leave.is_none_or(|(until, _)| until <= Instant::now())
            && self.free().is_some_and(|free| free >= leaves_from(settings))
    }

    /// No thread of an earlier incarnation is left, and nothing is open: a full disk may be left.
    pub(crate) fn leave_full(&self) {
        let mut fence = self.fence.write().unwrap_or_else(PoisonError::into_inner);
        fence.take_if(|cause| matches!(cause, Cause::DiskFull { .. }));
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
