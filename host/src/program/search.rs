//! Where a program lies.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Finds a program as a shell does: a path as it is, a name as the first
/// executable file in `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') || [".", ".."].contains(&name) {
        return std::path::absolute(name).ok();
    }
    let is_program = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    in_path(name).find(is_program)
}

/// Finds the interpreter of Python plugins where none is chosen: `python`, or
/// `python3` where there is no `python`; `None` where there is neither.
pub fn default_python() -> Option<PathBuf> {
    find_program("python").or_else(|| find_program("python3"))
}

/// Returns the files of this name in `PATH`.
pub(crate) fn in_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<_> = std::env::split_paths(&path).map(|folder| folder.join(name)).collect();
    places.into_iter().filter(|place| place.symlink_metadata().is_ok())
}
