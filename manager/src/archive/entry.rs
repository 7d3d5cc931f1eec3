//! The entries of an archive: which names and kinds are safe to unpack.

use std::collections::HashMap;
use std::path::{Component, Path};

use ekuiper_core::printable;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Path below the plugin's folder, with slashes, and none at its end.
    pub name: String,
    /// The name as the archive has it: eKuiper finds the manifest by that.
    pub raw_name: String,
    /// Whether it is a file or a folder.
    pub kind: EntryKind,
    /// Unix permissions, if the archive has them: those that eKuiper gives the
    /// file.
    pub mode: Option<u32>,
    /// Size in bytes, unpacked, as the archive announces it.
    pub size: u64,
}

/// Maximum length of one part of a path, in bytes: the file systems' limit.
const LONGEST_PART: usize = 255;

/// Maximum length of a path, in bytes, so that it can be opened below a folder.
const LONGEST_PATH: usize = 2048;

/// The kinds of files, in the upper bits of a Unix mode.
const FORMAT: u32 = 0o170_000;
const PLAIN: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// Checks an entry's name, and returns it without superfluous parts; `None` for
/// the archive's root.
///
/// # Errors
/// What is wrong with the name, as the rest of a sentence.
pub(super) fn safe_name(raw: &str) -> Result<Option<String>, String> {
    if raw.is_empty() {
        return Err("has an empty name".into());
    }
    if raw.contains(char::is_control) {
        return Err("has a control character in its name".into());
    }
    if raw.contains('\\') {
        return Err("has a backslash in its name: write the zip with forward slashes".into());
    }
    if raw.len() > LONGEST_PATH {
        return Err(format!("has a name of {} bytes: {LONGEST_PATH} at most", raw.len()));
    }
    let mut parts = Vec::new();
    for component in Path::new(raw).components() {
        match component {
            Component::Normal(part) if part.len() > LONGEST_PART => {
                return Err(format!("has a part of {} bytes in its path: {LONGEST_PART} at most", part.len()));
            }
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::CurDir => {}
            Component::ParentDir => return Err("leads out of the plugin's folder".into()),
            Component::RootDir | Component::Prefix(_) => {
                return Err("is an absolute path: names are relative to the plugin's folder".into());
            }
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// Returns an entry's kind by its mode and name.
///
/// # Errors
/// The entry is neither a file nor a folder; the rest of a sentence.
pub(super) fn kind(raw: &str, mode: Option<u32>) -> Result<EntryKind, String> {
    let by_name = if raw.ends_with('/') { EntryKind::Folder } else { EntryKind::File };
    match mode.map_or(0, |mode| mode & FORMAT) {
        // Made on a system without Unix modes.
        0 => Ok(by_name),
        PLAIN if by_name == EntryKind::File => Ok(EntryKind::File),
        FOLDER if by_name == EntryKind::Folder => Ok(EntryKind::Folder),
        LINK => Err("is a symbolic link: put the file itself into the zip".into()),
        PLAIN | FOLDER => Err("is a file by its mode and a folder by its name, or the reverse".into()),
        _ => Err("is a device, a pipe or a socket: only files and folders are unpacked".into()),
    }
}

/// Checks that the entries can be unpacked side by side.
///
/// # Errors
/// The name of an entry, and what is wrong with it.
pub(super) fn check_together(entries: &[Entry]) -> Result<(), (String, String)> {
    let mut kinds = HashMap::new();
    for entry in entries {
        match kinds.insert(entry.name.as_str(), entry.kind) {
            Some(EntryKind::Folder) if entry.kind == EntryKind::Folder => {}
            Some(_) => return Err((entry.name.clone(), "is in the zip twice".into())),
            None => {}
        }
    }
    for entry in entries {
        let mut name = entry.name.as_str();
        while let Some((folder, _)) = name.rsplit_once('/') {
            if kinds.get(folder) == Some(&EntryKind::File) {
                let problem = format!("lies in {}, which is a file in the same zip", printable::short(folder));
                return Err((entry.name.clone(), problem));
            }
            name = folder;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_folder() {
        for (raw, name) in
            [("a", "a"), ("a/b/", "a/b"), ("./a//b", "a/b"), ("a/./b", "a/b"), ("ä …", "ä …"), ("..a", "..a")]
        {
            assert_eq!(safe_name(raw), Ok(Some(name.into())), "{raw}");
        }
        assert_eq!(safe_name("./"), Ok(None));
        let long = "x".repeat(256);
        for raw in [
            "",
            "/",
            "/etc/x",
            "../x",
            "a/../../x",
            "a/..",
            "a\\b",
            "a\nb",
            "a\0",
            "\u{1b}[2J",
            &long,
            &"a/".repeat(1025),
        ] {
            assert!(safe_name(raw).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn only_files_and_folders_are_taken() {
        assert_eq!(kind("a", None), Ok(EntryKind::File));
        assert_eq!(kind("a/", Some(0o755)), Ok(EntryKind::Folder));
        assert_eq!(kind("a", Some(0o100_644)), Ok(EntryKind::File));
        assert_eq!(kind("a/", Some(0o040_755)), Ok(EntryKind::Folder));
        for (raw, mode) in [
            ("a", 0o120_777),
            ("a/", 0o120_777),
            ("a", 0o010_644),
            ("a", 0o020_644),
            ("a", 0o140_644),
            ("a", 0o040_755),
            ("a/", 0o100_644),
        ] {
            assert!(kind(raw, Some(mode)).is_err(), "{raw} {mode:o}");
        }
    }

    #[test]
    fn entries_do_not_hide_each_other() {
        let entry = |name: &str, kind| Entry { name: name.into(), raw_name: name.into(), kind, mode: None, size: 0 };
        let file = |name| entry(name, EntryKind::File);
        let folder = |name| entry(name, EntryKind::Folder);
        assert!(check_together(&[folder("a"), folder("a"), file("a/b"), file("c/d/e")]).is_ok());
        assert!(check_together(&[file("a"), file("a")]).is_err());
        assert!(check_together(&[folder("a"), file("a")]).is_err());
        assert!(check_together(&[file("a/b/c"), file("a")]).is_err());
        assert!(check_together(&[file("a"), file("b/a/c"), file("b/a")]).is_err());
    }
}
