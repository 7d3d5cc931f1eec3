//! The zip: what the archive's reader refuses, and what eKuiper's unzipper
//! (`internal/pkg/filex`) and installer need beyond that.

use std::collections::HashSet;
use std::path::Path;

use ekuiper_core::Chain;
use ekuiper_host::{Language, Manifest};
use ekuiper_manager::Unpacked;
use ekuiper_manager::archive::{Archive, ArchiveError, Entry, EntryKind, Limits};

use super::report::{Area, Report};
use crate::error::{Error, Result};
use crate::plugin_path;
use crate::progress::{counted, grouped};

/// What to do about a zip that was put together in another way.
const WRITE: &str = "write the zip with `ekuiper-plugin package`";

/// Folders whose content eKuiper puts beside its own, not into the plugin's
/// folder.
const ENGINE_FOLDERS: [&str; 3] = ["sources", "sinks", "functions"];

/// A zip whose entries are safe.
pub(super) struct Zip {
    pub(super) plugin: String,
    entries: Vec<Entry>,
    pub(super) unpacked: Unpacked,
}

/// Opens and unpacks a zip; `None` if that is impossible, which is reported.
///
/// # Errors
/// The zip cannot be read, nothing can be written, or a signal came.
pub(super) fn open(path: &Path, report: &mut Report) -> Result<Option<Zip>> {
    let opened = Archive::open(path, Limits::default()).and_then(|archive| Ok((archive.plugin()?.to_owned(), archive)));
    let (plugin, archive) = match opened {
        Ok(opened) => opened,
        Err(error) => return refused(error, report),
    };
    let entries = archive.entries().to_vec();
    drop(archive);
    let unpacked = match plugin_path::unpack(path) {
        Ok(unpacked) => unpacked,
        Err(Error::Archive(error)) => return refused(*error, report),
        Err(error) => return Err(error),
    };
    let size = entries.iter().map(|entry| entry.size).sum::<u64>().div_ceil(1024);
    report.fact(Area::Archive, format!("{}, {} KiB unpacked", entries_of(entries.len()), grouped(size)));
    Ok(Some(Zip { plugin, entries, unpacked }))
}

fn entries_of(count: usize) -> String {
    if count == 1 { "1 entry".into() } else { format!("{count} entries") }
}

/// Reports what is wrong with the zip. What is wrong with this machine is an
/// error of the command.
fn refused<T>(error: ArchiveError, report: &mut Report) -> Result<Option<T>> {
    let advice = match &error {
        ArchiveError::Read { .. } | ArchiveError::Write { .. } => return Err(error.into()),
        ArchiveError::Entry { .. } | ArchiveError::Twice { .. } | ArchiveError::NotAZip { .. } => WRITE,
        ArchiveError::NoManifest { .. } | ArchiveError::ManyManifests { .. } => "",
        ArchiveError::TooLarge { .. } => "leave out what the plugin does not need",
        _ => "write the zip again, with the methods stored or deflated",
    };
    report.error(Area::Archive, "", Chain(&error).to_string(), advice);
    Ok(None)
}

impl Zip {
    /// Checks what depends on the manifest.
    pub(super) fn check(&self, manifest: &Manifest, report: &mut Report) {
        self.check_folders(report);
        let manifest_name = format!("{}.json", self.plugin);
        let raw = self.entries.iter().find(|entry| entry.name == manifest_name).map(|entry| entry.raw_name.as_str());
        if let Some(raw) = raw.filter(|raw| *raw != manifest_name) {
            let text = format!("is in the zip as {raw:?}: eKuiper looks for {manifest_name:?}, letter by letter");
            report.error(Area::Archive, &manifest_name, text, WRITE);
        }
        self.check_modes(manifest, report);
    }

    /// Simulates eKuiper's unzipper, which makes a file's folder but not that
    /// folder's own.
    fn check_folders(&self, report: &mut Report) {
        let (mut made, mut failed) = (HashSet::from([""]), Vec::new());
        // They are there, in eKuiper's own folders.
        made.extend(ENGINE_FOLDERS);
        for entry in &self.entries {
            let folder = match entry.kind {
                EntryKind::Folder => entry.name.as_str(),
                EntryKind::File => parent(&entry.name),
            };
            if made.contains(folder) || made.contains(parent(folder)) {
                made.insert(folder);
            } else {
                failed.push((entry.name.as_str(), parent(folder)));
            }
        }
        if let Some((name, folder)) = failed.first() {
            let others = match failed.len() - 1 {
                0 => String::new(),
                more => format!(" (and so for {} more)", entries_of(more)),
            };
            let text = format!(
                "there is no entry for the folder {folder} before it{others}: eKuiper's unzipper makes one folder level \
                 at a time, and fails"
            );
            report.error(Area::Archive, name, text, &format!("{WRITE}, or with `zip -r`, which adds the folders"));
        }
    }

    fn check_modes(&self, manifest: &Manifest, report: &mut Report) {
        let is_native = manifest.language != Language::Python;
        let files = || self.entries.iter().filter(|entry| entry.kind == EntryKind::File);
        let program = files().find(|entry| entry.name == manifest.executable);
        if let Some(program) = program.filter(|_| is_native)
            && program.mode.unwrap_or(0) & 0o100 == 0
        {
            let mode = program.mode.map_or("has no Unix mode".into(), |mode| format!("has the mode {mode:03o}"));
            let text = format!("{mode} in the zip: eKuiper gives the file this mode, and cannot execute it");
            report.error(Area::Archive, &program.name, text, &format!("chmod +x it before zipping, or {WRITE}"));
        }
        let unreadable: Vec<_> = files().filter(|entry| entry.mode.unwrap_or(0) & 0o400 == 0).collect();
        if let Some(first) = unreadable.first() {
            let others = match unreadable.len() {
                1 => String::new(),
                count => format!(" (as {} more)", counted(count as u64 - 1, "file")),
            };
            let text = format!(
                "may not be read by its owner{others}: eKuiper takes modes from the zip, and its default image does not \
                 run as root"
            );
            report.warning(Area::Archive, &first.name, text, WRITE);
        }
    }
}

/// The folder that a path lies in; empty for the root.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}
