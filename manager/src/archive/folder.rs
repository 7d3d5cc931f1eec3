//! The files of a plugin's folder that belong into its package.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use super::error::{ArchiveError, Result};
use super::{Contents, Limits};

/// Names that are never part of a plugin: what building, testing and editing
/// leave in its folder. Hidden files are neither.
const LEFT_OUT: [&str; 6] = ["__pycache__", "target", "venv", "node_modules", "build", "dist"];

/// Returns whether a file or folder is no part of the plugin.
pub fn is_left_out(name: &str) -> bool {
    let has_ending = |ending: &str| name.len() > ending.len() && name.ends_with(ending);
    name.starts_with('.') || LEFT_OUT.contains(&name) || [".pyc", ".zip", ".egg-info"].into_iter().any(has_ending)
}

/// A plugin's folder.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    limits: Option<Limits>,
}

impl Files {
    /// The folder of whoever packages it: what links in it lead to is taken from
    /// anywhere.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), limits: None }
    }

    /// A folder that is named by somebody else: links must stay in it, and its
    /// files within the limits.
    pub fn bounded(folder: &Path, limits: Limits) -> Self {
        Self { folder: folder.to_owned(), limits: Some(limits) }
    }

    /// Adds the file, or the folder with everything in it, at a path relative
    /// to the plugin's folder, except for what `left_out` names. A path where
    /// nothing is adds nothing, unless a user has named it.
    ///
    /// # Errors
    /// A file that cannot be read, lies outside, or is neither a file nor a
    /// folder; [`ArchiveError::TooLarge`].
    pub fn add(&self, relative: &Path, contents: &mut Contents, left_out: &dyn Fn(&str) -> bool) -> Result<()> {
        if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(ArchiveError::Outside { path: relative.to_owned() });
        }
        let path = self.folder.join(relative);
        let failed = |source| ArchiveError::Read { path: path.clone(), source };
        // What a link leads to is packaged, not the link.
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        if metadata.is_file() {
            let place = self.place(&path)?;
            let name = relative.to_str().ok_or_else(|| ArchiveError::OddName { path: path.clone() })?;
            contents.add_file(name, place, metadata.permissions().mode() & 0o100 != 0)?;
            return self.check_limits(contents, metadata.len());
        }
        if !metadata.is_dir() {
            return Err(ArchiveError::OddFile { path });
        }
        if path.symlink_metadata().map_err(failed)?.is_symlink() {
            return Err(ArchiveError::LinkedFolder { path });
        }
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if !left_out(&name.to_string_lossy()) {
                self.add(&relative.join(name), contents, left_out)?;
            }
        }
        Ok(())
    }

    /// Where a file's content lies.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        if self.limits.is_none() {
            return Ok(path.to_owned());
        }
        let resolve =
            |path: &Path| path.canonicalize().map_err(|source| ArchiveError::Read { path: path.to_owned(), source });
        let (place, folder) = (resolve(path)?, resolve(&self.folder)?);
        // Not the link: it may lead elsewhere when the file is read.
        if place.starts_with(folder) { Ok(place) } else { Err(ArchiveError::LinkOut { path: path.to_owned() }) }
    }

    fn check_limits(&self, contents: &mut Contents, added: u64) -> Result<()> {
        let Some(limits) = &self.limits else { return Ok(()) };
        let (entries, size) = contents.count(added);
        let problem = if entries > limits.entries {
            format!("has more than {} files and folders, which is the limit", limits.entries)
        } else if size > limits.size {
            format!("is larger than {} MiB, which is the limit", limits.size >> 20)
        } else {
            return Ok(());
        };
        Err(ArchiveError::TooLarge { path: self.folder.clone(), problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

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
        symlink("a.py", path("lib/b.py")).unwrap();
        let files = Files::of(folder.path());
        let mut contents = Contents::new();
        files.add(Path::new(""), &mut contents, &is_left_out).unwrap();
        assert_eq!(contents.names().collect::<Vec<_>>(), ["lib", "lib/a.py", "lib/b.py"]);
        symlink("/tmp", path("lib/c")).unwrap();
        let add = |name: &str| files.add(Path::new(name), &mut Contents::new(), &is_left_out);
        assert!(matches!(add(""), Err(ArchiveError::LinkedFolder { .. })));
        assert!(matches!(add("../x"), Err(ArchiveError::Outside { .. })));
    }

    #[test]
    fn a_bounded_folder_is_left_by_no_link_and_has_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("plugin")).unwrap();
        fs::write(path("plugin/a"), [7; 600]).unwrap();
        fs::write(path("secret"), "").unwrap();
        // The folder itself may be named by a link.
        symlink("plugin", path("named")).unwrap();
        symlink("a", path("plugin/b")).unwrap();
        let add = |limits: Limits| {
            let mut contents = Contents::new();
            let added = Files::bounded(&path("named"), limits).add(Path::new(""), &mut contents, &is_left_out);
            added.map(|()| contents.names().map(str::to_owned).collect::<Vec<_>>()).map_err(|error| error.to_string())
        };
        assert_eq!(add(Limits::default()).unwrap(), ["a", "b"]);
        let said = add(Limits { entries: 1, ..Limits::default() }).unwrap_err();
        assert!(said.ends_with("has more than 1 files and folders, which is the limit"), "{said}");
        let said = add(Limits { size: 1000, ..Limits::default() }).unwrap_err();
        assert!(said.ends_with("is larger than 0 MiB, which is the limit"), "{said}");
        symlink("../secret", path("plugin/c")).unwrap();
        let said = add(Limits::default()).unwrap_err();
        assert!(said.contains("named/c is a link out of the plugin's folder"), "{said}");
    }
}
