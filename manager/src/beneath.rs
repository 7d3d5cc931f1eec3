//! Files and folders below the manager's folder, reached without following a
//! link: an `install.sh` may have put one in the place of any of them.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, openat, renameat, symlinkat, unlinkat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder without the right to read it, which only Linux can.
#[cfg(target_os = "linux")]
const UNREAD: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const UNREAD: OFlags = OFlags::empty();

/// Maximum number of folders in each other that are open while they are removed:
/// each has two descriptors.
const DEEPEST: usize = 64;

/// Opens a plain file to be read.
pub(crate) fn open(root: &Path, path: &Path) -> io::Result<File> {
    let (folder, name) = parent(root, path, false)?;
    // A pipe without a writer would hang this.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(folder, name, flags, Mode::empty());
    let file = File::from(opened.map_err(|error| refused(name, error))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    Ok(file)
}

/// Opens the manager's own file to append to it, and makes it if it is not
/// there.
pub(crate) fn append(root: &Path, path: &Path) -> io::Result<File> {
    let (folder, name) = parent(root, path, false)?;
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(folder, name, flags, Mode::from_raw_mode(0o644));
    Ok(opened.map_err(|error| refused(name, error))?.into())
}

/// Writes a new file, and makes the folders that it lies in.
pub(crate) fn write_new(root: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let (folder, name) = parent(root, path, true)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    File::from(openat(folder, name, flags, Mode::from_raw_mode(0o644))?).write_all(content)
}

/// Makes a folder, and those that it lies in, where they are not there.
pub(crate) fn make_folder(root: &Path, path: &Path) -> io::Result<()> {
    self::folder(root, path, true).map(drop)
}

/// Makes a folder that is not there.
pub(crate) fn make_new_folder(root: &Path, path: &Path) -> io::Result<()> {
    let (folder, name) = parent(root, path, false)?;
    Ok(mkdirat(folder, name, Mode::from_raw_mode(0o755))?)
}

/// Makes a link that is not there.
pub(crate) fn link(root: &Path, target: &Path, path: &Path) -> io::Result<()> {
    let (folder, name) = parent(root, path, false)?;
    Ok(symlinkat(target, folder, name)?)
}

/// Gives a file or link another name, and replaces one that has it.
pub(crate) fn rename(root: &Path, from: &Path, to: &Path) -> io::Result<()> {
    let ((from, old), (to, new)) = (parent(root, from, false)?, parent(root, to, false)?);
    Ok(renameat(from, old, to, new)?)
}

/// Removes a file or link.
pub(crate) fn unlink(root: &Path, path: &Path) -> io::Result<()> {
    let (folder, name) = parent(root, path, false)?;
    Ok(unlinkat(folder, name, AtFlags::empty())?)
}

/// Removes an empty folder.
pub(crate) fn remove_empty(root: &Path, path: &Path) -> io::Result<()> {
    let (folder, name) = parent(root, path, false)?;
    Ok(unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

/// Removes a file, a link, or a folder, if it is there: everything in it that
/// can be removed.
///
/// # Errors
/// The first path that stays, and why.
pub(crate) fn remove(root: &Path, path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let (folder, name) = match parent(root, path, false) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err((path.to_owned(), error)),
    };
    let mut moved = 0;
    loop {
        let before = moved;
        let removed = Removal { top: None, depth: DEEPEST }.remove(folder.as_fd(), name, path, &mut moved);
        // What was moved may have been missed.
        if removed.is_ok() || moved == before {
            return removed;
        }
    }
}

/// A removal of folders in each other.
#[derive(Clone, Copy)]
struct Removal<'a> {
    /// The outermost one, into which a folder is moved that lies too deep.
    top: Option<BorrowedFd<'a>>,
    /// Number of folders that may still be opened.
    depth: usize,
}

impl Removal<'_> {
    fn remove(
        self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        moved: &mut u64,
    ) -> Result<(), (PathBuf, io::Error)> {
        let failed = |error: Errno| (path.to_owned(), error.into());
        let as_file = match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(error) => error,
        };
        let Ok(inner) = openat(folder, name, FOLDER | UNREAD, Mode::empty()) else {
            return Err(failed(as_file));
        };
        let top = match (self.top, self.depth.checked_sub(1)) {
            (Some(top), None) => {
                renameat(folder, name, top, format!(".moved{moved}")).map_err(failed)?;
                *moved += 1;
                return Ok(());
            }
            (top, _) => top.unwrap_or(inner.as_fd()),
        };
        let within = Removal { top: Some(top), depth: self.depth - 1 };
        let mut first = None;
        if let Err(error) = remove_content(&inner, path, within, moved, &mut first) {
            first.get_or_insert((path.to_owned(), error));
        }
        match (unlinkat(folder, name, AtFlags::REMOVEDIR), first) {
            (Ok(()) | Err(Errno::NOENT), _) => Ok(()),
            (Err(_), Some(first)) => Err(first),
            (Err(error), None) => Err(failed(error)),
        }
    }
}

