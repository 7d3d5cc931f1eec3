//! Writing an archive that eKuiper installs.
//!
//! eKuiper's unzipper makes one folder level at a time and takes modes from the
//! zip: so each folder has an entry, before what is in it. The same contents
//! give the same bytes: names are sorted, and times and owners left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::entry;
use super::error::{ArchiveError, Result};

/// Permissions of everything in an archive.
const FILE: u32 = 0o644;
const EXECUTABLE: u32 = 0o755;

/// Size from which an entry needs the zip format's 64-bit fields.
const LARGE: u64 = u32::MAX as u64;

/// What is to be written into an archive.
#[derive(Debug, Default)]
pub struct Contents {
    entries: BTreeMap<String, Content>,
    /// Size in bytes of what [`Contents::count`] was told of.
    counted: u64,
}

#[derive(Debug)]
enum Content {
    File { path: PathBuf, is_executable: bool },
    Bytes { bytes: Vec<u8>, is_executable: bool },
    Folder,
}

impl Contents {
    /// Creates empty contents.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file under a name; a file of that name is replaced.
    ///
    /// # Errors
    /// The name is none that can be unpacked, or is that of a folder.
    pub fn add_file(&mut self, name: &str, path: impl Into<PathBuf>, is_executable: bool) -> Result<()> {
        self.add(name, Content::File { path: path.into(), is_executable })
    }

    /// Adds bytes as a file under a name; a file of that name is replaced.
    ///
    /// # Errors
    /// The name is none that can be unpacked, or is that of a folder.
    pub fn add_bytes(&mut self, name: &str, bytes: impl Into<Vec<u8>>, is_executable: bool) -> Result<()> {
        self.add(name, Content::Bytes { bytes: bytes.into(), is_executable })
    }

    /// The names, in the archive's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a file of this name.
    pub fn has_file(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|content| !matches!(content, Content::Folder))
    }

    /// Counts a file of this size in bytes that was added; returns the number of
    /// entries, and the size of all files that were counted.
    pub(super) fn count(&mut self, size: u64) -> (usize, u64) {
        self.counted = self.counted.saturating_add(size);
        (self.entries.len(), self.counted)
    }

    fn add(&mut self, name: &str, content: Content) -> Result<()> {
        let fail = |problem: String| ArchiveError::Entry {
            path: PathBuf::from(name),
            entry: ekuiper_core::printable::short(name),
            problem,
        };
        let name = entry::safe_name(name).map_err(fail)?.ok_or_else(|| fail("has no name".into()))?;
        for (place, _) in name.match_indices('/') {
            let folder = self.entries.entry(name[..place].to_owned()).or_insert(Content::Folder);
            if !matches!(folder, Content::Folder) {
                return Err(fail(format!("lies in {}, which is a file", &name[..place])));
            }
        }
        if let Some(Content::Folder) = self.entries.get(&name) {
            return Err(fail("is a folder too".into()));
        }
        self.entries.insert(name, content);
        Ok(())
    }

    /// Writes the archive, and returns its size in bytes. The file appears when
    /// it is complete, and replaces one that was there.
    ///
    /// # Errors
    /// [`ArchiveError::Read`] for a file to be added, [`ArchiveError::Write`].
    pub fn write(&self, to: &Path) -> Result<u64> {
        self.write_with(to, CompressionMethod::Deflated)
    }

    /// Writes the archive as [`Contents::write`], without compressing it.
    pub(crate) fn store(&self, to: &Path) -> Result<u64> {
        self.write_with(to, CompressionMethod::Stored)
    }

    fn write_with(&self, to: &Path, method: CompressionMethod) -> Result<u64> {
        let unwritable = |source: io::Error| ArchiveError::Write { path: to.to_owned(), source };
        let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = NamedTempFile::new_in(folder).map_err(unwritable)?;
        let mut zip = ZipWriter::new(BufWriter::new(UntilError { file, has_failed: false }));
        let fail = |source: zip::result::ZipError| unwritable(source.into());
        // The same time in each archive: the earliest that the format has.
        let options = SimpleFileOptions::default().compression_method(method).last_modified_time(DateTime::default());
        for (name, content) in &self.entries {
            match content {
                Content::Folder => {
                    zip.add_directory(name.as_str(), options.unix_permissions(EXECUTABLE)).map_err(fail)?
                }
                Content::Bytes { bytes, is_executable } => {
                    zip.start_file(name.as_str(), options.unix_permissions(mode(*is_executable))).map_err(fail)?;
                    zip.write_all(bytes).map_err(unwritable)?;
                }
                Content::File { path, is_executable } => {
                    let unreadable = |source| ArchiveError::Read { path: path.clone(), source };
                    let mut file = File::open(path).map_err(unreadable)?;
                    let length = file.metadata().map_err(unreadable)?.len();
                    let options = options.unix_permissions(mode(*is_executable)).large_file(length >= LARGE);
                    zip.start_file(name.as_str(), options).map_err(fail)?;
                    io::copy(&mut file, &mut zip).map_err(unwritable)?;
                }
            }
        }
        let writer = zip.finish().map_err(fail)?;
        let UntilError { file, .. } = writer.into_inner().map_err(|error| unwritable(error.into_error()))?;
        let permissions = std::fs::Permissions::from_mode(FILE);
        file.as_file().set_permissions(permissions).map_err(unwritable)?;
        let length = file.as_file().metadata().map_err(unwritable)?.len();
        file.persist(to).map_err(|error| unwritable(error.error))?;
        Ok(length)
    }
}

