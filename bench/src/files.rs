//! The files that a run writes, checked for writability before the run.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A file opened for writing. Dropping it unwritten leaves the file unchanged.
pub(crate) struct Output {
    file: File,
    path: PathBuf,
    /// The file was created here, and is empty.
    is_new: bool,
}

impl Output {
    /// Opens the file, keeping its content for now.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = Error::io(format!("write {}", path.display()));
        let mut options = OpenOptions::new();
        options.write(true);
        let (file, is_new) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                (options.create(true).open(path).map_err(failed)?, false)
            }
            made => (made.map_err(failed)?, true),
        };
        Ok(Self { file, path: path.to_owned(), is_new })
    }

    /// Writes the content.
    pub(crate) fn write(mut self, text: &str) -> Result<()> {
        // A terminal or a pipe cannot be truncated.
        let is_file = self.file.metadata().is_ok_and(|found| found.is_file());
        let emptied = if is_file { self.file.set_len(0) } else { Ok(()) };
        let written = emptied.and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(Error::io(format!("write {}", self.path.display())))?;
        self.is_new = false;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Creates a folder if necessary, and checks that files can be created in it.
#[cfg(feature = "charts")]
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(format!("make {}", path.display())))?;
    tempfile::tempfile_in(path).map(|_| ()).map_err(Error::io(format!("write in {}", path.display())))
}

#[cfg(test)]
mod tests {
    use ekuiper_core::Chain;

    use super::*;

    #[test]
    fn a_file_is_as_it_was_until_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        drop(Output::open(&path).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "long former results").unwrap();
        drop(Output::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "long former results");
        Output::open(&path).unwrap().write("results").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "results");
        for wrong in [folder.path(), Path::new("/no/such/folder/file")] {
            let error = Chain(&Output::open(wrong).map(|_| ()).unwrap_err()).to_string();
            assert!(error.starts_with(&format!("cannot write {}: ", wrong.display())), "{error}");
        }
    }
}
