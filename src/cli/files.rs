//! Files that a command is asked to write: the one way in which all of them are written.
//!
//! A regular file is written beside its place, made durable, and only then given its name: whatever fails, its place
//! holds what it held or all of the new content, and nothing else is left there. A link is followed and stays. What is
//! no regular file (a pipe, a device, the process's own output) is written through, and stays what it is.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::{Failure, Kind, output};

/// As systems allow in one path.
const LINKS_MAX: usize = 40;
/// Of a file's name in that of its part: names have at most 255 bytes.
const NAME_SHOWN: usize = 60;

/// What is done with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Keep,
    Replace,
}

/// Where a name leads.
#[derive(Debug)]
pub struct OutputFile {
    name: PathBuf,
    existing: Existing,
    place: Destination,
}

#[derive(Debug)]
enum Destination {
    Stdout,
    /// What is there is no regular file.
    Through {
        append: bool,
    },
    /// A regular file, all links followed; with what it is where it is there.
    File {
        target: PathBuf,
        there: Option<Metadata>,
    },
}

impl OutputFile {
    /// Finds where a name leads; `-` is stdout. Refuses what would be refused in the end, and touches nothing.
    pub fn find(name: &Path, existing: Existing) -> Result<Self, Failure> {
        let usage = |why: &str| Err(Failure::new(Kind::Usage, format!("{name:?} {why}")));
        let found = |place| Ok(OutputFile { name: name.to_owned(), existing, place });
        if name == Path::new("-") {
            return found(Destination::Stdout);
        }
        let there = match fs::metadata(name) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let target = follow(name).map_err(|error| cannot_write(name, &error))?;
                if is_directory_name(name) || is_directory_name(&target) {
                    return usage("is the name of a directory: name a file");
                }
                return found(Destination::File { target, there: None });
            }
            Err(error) => return Err(cannot_write(name, &error)),
        };
        if is_stdout(&there) {
            return found(Destination::Stdout);
        }
        if is_descriptor(name) {
            return found(Destination::Through { append: there.is_file() });
        }
        let holds_content = there.is_file() || there.file_type().is_block_device();
        match () {
            () if there.is_dir() => usage("is a directory: name a file"),
            () if holds_content && existing == Existing::Keep => usage("exists: name another file, or give --force"),
            () if there.is_file() => {
                let target = fs::canonicalize(name).map_err(|error| cannot_write(name, &error))?;
                found(Destination::File { target, there: Some(there) })
            }
            () => found(Destination::Through { append: false }),
        }
    }

    /// What is written goes where results are printed.
    pub fn is_stdout(&self) -> bool {
        matches!(self.place, Destination::Stdout)
    }

    /// Writes the file. Whoever drops this on the way leaves nothing behind.
    pub async fn write(&self, bytes: impl AsRef<[u8]> + Send + 'static) -> Result<(), Failure> {
        let written = match &self.place {
            Destination::Stdout => return output::bytes(bytes.as_ref()),
            Destination::Through { append } => {
                let (name, append) = (self.name.clone(), *append);
                // Opening a pipe waits for its reader.
                aside(move || write_through(&name, append, bytes.as_ref())).await
            }
            Destination::File { target, there } => self.write_file(target, there.as_ref(), bytes).await,
        };
        written.map_err(|error| cannot_write(&self.name, &error))
    }

    async fn write_file(
        &self,
        target: &Path,
        there: Option<&Metadata>,
        bytes: impl AsRef<[u8]> + Send + 'static,
    ) -> io::Result<()> {
        let part = Part::create(target, there)?;
        let mut file = part.file.try_clone()?;
        aside(move || {
            file.write_all(bytes.as_ref())?;
            file.sync_all()
        })
        .await?;
        part.take_its_place(target, self.existing)
    }
}

