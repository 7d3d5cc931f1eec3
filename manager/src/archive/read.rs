//! Reading an archive that may come from anywhere.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ekuiper_core::printable;
use zip::ZipArchive;
use zip::result::ZipError;

use super::entry::{self, Entry, EntryKind};
use super::error::{ArchiveError, Result};

/// What an archive may take, unpacked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum number of entries. Default: 20,000.
    pub entries: usize,
    /// Maximum size of all files together, in bytes. Default: 2 GiB.
    pub size: u64,
    /// How many times the archive's own size its files may have together,
    /// beyond the first 64 MiB. Default: 100.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 20_000, size: 2 << 30, ratio: 100 }
    }
}

/// Size up to which the ratio is not looked at: small files of one byte value
/// are harmless.
const RATIO_FROM: u64 = 64 << 20;

/// Maximum length of what is read to find an archive's list of entries and to
/// read it into memory, in bytes: that for each entry which the limits allow,
/// and for the rest.
const PER_ENTRY: u64 = 512;
const LISTING: u64 = 1 << 20;

/// Permissions of what the archive gives none.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// Permissions that an entry may have: other users cannot change what this one
/// executes.
const ALLOWED_MODE: u32 = 0o755;

/// A plugin's archive, whose entries are known to be safe.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<Bounded>>,
    /// Size of the file in bytes.
    length: u64,
    limits: Limits,
    /// The entries without the root, and each one's number in the zip.
    entries: Vec<Entry>,
    numbers: Vec<usize>,
}

