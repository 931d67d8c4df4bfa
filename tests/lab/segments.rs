//! The segments of several replicas, held against one another: they are equal byte for byte, up to the end of the shorter.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::disk::SimDisk;

/// The folder of the segments in a data directory.
pub const FOLDER: &str = "log";

/// Files by name, which is in their order.
pub type SegmentFiles = BTreeMap<String, Vec<u8>>;

/// Those of a data directory on a simulated disk.
#[must_use]
pub fn of_disk(disk: &SimDisk, data: &Path) -> SegmentFiles {
    let folder = data.join(FOLDER);
    let paths = disk.files().into_iter().map(|(path, _)| path).filter(|path| path.parent() == Some(&folder));
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    paths.filter_map(|path| Some((name(&path), disk.content(&path)?))).collect()
}

/// Those of a data directory of the machine.
///
/// # Errors
/// It cannot be read.
pub fn of_dir(data: &Path) -> io::Result<SegmentFiles> {
    let mut files = SegmentFiles::new();
    for file in fs::read_dir(data.join(FOLDER))? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, fs::read(&path)?);
    }
    Ok(files)
}

/// How many bytes two replicas have in common.
///
/// # Errors
/// They differ, and where.
pub fn common(a: &SegmentFiles, b: &SegmentFiles) -> Result<u64, String> {
    let mut bytes = 0;
    let mut names = a.keys().filter(|name| b.contains_key(*name)).peekable();
    while let Some(name) = names.next() {
        let (one, other) = (&a[name], &b[name]);
        let differs = one.iter().zip(other).position(|(one, other)| one != other);
        if let Some(at) = differs {
            return Err(format!("{name} differs at byte {at}, of {} and {}", one.len(), other.len()));
        }
        if names.peek().is_some() && one.len() != other.len() {
            return Err(format!("{name} is closed, with {} bytes here and {} there", one.len(), other.len()));
        }
        bytes += one.len().min(other.len()) as u64;
    }
    Ok(bytes)
}
