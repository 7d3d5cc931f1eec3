//! Checking a plugin before it is shipped: what eKuiper would refuse, what would
//! not run where it is installed, and what fails when it is tried.
//!
//! Each module checks one part and writes into the [`report`]; an `Err` is only
//! what keeps the command itself from working.

mod archive;
pub(crate) mod comparing;
mod engine_files;
mod executable;
mod file;
mod images;
mod install;
mod leftovers;
mod manifest;
mod names;
mod program;
pub(crate) mod report;
mod samples;
mod trial;

use std::path::Path;
use std::time::Duration;

use ekuiper_core::Chain;
use ekuiper_core::description::Description;
use ekuiper_core::message::SymbolKind;
use ekuiper_host::{Error as HostError, Package};
use ekuiper_manager::archive::{Contents, Files, is_left_out};
use ekuiper_manager::{Scratch, Unpacked};

use crate::args::{CheckArguments, Common};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::plugin_path::{self, Resolved};
use crate::project::Project;
use crate::session::Session;
use report::{Area, Report};
use trial::Wanted;

/// Maximum time to ask a program for its description: it may be one that does
/// not know the question.
const DESCRIBE: Duration = Duration::from_secs(10);

/// Maximum times of a sink's end: there are two rows to collect.
const DRAIN: Duration = Duration::from_secs(10);
const DRAIN_STALL: Duration = Duration::from_secs(5);

/// A number of symbols, in words.
fn counted_symbols(kind: SymbolKind, count: usize) -> String {
    crate::progress::counted(count as u64, &kind.to_string())
}

/// Checks the plugin.
///
/// # Errors
/// It cannot be read or built, or a signal came.
pub(crate) fn check(common: &Common, arguments: &CheckArguments, report: &mut Report) -> Result<()> {
    let interrupt = Interrupt::watch(|| {}).map_err(Error::Signals)?;
    let checked = if arguments.path.is_file() {
        check_zip(common, arguments, &interrupt, report)
    } else {
        check_folder(common, arguments, &interrupt, report)
    };
    if interrupt.is_set() { Err(Error::Interrupted) } else { checked }
}

/// Looks at the files of a zip, as a check that starts nothing. Returns the
/// package and the processor that its program is built for, if it is for one;
/// `None` if that cannot be read, which is reported.
///
/// # Errors
/// The zip cannot be read, or a signal came.
pub(crate) fn check_files(
    path: &Path,
    interrupt: &Interrupt,
    report: &mut Report,
) -> Result<Option<(Package, Option<&'static str>)>> {
    let Some(zip) = archive::open(path, report)? else { return Ok(None) };
    let Some(package) = manifest_of(Package::read(zip.unpacked.folder()), report)? else { return Ok(None) };
    zip.check(&package.manifest, report);
    manifest::check(&package, report);
    executable::check(&package, false, report);
    install::check(&package.folder, interrupt, report);
    engine_files::check(&package, None, report);
    let processor = executable::processor(&package);
    if interrupt.is_set() { Err(Error::Interrupted) } else { Ok(Some((package, processor))) }
}

fn check_zip(common: &Common, arguments: &CheckArguments, interrupt: &Interrupt, report: &mut Report) -> Result<()> {
    let Some(zip) = archive::open(&arguments.path, report)? else { return Ok(()) };
    report.set_plugin(&zip.plugin, "");
    let Some(package) = manifest_of(Package::read(zip.unpacked.folder()), report)? else { return Ok(()) };
    zip.check(&package.manifest, report);
    let resolved = Resolved { package, unpacked: Some(zip.unpacked) };
    check_plugin(common, arguments, resolved, false, interrupt, report)
}

fn check_folder(common: &Common, arguments: &CheckArguments, interrupt: &Interrupt, report: &mut Report) -> Result<()> {
    let is_project = Project::read(&arguments.path)?.is_some();
    let resolved = plugin_path::resolve(&arguments.path, common, &arguments.build);
    let Some(mut resolved) = refused(resolved, report)? else { return Ok(()) };
    if arguments.install && resolved.package.folder.join("install.sh").is_file() {
        // What it changes must not be the author's own folder.
        let scratch = copy(&resolved.package)?;
        resolved.package.folder = scratch.folder().to_owned();
        resolved.unpacked = Some(scratch);
    }
    check_plugin(common, arguments, resolved, is_project, interrupt, report)
}