/// A file that takes no more after its first error: when an archive is given up,
/// its end is still written, and to write on stderr that this fails, too, is no
/// library's business.
struct UntilError {
    file: NamedTempFile,
    has_failed: bool,
}

impl UntilError {
    fn note<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        self.has_failed |= done.is_err();
        done
    }
}

impl Write for UntilError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.has_failed {
            return Ok(bytes.len());
        }
        let written = self.file.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.has_failed {
            return Ok(());
        }
        let flushed = self.file.flush();
        self.note(flushed)
    }
}

impl Seek for UntilError {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let found = self.file.seek(to);
        self.note(found)
    }
}

fn mode(is_executable: bool) -> u32 {
    if is_executable { EXECUTABLE } else { FILE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Archive, EntryKind, Limits};

    fn contents(folder: &Path) -> Contents {
        std::fs::write(folder.join("program"), "#!/bin/sh\n").unwrap();
        let mut contents = Contents::new();
        contents.add_file("bin/x64/program", folder.join("program"), true).unwrap();
        contents.add_bytes("p.json", "{}", false).unwrap();
        contents.add_bytes("./sources/s.yaml", "default: {}\n", false).unwrap();
        contents
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.zip");
        let length = contents(folder.path()).write(&path).unwrap();
        assert_eq!(path.metadata().unwrap().len(), length);
        let mut archive = Archive::open(&path, Limits::default()).unwrap();
        assert_eq!(archive.plugin().unwrap(), "p");
        let found: Vec<_> =
            archive.entries().iter().map(|entry| (entry.name.as_str(), entry.kind, entry.mode.unwrap())).collect();
        let (file, dir) = (EntryKind::File, EntryKind::Folder);
        let wanted = [
            ("bin", dir, 0o755),
            ("bin/x64", dir, 0o755),
            ("bin/x64/program", file, 0o755),
            ("p.json", file, 0o644),
            ("sources", dir, 0o755),
            ("sources/s.yaml", file, 0o644),
        ];
        assert_eq!(found, wanted);
        let into = folder.path().join("unpacked");
        archive.unpack(&into, |_| true).unwrap();
        assert_eq!(std::fs::read(into.join("bin/x64/program")).unwrap(), b"#!/bin/sh\n");
        let mode = into.join("bin/x64/program").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn the_same_contents_are_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one.zip", "other.zip"].map(|name| folder.path().join(name));
        contents(folder.path()).write(&one).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(10));
        contents(folder.path()).write(&other).unwrap();
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
    }

    #[test]
    fn names_that_clash_are_refused() {
        let mut contents = Contents::new();
        contents.add_bytes("a", "", false).unwrap();
        assert!(contents.add_bytes("a/b", "", false).is_err());
        contents.add_bytes("c/d", "", false).unwrap();
        assert!(contents.add_bytes("c", "", false).is_err());
        assert!(contents.add_bytes("../x", "", false).is_err());
        assert!(contents.has_file("a") && !contents.has_file("c"));
    }
}
