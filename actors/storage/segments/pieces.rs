//! Where on a disk segments have bytes that matter: for a test that lets them rot.

use std::path::{Path, PathBuf};

use super::format::{PIECE_HEAD, PieceKind, make_newer, piece_head};
use super::{folder, number_of};
use crate::storage::Disk;

/// Bytes of a segment, each of which means something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentPiece {
    /// The file.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// Whether it is a block; a header or a trailer if not.
    pub is_block: bool,
}

/// The headers, blocks and trailers of a directory's segments, in their order.
#[must_use]
pub fn segment_pieces(disk: &dyn Disk, dir: &Path) -> Vec<SegmentPiece> {
    let folder = folder(dir);
    let mut pieces = Vec::new();
    for name in disk.list(&folder).unwrap_or_default().into_iter().filter(|name| number_of(name).is_some()) {
        let path = folder.join(name);
        let Ok(file) = disk.open(&path) else { continue };
        let (mut offset, mut head) = (0, [0; PIECE_HEAD]);
        while file.read_at(offset, &mut head).is_ok()
            && let Some((kind, bytes)) = piece_head(&head)
        {
            pieces.push(SegmentPiece { path: path.clone(), offset, bytes, is_block: kind == PieceKind::Block });
            offset += bytes;
        }
    }
    pieces
}

impl SegmentPiece {
    /// Makes it look as if a newer program had written it: sound, and of a version that is not known.
    ///
    /// # Panics
    /// When the file is not there.
    pub fn make_newer(&self, disk: &dyn Disk) {
        let file = disk.open(&self.path).expect("a piece is of a file");
        let mut bytes = vec![0; usize::try_from(self.bytes).expect("small")];
        file.read_at(self.offset, &mut bytes).expect("a piece is in the file");
        file.write_at(self.offset, &make_newer(bytes)).expect("the disk takes it");
        file.sync_data().expect("the disk takes it");
    }
}