impl Archive {
    /// Opens an archive and checks its list of entries; nothing is written.
    ///
    /// # Errors
    /// [`ArchiveError::Read`], [`ArchiveError::NotAZip`]; an entry that leads
    /// out of the folder, is a link, or is there twice: [`ArchiveError::Entry`];
    /// [`ArchiveError::TooLarge`].
    pub fn open(path: impl AsRef<Path>, limits: Limits) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let unreadable = |source| ArchiveError::Read { path: path.clone(), source };
        // Non-blocking, so that a pipe without a writer cannot hang this.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")));
        }
        let length = metadata.len();
        let listing = file.try_clone().map_err(unreadable)?;
        let too_large = |problem| ArchiveError::TooLarge { path: path.clone(), problem };
        let left = Arc::new(AtomicU64::new(PER_ENTRY.saturating_mul(limits.entries as u64).saturating_add(LISTING)));
        let mut zip = match ZipArchive::new(BufReader::new(Bounded { file, left: left.clone() })) {
            Ok(zip) => zip,
            Err(_) if left.load(Ordering::Relaxed) == 0 => {
                let limit = limits.entries;
                let text = format!("is no zip, or its list of entries is longer than that of {limit}, the limit");
                return Err(too_large(text));
            }
            Err(source) => return Err(damaged(&path, source)),
        };
        left.store(u64::MAX, Ordering::Relaxed);
        let count = listed(&listing, zip.central_directory_start()).map_err(unreadable)?;
        if count.max(zip.len()) > limits.entries {
            return Err(too_large(format!(
                "has {} entries, and the limit is {}",
                count.max(zip.len()),
                limits.entries
            )));
        }
        // The library keeps the last of several entries of one name.
        if count != zip.len() {
            return Err(ArchiveError::Twice { path: path.clone() });
        }
        let (mut entries, mut numbers) = (Vec::new(), Vec::new());
        for number in 0..zip.len() {
            let file = zip.by_index_raw(number).map_err(|source| damaged(&path, source))?;
            let raw = file.name().map_err(|source| damaged(&path, source))?.into_owned();
            let fail = |problem| ArchiveError::Entry { path: path.clone(), entry: printable::short(&raw), problem };
            let kind = entry::kind(&raw, file.unix_mode()).map_err(fail)?;
            let Some(name) = entry::safe_name(&raw).map_err(fail)? else { continue };
            if file.encrypted() {
                return Err(fail("is encrypted: write the zip without a password".into()));
            }
            let mode = file.unix_mode().map(|mode| mode & 0o777);
            entries.push(Entry { name, raw_name: raw.clone(), kind, mode, size: file.size() });
            numbers.push(number);
        }
        let together = entry::check_together(&entries);
        together.map_err(|(name, problem)| ArchiveError::Entry {
            path: path.clone(),
            entry: printable::short(&name),
            problem,
        })?;
        let archive = Self { path, zip, length, limits, entries, numbers };
        let announced = archive.entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.size));
        archive.check_size(announced)?;
        Ok(archive)
    }

    /// The entries, in their order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The plugin's name: that of the only JSON file at the root, the manifest.
    ///
    /// # Errors
    /// [`ArchiveError::NoManifest`], [`ArchiveError::ManyManifests`].
    pub fn plugin(&self) -> Result<&str> {
        let files =
            || self.entries.iter().filter(|entry| entry.kind == EntryKind::File).map(|entry| entry.name.as_str());
        let stems: Vec<_> = files().filter_map(|name| name.strip_suffix(".json")).collect();
        let at_root: Vec<_> = stems.iter().filter(|stem| !stem.contains('/') && !stem.is_empty()).copied().collect();
        match at_root.as_slice() {
            [name] => Ok(name),
            [] => {
                // The usual mistake: the folder was zipped, not what is in it.
                let nested = stems.iter().find(|stem| {
                    let mut parts = stem.split('/');
                    parts.clone().count() == 2 && parts.next() == parts.next()
                });
                let hint = nested.map_or(String::new(), |stem| {
                    let stem = printable::short(stem);
                    format!("; {stem}.json is in a folder: zip the folder's content instead of the folder")
                });
                Err(ArchiveError::NoManifest { path: self.path.clone(), hint })
            }
            _ => {
                let found = at_root.iter().map(|stem| printable::short(&format!("{stem}.json"))).collect();
                Err(ArchiveError::ManyManifests { path: self.path.clone(), found })
            }
        }
    }

    /// Unpacks everything into a new folder, which must not exist; if that
    /// fails, the folder is removed again. `progress` is called with the number
    /// of bytes written so far, and returns whether to go on.
    ///
    /// # Errors
    /// [`ArchiveError::Content`], [`ArchiveError::TooLarge`],
    /// [`ArchiveError::Write`]; of the last kind, with
    /// [`io::ErrorKind::Interrupted`], where `progress` has ended it.
    pub fn unpack(&mut self, into: &Path, mut progress: impl FnMut(u64) -> bool) -> Result<()> {
        let unwritable = |path: &Path, source| ArchiveError::Write { path: path.to_owned(), source };
        DirBuilder::new().mode(FOLDER_MODE).create(into).map_err(|source| unwritable(into, source))?;
        let unpacked = self.unpack_all(into, &mut progress);
        if unpacked.is_err() {
            let _ = fs::remove_dir_all(into);
        }
        unpacked
    }

    fn unpack_all(&mut self, into: &Path, progress: &mut impl FnMut(u64) -> bool) -> Result<()> {
        let mut written = 0;
        let mut folders = Vec::new();
        for index in 0..self.entries.len() {
            let entry = self.entries[index].clone();
            let path = into.join(&entry.name);
            let unwritable = |source| ArchiveError::Write { path: path.clone(), source };
            let folder = if entry.kind == EntryKind::Folder { Some(path.as_path()) } else { path.parent() };
            let mut builder = DirBuilder::new();
            folder
                .map_or(Ok(()), |folder| builder.recursive(true).mode(FOLDER_MODE).create(folder))
                .map_err(unwritable)?;
            match entry.kind {
                // Last, so that what is in it can be written.
                EntryKind::Folder => folders.push((path.clone(), entry.mode.unwrap_or(FOLDER_MODE))),
                EntryKind::File => {
                    let mut options = OpenOptions::new();
                    let mut file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(unwritable)?;
                    self.copy(index, &entry, &path, &mut file, &mut written, progress)?;
                    // Its owner must be able to read it, and replace it.
                    let mode = entry.mode.unwrap_or(FILE_MODE) & ALLOWED_MODE | 0o600;
                    file.set_permissions(Permissions::from_mode(mode)).map_err(unwritable)?;
                }
            }
        }
        for (path, mode) in folders {
            let set = fs::set_permissions(&path, Permissions::from_mode(mode & ALLOWED_MODE | 0o700));
            set.map_err(|source| ArchiveError::Write { path, source })?;
        }
        Ok(())
    }

    /// Copies an entry's content, at most as much as the limits allow: what the
    /// archive announces may be a lie.
    fn copy(
        &mut self,
        index: usize,
        entry: &Entry,
        path: &Path,
        file: &mut File,
        written: &mut u64,
        progress: &mut impl FnMut(u64) -> bool,
    ) -> Result<()> {
        let archive = self.path.clone();
        let fail =
            |source| ArchiveError::Content { path: archive.clone(), entry: printable::short(&entry.name), source };
        let mut buffer = vec![0; 128 << 10];
        let mut content = self.zip.by_index(self.numbers[index]).map_err(|source| fail(source.into()))?;
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(fail(source)),
            };
            *written += count as u64;
            check_size(&archive, *written, self.length, &self.limits)?;
            let unwritable = |source| ArchiveError::Write { path: path.to_owned(), source };
            file.write_all(&buffer[..count]).map_err(unwritable)?;
            if !progress(*written) {
                return Err(unwritable(io::ErrorKind::Interrupted.into()));
            }
        }
    }

    fn check_size(&self, size: u64) -> Result<()> {
        check_size(&self.path, size, self.length, &self.limits)
    }
}

