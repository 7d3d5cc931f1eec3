//! The plugin at the PATH that a user gives, ready for the host to start.
//!
//! A folder that is a Cargo project is built first, as `cargo run` does, and
//! its program runs in that folder. A zip, the package that eKuiper installs,
//! is unpacked for as long as the command runs. A folder without a manifest is
//! asked for a description, from which the manifest is made.

use std::path::{Path, PathBuf};

use ekuiper_core::description::Description;
use ekuiper_host::Package;
use ekuiper_manager::Unpacked;

use crate::args::Common;
use crate::console;
use crate::describing::{self, Program};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::plugin_name;
use crate::progress::{Progress, grouped};
use crate::project::{Build, BuildOptions, Project};
use crate::target::Target;

/// A plugin that the host can start.
pub(crate) struct Resolved {
    pub(crate) package: Package,
    /// Its folder, if it comes from a zip.
    pub(crate) unpacked: Option<Unpacked>,
}

/// Reads the plugin at PATH. A Cargo project is built first, with the
/// transport's feature if it has one.
pub(crate) fn resolve(path: &Path, common: &Common, options: &BuildOptions) -> Result<Resolved> {
    resolve_for(path, common, options, &Target::Native)
}

/// Reads the plugin at PATH, as [`resolve`]; a Cargo project is built for a
/// target that runs on this machine.
pub(crate) fn resolve_for(path: &Path, common: &Common, options: &BuildOptions, target: &Target) -> Result<Resolved> {
    if path.is_file() {
        return resolve_zip(path);
    }
    let unreadable =
        |source: std::io::Error| ekuiper_host::Error::Folder { path: path.to_owned(), source: source.into() };
    let folder = path.canonicalize().map_err(unreadable)?;
    let manifest = if has_manifest(&folder)? { Some(Package::read(path)?) } else { None };
    let Some(project) = Project::read(&folder)? else {
        let package = manifest.map_or_else(|| describe_script(path, &folder, common), Ok)?;
        return Ok(Resolved { package, unpacked: None });
    };
    let wanted = manifest.as_ref().map(|package| file_name(Path::new(&package.manifest.executable)));
    let build = Build {
        options: options.clone(),
        feature: common.transport.as_deref(),
        target: target.triple(),
        settings: target.settings(),
        program: wanted.as_deref(),
    };
    let program = project.build(&build)?;
    let mut package = match manifest {
        Some(package) => package,
        None => {
            let described = describing::ask(&Program::Native(&program), &folder, common.init_timeout())?;
            described_package(folder, &described.needed(path)?, &file_name(&program))?
        }
    };
    package.program = Some(program);
    Ok(Resolved { package, unpacked: None })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns whether the folder has a manifest, or something that may be one.
fn has_manifest(folder: &Path) -> Result<bool> {
    let mut files = files(folder)?.into_iter();
    Ok(files.any(|path| path.extension().is_some_and(|extension| extension == "json")))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed =
        |source: std::io::Error| ekuiper_host::Error::Folder { path: folder.to_owned(), source: source.into() };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    Ok(entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect::<Result<_, _>>()?)
}

/// The package of a folder with a Python script and no manifest: the script
/// that has the folder's name, as a module's, or the only one.
fn describe_script(given: &Path, folder: &Path, common: &Common) -> Result<Package> {
    let scripts: Vec<_> =
        files(folder)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "py")).collect();
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let stem = |script: &PathBuf| script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let names = [name.to_string(), plugin_name::identifier(&name)];
    let script = match names.iter().find_map(|name| scripts.iter().find(|script| stem(script) == *name)) {
        Some(script) => script,
        None => match scripts.as_slice() {
            [script] => script,
            // Says which manifest is missing.
            _ => return Ok(Package::read(given)?),
        },
    };
    let program = Program::Python { script, interpreter: common.python_bin.as_deref() };
    let described = describing::ask(&program, folder, common.init_timeout())?;
    described_package(folder.to_owned(), &described.needed(given)?, &file_name(script))
}

fn described_package(folder: PathBuf, description: &Description, executable: &str) -> Result<Package> {
    let manifest = description
        .manifest(executable)
        .map_err(|source| Error::Misdescribed { program: folder.join(executable), source: Box::new(source) })?;
    Ok(Package { name: description.name.clone(), folder, manifest, program: None })
}

/// Asks a plugin for its description, as the host would start it; `None` if it
/// gives none.
pub(crate) fn describe(package: &Package, common: &Common) -> Result<Option<Description>> {
    let program = Program::Plugin { package, interpreter: common.python_bin.as_deref() };
    Ok(describing::ask(&program, &package.folder, common.init_timeout())?.description())
}

/// Unpacks a zip; a signal ends that.
///
/// # Errors
/// [`Error::Archive`], [`Error::Interrupted`].
pub(crate) fn unpack(path: &Path) -> Result<Unpacked> {
    let interrupt = Interrupt::watch(|| {}).map_err(Error::Signals)?;
    let mut progress = Progress::start();
    let unpacked = Unpacked::new(path, |bytes| {
        progress.update(|_| format!("unpacking {}: {} KiB", path.display(), grouped(bytes >> 10)));
        !interrupt.is_set()
    });
    drop(progress);
    if interrupt.is_set() { Err(Error::Interrupted) } else { Ok(unpacked?) }
}

/// Reads the plugin in a zip.
fn resolve_zip(path: &Path) -> Result<Resolved> {
    let unpacked = unpack(path)?;
    let package = Package::read(unpacked.folder())?;
    if package.folder.join("install.sh").is_file() {
        console::tell(format_args!(
            "{} has an install.sh, which eKuiper runs when it installs the plugin, and this command does not",
            package.name
        ));
    }
    Ok(Resolved { package, unpacked: Some(unpacked) })
}
