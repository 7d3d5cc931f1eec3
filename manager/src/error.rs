//! What keeps a plugin from being installed, updated or removed, and what to do
//! about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ekuiper_host::SymbolKind;

use crate::archive::ArchiveError;

/// The result of a change.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a plugin is not installed, updated or removed: but for [`Error::Left`],
/// nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manager's folder cannot be used.
    #[error("cannot use {} to keep plugins in", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The folder is not empty, and is no manager's.
    #[error("{} has other files in it: choose an empty folder, or one that is not there", path.display())]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Another manager uses the folder.
    #[error("{} is used by another manager: end that first, or choose another folder", path.display())]
    FolderInUse {
        /// The manager's folder.
        path: PathBuf,
    },
    /// The name is none that a plugin can have.
    #[error("{name} cannot be a plugin's name: {problem}")]
    Name {
        /// The name, as text that can be printed.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The name is none that an uploaded file can have.
    #[error("a file cannot be uploaded as {name}: {problem}")]
    FileName {
        /// The name, as text that can be printed.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The package is that of another plugin.
    #[error("the package is that of plugin {found}, not of {expected}: its manifest is {found}.json")]
    OtherPlugin {
        /// The name that was asked for.
        expected: String,
        /// The package's.
        found: String,
    },
    /// Where the package is to come from cannot be understood, or is not
    /// allowed.
    #[error("{origin} {problem}")]
    Origin {
        /// What was given, as text that can be printed.
        origin: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// A request names one plugin in its path, and another one in its body.
    #[error("the path names plugin {path}, and the body plugin {body}: name one, or leave it out of the body")]
    TwoNames {
        /// The path's, as text that can be printed.
        path: String,
        /// The body's, as text that can be printed.
        body: String,
    },
    /// The package cannot be fetched.
    #[error("cannot fetch {url}: {problem}")]
    Fetch {
        /// The address.
        url: String,
        /// Reason.
        problem: String,
    },
    /// What is to be the package's checksum is none.
    #[error("sha256 {given:?} is no checksum: it has 64 hexadecimal digits, as sha256sum prints them")]
    NoChecksum {
        /// What was given, as text that can be printed.
        given: String,
    },
    /// The package is not the one that was expected.
    #[error(
        "{origin} has the SHA-256 {found}, and {expected} was expected: it is another file, or was changed on its way"
    )]
    Checksum {
        /// Where the package comes from.
        origin: String,
        /// The checksum asked for.
        expected: String,
        /// The package's own.
        found: String,
    },
    /// The package cannot be unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The package's `install.sh` has failed.
    #[error("plugin {plugin}: install.sh {problem}")]
    Script {
        /// The plugin.
        plugin: String,
        /// How it ended, and the end of what it has written.
        problem: String,
    },
    /// The plugin is installed already.
    #[error("plugin {plugin} is installed already, in version {version:?}: update it instead")]
    Installed {
        /// The plugin.
        plugin: String,
        /// Its version.
        version: String,
    },
    /// The plugin is not installed.
    #[error("plugin {plugin} is not installed: {known}")]
    NotInstalled {
        /// The plugin.
        plugin: String,
        /// Which ones are, as a sentence.
        known: String,
    },
    /// The plugin is being changed by another caller.
    #[error("plugin {plugin} is being installed, updated or removed at the moment: try again when that is done")]
    Busy {
        /// The plugin.
        plugin: String,
    },
    /// The manager ends, and has stopped the change.
    #[error("the manager is ending: nothing was changed")]
    Ending,
    /// No installed plugin has the source or sink.
    #[error("there is no {kind} {symbol}: {known}")]
    NoSymbol {
        /// Whether a source or a sink.
        kind: SymbolKind,
        /// Its name, as text that can be printed.
        symbol: String,
        /// What has this name, or which names there are, as a sentence.
        known: String,
    },
    /// The key is none that a configuration can have.
    #[error("{key} cannot be the key of a configuration: {problem}")]
    Key {
        /// The key, as text that can be printed.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The source or sink has no configuration of this key.
    #[error("{kind} {symbol} has no configuration {key}: it has {known}")]
    NoKey {
        /// Whether a source or a sink.
        kind: SymbolKind,
        /// Its name.
        symbol: String,
        /// The key, as text that can be printed.
        key: String,
        /// Which ones it has.
        known: String,
    },
    /// A configuration does not fit what the plugin says of itself.
    #[error("plugin {plugin}: configuration {key} does not fit {kind} {symbol}: {problem}")]
    Configuration {
        /// The plugin.
        plugin: String,
        /// Whether a source or a sink.
        kind: SymbolKind,
        /// Its name.
        symbol: String,
        /// The key.
        key: String,
        /// The field, what was expected and what was given.
        problem: String,
    },
    /// A file of settings cannot be used.
    #[error("{} {problem}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// Somebody uses the plugin that is to be removed.
    #[error("plugin {plugin} is in use, by {users}: end them first, or ask for it to be removed nevertheless")]
    InUse {
        /// The plugin.
        plugin: String,
        /// The symbols and their rules.
        users: String,
    },
    /// The plugin is removed, and some of its files are not: the manager removes
    /// them at its next start, if it can.
    #[error("plugin {plugin} is removed, but not its files: {} stays until the manager starts again", path.display())]
    Left {
        /// The plugin.
        plugin: String,
        /// The first file or folder that stays.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The plugin does not work, or its symbols collide with another's.
    #[error(transparent)]
    Host(#[from] ekuiper_host::Error),
}

impl Error {
    /// Names a file of a version that is installed, in `folder`, as its user does:
    /// it is one of the package.
    pub(crate) fn named(self, folder: &Path, origin: &str) -> Self {
        match self {
            Self::Host(error) => Self::Host(named(error, folder, origin)),
            error => error,
        }
    }
}

fn named(mut error: ekuiper_host::Error, folder: &Path, origin: &str) -> ekuiper_host::Error {
    use ekuiper_host::Error::{Executable, Manifest, Update};
    match &mut error {
        Executable { path, .. } | Manifest { path, .. } => {
            if let Ok(inner) = path.strip_prefix(folder) {
                *path = Path::new(origin).join(inner);
            }
        }
        Update { source, .. } => *source = Arc::new(named(ekuiper_host::Error::clone(source), folder, origin)),
        _ => {}
    }
    error
}
