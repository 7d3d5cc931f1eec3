//! The files of a plugin's folder that belong into its package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use ekuiper_manager::archive::Contents;

use crate::error::{Error, Result};

/// Names that are never part of a plugin: what building, testing and editing
/// leave in its folder. Hidden files are neither.
const LEFT_OUT: [&str; 6] = ["__pycache__", "target", "venv", "node_modules", "build", "dist"];

/// Returns whether a file or folder is no part of the plugin.
pub(crate) fn is_left_out(name: &str) -> bool {
    let has_ending = |ending: &str| name.len() > ending.len() && name.ends_with(ending);
    name.starts_with('.') || LEFT_OUT.contains(&name) || [".pyc", ".zip", ".egg-info"].into_iter().any(has_ending)
}

/// A plugin's folder.
pub(crate) struct Files {
    folder: PathBuf,
}

impl Files {
    pub(crate) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Adds the file, or the folder with everything in it, at a path relative
    /// to the plugin's folder, except for what `left_out` names. A path where
    /// nothing is adds nothing, unless a user has named it.
    ///
    /// # Errors
    /// A file that cannot be read, lies outside, or is neither a file nor a
    /// folder.
    pub(crate) fn add(&self, relative: &Path, contents: &mut Contents, left_out: &dyn Fn(&str) -> bool) -> Result<()> {
        if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(Error::Outside { path: relative.to_owned() });
        }
        let path = self.folder.join(relative);
        let failed = |source| Error::Read { path: path.clone(), source };
        // What a link leads to is packaged, not the link.
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        if metadata.is_file() {
            let name = relative.to_str().ok_or_else(|| Error::OddName { path: path.clone() })?;
            return Ok(contents.add_file(name, path, metadata.permissions().mode() & 0o100 != 0)?);
        }
        if !metadata.is_dir() {
            return Err(Error::OddFile { path });
        }
        if path.symlink_metadata().map_err(failed)?.is_symlink() {
            return Err(Error::LinkedFolder { path });
        }
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if !left_out(&name.to_string_lossy()) {
                self.add(&relative.join(name), contents, left_out)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_leave_is_no_part_of_a_plugin() {
        for name in [".git", ".venv", "__pycache__", "x.pyc", "old.zip", "target"] {
            assert!(is_left_out(name), "{name}");
        }
        for name in ["plugin.py", "lib", "zip", "targets", "sources"] {
            assert!(!is_left_out(name), "{name}");
        }
    }

    #[test]
    fn a_folder_is_added_with_modes_and_without_links_to_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("lib/.git")).unwrap();
        fs::write(path("lib/a.py"), "").unwrap();
        fs::write(path("lib/.git/x"), "").unwrap();
        std::os::unix::fs::symlink("a.py", path("lib/b.py")).unwrap();
        let files = Files::of(folder.path());
        let mut contents = Contents::new();
        files.add(Path::new(""), &mut contents, &is_left_out).unwrap();
        assert_eq!(contents.names().collect::<Vec<_>>(), ["lib", "lib/a.py", "lib/b.py"]);
        std::os::unix::fs::symlink("/tmp", path("lib/c")).unwrap();
        assert!(matches!(files.add(Path::new(""), &mut contents, &is_left_out), Err(Error::LinkedFolder { .. })));
        assert!(matches!(files.add(Path::new("../x"), &mut contents, &is_left_out), Err(Error::Outside { .. })));
    }
}
