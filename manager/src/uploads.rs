//! Packages that are sent to the manager, to be installed from where they lie
//! then.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use ekuiper_core::printable;
use tempfile::NamedTempFile;

use crate::Manager;
use crate::error::{Error, Result};
use crate::origin::larger_than;
use crate::store::failed;

/// Length of what may be around the package in a form, in bytes.
const FORM: u64 = 64 << 10;

fn too_large(limit: u64) -> Error {
    Error::Fetch { url: "the upload".into(), problem: larger_than(limit) }
}

/// Maximum length of a file's name, in bytes: the file systems' limit.
const LONGEST: usize = 255;

/// Checks that a name is one of a file, which need not be the plugin's.
fn check_file_name(name: &str) -> Result<()> {
    let problem = match name {
        "" => "it is empty",
        name if name.starts_with('.') => "it begins with a dot",
        name if name.len() > LONGEST => "it is longer than 255 bytes",
        name if name.contains(printable::is_unprintable) => "it has a control character",
        // The path is to be the package's URL as it is.
        name if name.contains(['/', '\\', '%']) => "it has a slash, a backslash or a percent sign",
        _ => return Ok(()),
    };
    Err(Error::FileName { name: format!("\"{}\"", printable::short(name)), problem })
}

impl Manager {
    /// Begins an upload of a package, which [`NewUpload::keep`] completes.
    ///
    /// # Errors
    /// The name is none of a file; [`Error::Folder`].
    pub(crate) fn begin_upload(&self, name: &str) -> Result<NewUpload> {
        check_file_name(name)?;
        let downloads = self.store.downloads();
        let file = NamedTempFile::new_in(&downloads).map_err(failed(&downloads))?;
        Ok(NewUpload { file, to: self.store.uploads().join(name), size: 0, limit: self.fetch.size })
    }

    /// Refuses a form that cannot have a package of a size that is allowed.
    ///
    /// # Errors
    /// [`Error::Fetch`].
    pub(crate) fn check_form(&self, length: u64) -> Result<()> {
        if length > self.fetch.size.saturating_add(FORM) { Err(too_large(self.fetch.size)) } else { Ok(()) }
    }

    /// Returns the paths of the uploaded packages.
    ///
    /// # Errors
    /// [`Error::Folder`].
    pub(crate) fn uploads(&self) -> Result<Vec<PathBuf>> {
        let folder = self.store.uploads();
        let entries = fs::read_dir(&folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut paths: Vec<PathBuf> = entries.map_err(failed(&folder))?;
        paths.sort();
        Ok(paths)
    }

    /// Removes an uploaded package; returns whether there was one.
    ///
    /// # Errors
    /// As [`Manager::begin_upload`].
    pub(crate) fn remove_upload(&self, name: &str) -> Result<bool> {
        check_file_name(name)?;
        let path = self.store.uploads().join(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&path)(error)),
        }
    }
}

/// A package that is being uploaded.
#[derive(Debug)]
pub(crate) struct NewUpload {
    file: NamedTempFile,
    to: PathBuf,
    size: u64,
    limit: u64,
}

impl NewUpload {
    /// Adds the next bytes.
    ///
    /// # Errors
    /// [`Error::Fetch`] if the package is larger than one may be that is
    /// fetched; [`Error::Folder`].
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            return Err(too_large(self.limit));
        }
        self.file.write_all(bytes).map_err(failed(&self.to))
    }

    /// Gives the file its name; returns its path.
    ///
    /// # Errors
    /// [`Error::Folder`].
    pub(crate) fn keep(self) -> Result<PathBuf> {
        let Self { file, to, .. } = self;
        match file.persist(&to) {
            Ok(_) => Ok(to),
            Err(error) => Err(failed(&to)(error.error)),
        }
    }
}
