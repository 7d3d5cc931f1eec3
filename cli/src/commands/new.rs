//! `new`: the folder of a new plugin.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::io::Errno;
use serde_json::json;

use crate::args::{Language, New};
use crate::console;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output;
use crate::plugin_name::PluginName;
use crate::template::{self, File};

/// The SDK beside which this command was built, if its checkout is still there.
const OWN_SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk");

pub(super) fn run(new: &New) -> Result<ExitCode> {
    let no_name = || Error::NoName { path: new.path.clone() };
    let name = PluginName::parse(&new.path.file_name().ok_or_else(no_name)?.to_string_lossy(), new.language)?;
    let sdk = match (new.language, &new.sdk) {
        (Language::Python, None) => None,
        (Language::Python, Some(_)) => return Err(Error::SdkOfPython),
        (Language::Rust, Some(given)) => Some(sdk(given).ok_or_else(|| Error::NoSdk { path: given.clone() })?),
        (Language::Rust, None) => sdk(Path::new(OWN_SDK)),
    };
    let files = template::files(&name, new.language, &new.kinds, sdk.as_deref());
    let interrupt = Interrupt::watch(|| {}).map_err(Error::Signals)?;
    // Without a slash at its end, which would follow a link.
    let folder = new.path.with_file_name(name.as_str());
    make(&folder, &files, &interrupt)?;
    if new.language == Language::Rust && sdk.is_none() {
        console::line(format_args!(
            "the checkout that this command was built from is gone: the plugin depends on the published ekuiper-sdk; \
             --sdk names another one"
        ));
    }
    console::line(format_args!("{} is ready: its README.md says how to edit, try and package it", folder.display()));
    output::line(json!({
        "name": name.as_str(),
        "folder": folder.canonicalize().unwrap_or_else(|_| folder.clone()),
        "language": if new.language == Language::Rust { "rust" } else { "python" },
        "files": files.iter().map(|file| &file.path).collect::<Vec<_>>(),
    }))?;
    Ok(interrupt.exit_code())
}

/// Returns the folder of the crate `ekuiper-sdk` at this path, which may be its
/// checkout's.
fn sdk(path: &Path) -> Option<String> {
    let is_sdk = |folder: &PathBuf| {
        let file: Option<toml::Table> = fs::read_to_string(folder.join("Cargo.toml")).ok()?.parse().ok();
        (file?.get("package")?.get("name")?.as_str()? == "ekuiper-sdk").then_some(())
    };
    let folders = [path.to_owned(), path.join("sdk")].into_iter().filter_map(|folder| folder.canonicalize().ok());
    let mut found = folders.filter(|folder| is_sdk(folder).is_some());
    // What is not UTF-8 cannot be written into a manifest.
    found.next()?.into_os_string().into_string().ok()
}

/// Makes the folder with everything in it, or nothing: beside its place first.
fn make(folder: &Path, files: &[File], interrupt: &Interrupt) -> Result<()> {
    // A link that leads nowhere is there, too.
    if folder.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: folder.to_owned() });
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let missing: Vec<_> = parent.ancestors().take_while(|folder| folder.symlink_metadata().is_err()).collect();
    let made = write_beside(folder, parent, files, interrupt);
    if made.is_err() {
        // Only what is empty, the deepest first.
        missing.into_iter().for_each(|folder| drop(fs::remove_dir(folder)));
    }
    made
}

fn write_beside(folder: &Path, parent: &Path, files: &[File], interrupt: &Interrupt) -> Result<()> {
    let failed = |source| Error::Make { path: folder.to_owned(), source };
    fs::create_dir_all(parent).map_err(|source| Error::Make { path: parent.to_owned(), source })?;
    let beside = tempfile::Builder::new().prefix(".new-").tempdir_in(parent).map_err(failed)?;
    // Within, since only the folder beside is for nobody else to read.
    let whole = beside.path().join("plugin");
    for file in files {
        let path = whole.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(&whole)).map_err(failed)?;
        fs::write(path, &file.content).map_err(failed)?;
    }
    if interrupt.is_set() {
        return Err(Error::Interrupted);
    }
    move_to(&whole, folder).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: folder.to_owned() },
        _ => failed(source),
    })
}

/// Gives a folder another path, where nothing is: an empty folder would be
/// replaced otherwise.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    match rename_new(from, to) {
        // A system or a file system that cannot do that.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        moved => Ok(moved?),
    }
}

#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path) -> rustix::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
}

#[cfg(not(target_os = "linux"))]
fn rename_new(_: &Path, _: &Path) -> rustix::io::Result<()> {
    Err(Errno::NOSYS)
}
