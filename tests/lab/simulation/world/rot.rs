//! Disks that rot: one of a run, as far as a plan goes, so that a majority is whole.
//!
//! What a rotten node may do: serve the truth, or fence itself for data loss, and stay so. That holds for the last record
//! of its journal as well, which nothing vouches for but its own sectors.

use std::path::Path;

use converge_actors::storage::{Piece, pieces};
use converge_ledger_core::chance::mix;
use converge_ledger_core::{Lsn, NodeId};

use super::super::settings::DIRECTORY;
use super::{Host, World};
use crate::segments::FOLDER;

const DATABASE: &str = "/data/ledger.redb";

impl World {
    /// Turns over one bit of the database's file, or of a segment.
    pub(in super::super) fn rot(&self, id: NodeId, place_permille: u64, bit: u8) -> bool {
        self.with(id, |host| {
            let folder = Path::new(DIRECTORY).join(FOLDER);
            let files = host.disk.files().into_iter().filter(|(path, _)| path.parent() == Some(&folder));
            let in_segments = place_permille % 2 == 1;
            // The newest one: its end is looked at by every start, its beginning by readers.
            let segment = files.map(|(path, _)| path).rfind(|_| in_segments);
            let path = segment.unwrap_or_else(|| DATABASE.into());
            let Some(len) = host.disk.len(&path).filter(|len| *len > 0 && self.formed()) else { return false };
            host.rotten = true;
            host.disk.flip(&path, (len - 1) * place_permille / 1000, bit)
        })
    }

    /// Turns over one bit of the journal: of a record, its padding included, or of a copy of a file's header.
    pub(in super::super) fn rot_journal(&self, id: NodeId, place: u64, bit: u8) -> bool {
        self.with(id, |host| {
            let pieces = pieces(&host.disk.durable(), Path::new(DIRECTORY));
            let nth = place.checked_rem(pieces.len() as u64).filter(|_| self.formed());
            nth.is_some_and(|nth| self.turn_over(id, host, &pieces[usize::try_from(nth).expect("small")], place, bit))
        })
    }

    /// Turns over one bit of the last record, where only the journal has it.
    pub(in super::super) fn rot_tail(&self, id: NodeId, place: u64, bit: u8) -> bool {
        let covered = self.covered(id);
        self.with(id, |host| {
            let last = pieces(&host.disk.durable(), Path::new(DIRECTORY)).pop().filter(|last| last.record > covered);
            let Some(last) = last.filter(|_| covered.is_some() && self.formed()) else { return false };
            self.turn_over(id, host, &last, place, bit)
        })
    }

    /// There is a cluster. Before, none can be formed without this disk: an operator would put in another.
    fn formed(&self) -> bool {
        self.facts.applied_max() > 0
    }

    /// What the database has of the journal, if the node runs.
    fn covered(&self, id: NodeId) -> Option<Lsn> {
        let life = self.life(id).filter(|life| life.fenced().is_none())?;
        Some(life.storage().covered_lsn)
    }

    fn turn_over(&self, id: NodeId, host: &mut Host, piece: &Piece, place: u64, bit: u8) -> bool {
        let Piece { path, offset, bytes, record, .. } = piece;
        let at = offset + mix(place) % bytes;
        let name = path.display();
        self.trace.note(&[23, id.get(), at], || format!("node {id}: a bit at {at} of {name} rots, record {record:?}"));
        host.rotten = true;
        host.disk.flip(path, at, bit)
    }
}