/// Work that waits for a disk or a reader.
async fn aside(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A file that is being written, beside its place. Dropped, it is gone.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    /// A new file: one that happens to have its name is somebody else's, or is written right now.
    fn create(target: &Path, there: Option<&Metadata>) -> io::Result<Part> {
        let name = target.file_name().unwrap_or(OsStr::new("output")).to_string_lossy();
        let shown: String = name.chars().take(NAME_SHOWN).collect();
        let path = target.with_file_name(format!("{shown}.{:016x}.part", rand::random::<u64>()));
        // Until it has the rights of what it replaces, it is for nobody else.
        let mode = if there.is_some() { 0o600 } else { 0o666 };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        let part = Part { path, file };
        if let Some(there) = there {
            // Only root may give a file away; for all others it becomes theirs.
            let _ = fchown(&part.file, Some(there.uid()), Some(there.gid()));
            part.file.set_permissions(Permissions::from_mode(there.mode() & 0o777))?;
        }
        Ok(part)
    }

    /// Durable under its name when this returns.
    fn take_its_place(self, target: &Path, existing: Existing) -> io::Result<()> {
        let linked = match existing {
            Existing::Replace => false,
            // Unlike a rename, a link never replaces what came there meanwhile.
            Existing::Keep => match fs::hard_link(&self.path, target) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                // Not every file system has links.
                Err(_) => false,
            },
        };
        if !linked {
            fs::rename(&self.path, target)?;
        }
        drop(self);
        let directory = target.parent().filter(|directory| !directory.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Not there any more once it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

fn write_through(name: &Path, append: bool, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).append(append).open(name)?;
    file.write_all(bytes)?;
    match file.metadata()?.file_type() {
        kind if kind.is_file() || kind.is_block_device() => file.sync_all(),
        _ => Ok(()),
    }
}

/// Writes a file in one go, whatever is there, for commands that hold everything up meanwhile.
pub fn replace(name: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let file = OutputFile::find(name, Existing::Replace)?;
    let written = match &file.place {
        Destination::Stdout => fill(&mut io::stdout().lock()),
        Destination::Through { append } => {
            OpenOptions::new().write(true).append(*append).open(name).and_then(|to| filled(&to, fill))
        }
        Destination::File { target, there } => Part::create(target, there.as_ref()).and_then(|part| {
            filled(&part.file, fill)?;
            part.file.sync_all()?;
            part.take_its_place(target, Existing::Replace)
        }),
    };
    written.map_err(|error| cannot_write(name, &error))
}

fn filled(to: &File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut to = BufWriter::new(to);
    fill(&mut to)?;
    to.flush()
}

/// Where links lead that end in nothing.
fn follow(name: &Path) -> io::Result<PathBuf> {
    let mut target = name.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&target) {
            Ok(next) => target = target.with_file_name("").join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::other("too many links"))
}

fn is_directory_name(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.file_name().is_none()
}

/// Our own output under another name, such as `/dev/stdout`; a file that it goes to included.
fn is_stdout(there: &Metadata) -> bool {
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).metadata());
    stdout.is_ok_and(|stdout| (stdout.dev(), stdout.ino()) == (there.dev(), there.ino()))
}

/// Something that whoever started us has open: replacing a file would take it away from them.
fn is_descriptor(name: &Path) -> bool {
    ["/dev/fd", "/proc/self/fd"].iter().any(|directory| name.starts_with(directory))
        || [Path::new("/dev/stderr"), Path::new("/dev/stdin")].contains(&name)
}

fn cannot_write(name: &Path, error: &io::Error) -> Failure {
    Failure::error(format!("cannot write {name:?}: {error}; name another file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_fails_half_way_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "old").unwrap();
        let failed = replace(&file, |to| {
            to.write_all(b"half")?;
            assert_eq!(names(directory.path()).len(), 2, "it is written beside its place");
            Err(io::Error::other("no more"))
        });
        assert!(failed.unwrap_err().to_string().contains("no more"));
        assert_eq!((names(directory.path()), fs::read(&file).unwrap()), (vec!["file".to_owned()], b"old".to_vec()));
        replace(&file, |to| to.write_all(b"new")).unwrap();
        assert_eq!((names(directory.path()), fs::read(&file).unwrap()), (vec!["file".to_owned()], b"new".to_vec()));
    }

    #[test]
    fn what_came_meanwhile_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let part = Part::create(&file, None).unwrap();
        fs::write(&file, "mine").unwrap();
        let kept = part.take_its_place(&file, Existing::Keep);
        assert_eq!(kept.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((names(directory.path()), fs::read(&file).unwrap()), (vec!["file".to_owned()], b"mine".to_vec()));
    }

    #[tokio::test]
    async fn a_write_that_is_dropped_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let output = OutputFile::find(&directory.path().join("file"), Existing::Keep).unwrap();
        let bytes = vec![0_u8; 1 << 20];
        {
            let mut writing = std::pin::pin!(output.write(bytes));
            let first = std::future::poll_fn(|context| std::task::Poll::Ready(writing.as_mut().poll(context))).await;
            assert!(first.is_pending(), "another thread writes");
        }
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }

    #[test]
    fn names_are_refused_before_anything_is_done() {
        let directory = tempfile::tempdir().unwrap();
        symlink_round(directory.path());
        let find = |name: &str, existing| OutputFile::find(&directory.path().join(name), existing).map(drop);
        fs::write(directory.path().join("file"), "").unwrap();
        assert_eq!(find("file", Existing::Keep).unwrap_err().kind(), Kind::Usage);
        assert!(find("file", Existing::Replace).is_ok());
        for bad in ["", "new/", "round"] {
            assert!(find(bad, Existing::Replace).is_err(), "{bad:?}");
        }
    }

    fn symlink_round(directory: &Path) {
        std::os::unix::fs::symlink("round", directory.join("round")).unwrap();
    }
}