fn check_size(path: &Path, size: u64, length: u64, limits: &Limits) -> Result<()> {
    let problem = if size > limits.size {
        format!("is larger than {} MiB, unpacked, which is the limit", limits.size >> 20)
    } else if size > RATIO_FROM && size > length.saturating_mul(limits.ratio) {
        format!("has {length} bytes and more than {} times as many, unpacked: it is taken for a zip bomb", limits.ratio)
    } else {
        return Ok(());
    };
    Err(ArchiveError::TooLarge { path: path.to_owned(), problem })
}

/// A file of which at most so many bytes are read.
#[derive(Debug)]
struct Bounded {
    file: File,
    left: Arc<AtomicU64>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.file.read(&mut buffer[..most])?;
        self.left.store(left.saturating_sub(count as u64), Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Counts the entries in an archive's list of them, the central directory, which
/// begins at `start`.
fn listed(file: &File, start: u64) -> io::Result<usize> {
    /// Signature and length of an entry's fixed part, and the place of the
    /// lengths of its three variable parts.
    const SIGNATURE: &[u8] = b"PK\x01\x02";
    const FIXED: usize = 46;
    const LENGTHS: usize = 28;
    let (mut count, mut at) = (0, start);
    let mut fixed = [0; FIXED];
    loop {
        match file.read_exact_at(&mut fixed, at) {
            Ok(()) if fixed.starts_with(SIGNATURE) => {}
            Ok(()) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(count),
            Err(error) => return Err(error),
        }
        let variable = fixed[LENGTHS..LENGTHS + 6].chunks_exact(2);
        let variable: u64 = variable.map(|length| u64::from(u16::from_le_bytes([length[0], length[1]]))).sum();
        at += FIXED as u64 + variable;
        count += 1;
    }
}

fn damaged(path: &Path, source: ZipError) -> ArchiveError {
    match source {
        ZipError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof && source.raw_os_error().is_some() => {
            ArchiveError::Read { path: path.to_owned(), source }
        }
        source => ArchiveError::NotAZip { path: path.to_owned(), source },
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