/// Copies a plugin's folder, as a package of it would have it.
fn copy(package: &Package) -> Result<Unpacked> {
    let mut contents = Contents::new();
    Files::of(&package.folder).add(Path::new(""), &mut contents, &|name| is_left_out(name))?;
    let manifest = serde_json::to_string(&package.manifest).unwrap_or_default();
    contents.add_bytes(&format!("{}.json", package.name), manifest, false)?;
    let scratch = Scratch::new("check")?;
    let zip = scratch.path().join("package.zip");
    contents.write(&zip)?;
    Ok(Unpacked::new(&zip, |_| true)?)
}

/// Takes what is wrong with a manifest for a finding.
fn refused<T>(read: Result<T>, report: &mut Report) -> Result<Option<T>> {
    match read {
        Err(Error::Host(error)) => manifest_of(Err(error), report),
        Err(error @ (Error::Misdescribed { .. } | Error::Undescribed { .. } | Error::NoArtifact { .. })) => {
            report.error(Area::Manifest, "", Chain(&error).to_string(), "");
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn manifest_of<T>(read: ekuiper_host::Result<T>, report: &mut Report) -> Result<Option<T>> {
    match read {
        Err(error @ (HostError::Manifest { .. } | HostError::NoManifest { .. })) => {
            report.error(Area::Manifest, "", Chain(&error).to_string(), "");
            Ok(None)
        }
        other => Ok(Some(other?)),
    }
}

fn check_plugin(
    common: &Common,
    arguments: &CheckArguments,
    resolved: Resolved,
    is_project: bool,
    interrupt: &Interrupt,
    report: &mut Report,
) -> Result<()> {
    let package = &resolved.package;
    let is_zip = arguments.path.is_file();
    report.set_plugin(&package.name, &package.manifest.version);
    manifest::check(package, report);
    let before = report.problems();
    let elsewhere = executable::check(package, is_project, report);
    let has_program = before == report.problems() || !report.has_errors();
    install::check(&package.folder, interrupt, report);
    if arguments.install {
        install::run(&package.folder, interrupt, report);
    }
    let is_started = has_program && !arguments.no_start && !interrupt.is_set();
    let description = if is_started { describe(package, common, report)? } else { None };
    executable::check_python_images(package, description.as_ref(), report);
    engine_files::check(package, description.as_ref().filter(|_| !is_zip), report);
    let mut can_start = is_started;
    if let Some(description) = &description {
        can_start &= comparing::check(package, description, report);
    } else if is_started && elsewhere.is_none() {
        let text =
            "gives no description of itself, as a plugin on an official SDK: the manifest was not compared with it";
        report.note(Area::Start, &package.name, text, "");
    }
    if arguments.no_start {
        report.fact(Area::Start, "not started (--no-start)");
    }
    if !can_start || interrupt.is_set() {
        return Ok(());
    }
    let wanted = Wanted { try_for: arguments.try_for, configs: arguments.configs()?, elsewhere };
    let common = Common {
        drain_timeout: Some(common.drain_timeout().min(DRAIN)),
        drain_stall: Some(common.drain_stall().min(DRAIN_STALL)),
        ..common.clone()
    };
    let package = package.clone();
    let session = Session::with(&common, vec![resolved])?;
    trial::run(&session, &package, description.as_ref(), &wanted, report);
    Ok(())
}

/// Asks the program for its description; what it answers wrongly is reported.
fn describe(package: &Package, common: &Common, report: &mut Report) -> Result<Option<Description>> {
    let common = Common { init_timeout: Some(common.init_timeout().min(DESCRIBE)), ..common.clone() };
    match plugin_path::describe(package, &common) {
        Err(error @ Error::Misdescribed { .. }) => {
            report.error(Area::Start, "--describe", Chain(&error).to_string(), "");
            Ok(None)
        }
        // The start says why.
        Err(Error::Host(_) | Error::Describe { .. } | Error::NoDescription { .. }) => Ok(None),
        described => described,
    }
}
