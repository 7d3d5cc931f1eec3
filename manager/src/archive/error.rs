//! What is wrong with an archive, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use ekuiper_core::printable::some_of;

/// Maximum number of names in an error.
const NAMED: usize = 10;

/// The result of reading or writing an archive.
pub type Result<T, E = ArchiveError> = std::result::Result<T, E>;

/// Why an archive cannot be read, or be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not a zip, or a damaged one.
    #[error("{} is not a zip, or it is damaged", path.display())]
    NotAZip {
        /// The archive.
        path: PathBuf,
        /// The cause.
        source: zip::result::ZipError,
    },
    /// An entry cannot be unpacked safely.
    #[error("{}: entry {entry} {problem}", path.display())]
    Entry {
        /// The archive.
        path: PathBuf,
        /// The entry's name, as text that can be printed.
        entry: String,
        /// What is wrong with it, and what to do, as the rest of a sentence.
        problem: String,
    },
    /// Two entries have the same name: which one counts depends on who unpacks
    /// it.
    #[error("{} lists an entry twice", path.display())]
    Twice {
        /// The archive.
        path: PathBuf,
    },
    /// An entry's content cannot be read: it is damaged, or compressed in a way
    /// that is not supported.
    #[error("{}: entry {entry} cannot be unpacked", path.display())]
    Content {
        /// The archive.
        path: PathBuf,
        /// The entry's name, as text that can be printed.
        entry: String,
        /// The cause.
        source: io::Error,
    },
    /// The archive is larger, unpacked, than its limits allow.
    #[error("{} {problem}", path.display())]
    TooLarge {
        /// The archive.
        path: PathBuf,
        /// Which limit, as the rest of a sentence.
        problem: String,
    },
    /// The archive has no manifest at its root.
    #[error("{} has no manifest: NAME.json must be at its root, not in a folder{hint}", path.display())]
    NoManifest {
        /// The archive.
        path: PathBuf,
        /// Where a file that may be the manifest is; empty if there is none.
        hint: String,
    },
    /// The archive has several files that may be the manifest.
    #[error("{} has {} files that may be the manifest: {}; leave one JSON file at the root", path.display(), found.len(), some_of(found, NAMED))]
    ManyManifests {
        /// The archive.
        path: PathBuf,
        /// The names.
        found: Vec<String>,
    },
    /// A path is to be added that is not in the plugin's folder.
    #[error("{} is not in the plugin's folder", path.display())]
    Outside {
        /// The path.
        path: PathBuf,
    },
    /// A link leads out of a plugin's folder.
    #[error("{} is a link out of the plugin's folder: put the file itself there, or leave it out", path.display())]
    LinkOut {
        /// The link.
        path: PathBuf,
    },
    /// A pipe, a socket or a device.
    #[error("{} is neither a file nor a folder, and cannot be packaged", path.display())]
    OddFile {
        /// The file.
        path: PathBuf,
    },
    /// A name that is no text.
    #[error("the name {path:?} is not UTF-8, and cannot be packaged")]
    OddName {
        /// The file.
        path: PathBuf,
    },
    /// A link to a folder.
    #[error("{} is a link to a folder: put the folder itself there, or leave it out", path.display())]
    LinkedFolder {
        /// The link.
        path: PathBuf,
    },
    /// No [`Scratch`](crate::Scratch) folder can be made.
    #[error("cannot make a temporary folder in {}: TMPDIR names another place for it", folder.display())]
    Scratch {
        /// The folder for temporary files.
        folder: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl ArchiveError {
    /// Names the archive at `path` as its user does.
    pub(crate) fn named(mut self, at: &Path, origin: &str) -> Self {
        match &mut self {
            Self::Read { path, .. }
            | Self::NotAZip { path, .. }
            | Self::Entry { path, .. }
            | Self::Twice { path }
            | Self::Content { path, .. }
            | Self::TooLarge { path, .. }
            | Self::NoManifest { path, .. }
            | Self::ManyManifests { path, .. }
                if path == at =>
            {
                *path = origin.into();
            }
            _ => {}
        }
        self
    }
}