fn remove_content(
    folder: &OwnedFd,
    path: &Path,
    within: Removal<'_>,
    moved: &mut u64,
    first: &mut Option<(PathBuf, io::Error)>,
) -> io::Result<()> {
    // A folder may be one that its owner cannot write to.
    let place = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    let mode = place.metadata().map(|metadata| metadata.permissions().mode()).unwrap_or(0o700);
    if mode & 0o700 != 0o700 {
        // What that leaves is told by what follows.
        let _ = std::fs::set_permissions(&place, Permissions::from_mode(0o700));
    }
    let folder = openat(folder, ".", FOLDER, Mode::empty())?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if let Err(failed) = within.remove(folder.as_fd(), name, &path.join(name), moved) {
            first.get_or_insert(failed);
        }
    }
    Ok(())
}

/// Opens a folder, and makes those on its path if it `makes` them.
fn folder(root: &Path, path: &Path, makes: bool) -> io::Result<OwnedFd> {
    let outside = || io::Error::other("it is not in the manager's folder");
    let inner = path.strip_prefix(root).map_err(|_| outside())?;
    let mut folder = openat(CWD, root, FOLDER, Mode::empty())?;
    for part in inner.components() {
        let Component::Normal(part) = part else { return Err(outside()) };
        if makes {
            match mkdirat(&folder, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        folder = openat(&folder, part, FOLDER, Mode::empty()).map_err(|error| refused(part, error))?;
    }
    Ok(folder)
}

fn parent<'a>(root: &Path, path: &'a Path, makes: bool) -> io::Result<(OwnedFd, &'a OsStr)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("it has no name"));
    };
    Ok((folder(root, parent, makes)?, name))
}

/// The error of a link that is not followed, or another one.
fn refused(name: &OsStr, error: Errno) -> io::Error {
    let name = name.to_string_lossy();
    match error {
        Errno::LOOP => odd(format!("{name} is a link, which is not followed")),
        Errno::NOTDIR => odd(format!("{name} is a link, which is not followed, or no folder")),
        error => error.into(),
    }
}

fn odd(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotADirectory, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "theirs").unwrap();
        symlink(&outside, root.join("a")).unwrap();
        symlink(outside.join("file"), root.join("f")).unwrap();
        let (through, file) = (root.join("a/file"), root.join("f"));
        let said = |outcome: io::Result<()>| outcome.unwrap_err().to_string();
        for outcome in [
            open(&root, &through).map(drop),
            append(&root, &through).map(drop),
            write_new(&root, &root.join("a/b/new"), b""),
            make_folder(&root, &root.join("a/b")),
            make_new_folder(&root, &root.join("a/b")),
            link(&root, &outside, &root.join("a/new")),
            rename(&root, &file, &root.join("a/new")),
            unlink(&root, &through),
        ] {
            assert_eq!(said(outcome), "a is a link, which is not followed, or no folder");
        }
        assert_eq!(said(open(&root, &file).map(drop)), "f is a link, which is not followed");
        assert_eq!(said(append(&root, &file).map(drop)), "f is a link, which is not followed");
        assert!(write_new(&root, &file, b"ours").is_err());
        for path in [outside.join("file"), root.join("../outside/file")] {
            assert_eq!(said(open(&root, &path).map(drop)), "it is not in the manager's folder");
        }
        // A link is removed, and not what it leads to.
        assert!(remove(&root, &through).is_err());
        remove(&root, &root.join("a")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        symlink(&outside, root.join("d/a")).unwrap();
        remove(&root, &root.join("d")).unwrap();
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    }

    #[test]
    fn files_and_folders_are_made_and_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        write_new(root.path(), &path("a/b/file"), b"1").unwrap();
        rename(root.path(), &path("a/b/file"), &path("a/file")).unwrap();
        append(root.path(), &path("a/file")).unwrap().write_all(b"2").unwrap();
        let mut text = String::new();
        open(root.path(), &path("a/file")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "12");
        assert_eq!(open(root.path(), &path("c/none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(open(root.path(), &path("a/b")).unwrap_err().to_string(), "it is no plain file");
        remove_empty(root.path(), &path("a/b")).unwrap();
        remove(root.path(), &path("a")).unwrap();
        remove(root.path(), &path("a/none")).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_that_their_owner_may_not_write_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("a/b/c")).unwrap();
        fs::write(path("a/b/c/file"), "").unwrap();
        for name in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(path(name), Permissions::from_mode(0o000)).unwrap();
        }
        remove(root.path(), &path("a")).unwrap();
        assert!(!path("a").exists());
    }

    #[test]
    fn folders_in_each_other_are_removed_however_many_they_are() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        fs::create_dir(&path).unwrap();
        let mut folder = openat(CWD, &path, FOLDER, Mode::empty()).unwrap();
        for _ in 0..400 {
            mkdirat(&folder, "b", Mode::from_raw_mode(0o755)).unwrap();
            mkdirat(&folder, "c", Mode::from_raw_mode(0o755)).unwrap();
            folder = openat(&folder, "b", FOLDER, Mode::empty()).unwrap();
        }
        drop(folder);
        remove(root.path(), &path).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
