//! `package`: the zip that eKuiper installs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ekuiper_core::description::Description;
use ekuiper_core::manifest::{Language, Manifest};
use ekuiper_core::{Chain, printable};
use ekuiper_host::Package;
use ekuiper_manager::archive::{Contents, Files, is_left_out};
use serde_json::json;

use crate::args::{Common, PackageArguments, PackageOptions};
use crate::check::comparing;
use crate::check::report::Report;
use crate::console;
use crate::error::{Error, Result};
use crate::output;
use crate::plugin_path::{self, Resolved};
use crate::project::{Build, BuildOptions, Project};
use crate::session::end_builds_with_a_signal;
use crate::target::Target;

pub(super) fn run(common: &Common, arguments: &PackageArguments) -> Result<ExitCode> {
    end_builds_with_a_signal()?;
    let made = make(common, &arguments.path, &arguments.options, arguments.output.as_deref())?;
    console::line(format_args!(
        "{}: {} KiB, {} files, {}",
        made.file.display(),
        made.size.div_ceil(1024),
        made.entries.len(),
        made.target.as_deref().unwrap_or("for every processor")
    ));
    output::line(json!({
        "file": made.file, "name": made.name, "version": made.manifest.version, "target": made.target,
        "size": made.size, "entries": made.entries,
    }))?;
    Ok(ExitCode::SUCCESS)
}

/// A package that was written.
pub(crate) struct Made {
    pub(crate) file: PathBuf,
    pub(crate) name: String,
    pub(crate) manifest: Manifest,
    /// The processor and system that its program is for.
    target: Option<String>,
    size: u64,
    entries: Vec<String>,
}

/// Builds the plugin at `path` and writes its package.
pub(crate) fn make(common: &Common, path: &Path, wanted: &PackageOptions, output: Option<&Path>) -> Result<Made> {
    if path.is_file() {
        return Err(Error::IsPackaged { path: path.to_owned() });
    }
    let target = Target::parse(wanted.target.as_deref())?;
    let project = Project::read(path)?;
    if let (None, Some(target)) = (&project, &wanted.target) {
        return Err(Error::NothingToBuild { path: path.to_owned(), target: target.clone() });
    }
    // Refused before anything is built.
    if project.is_some() && !wanted.no_build {
        target.check()?;
    }
    // A program that runs here describes itself: another target's is built
    // beside it.
    let here = if target.runs_here() { &target } else { &Target::Native };
    let options = BuildOptions { debug: false, no_build: wanted.no_build };
    let Resolved { mut package, .. } = plugin_path::resolve_for(path, common, &options, here)?;
    let description = match plugin_path::describe(&package, common) {
        // Its environment may not be on this machine.
        Err(Error::Host(error)) if package.manifest.is_venv() || package.manifest.conda_env().is_some() => {
            console::line(format_args!("the plugin is not asked for its description: {}", Chain(&error)));
            None
        }
        described => described?,
    };
    if let Some(description) = &description {
        compare(path, &package, description)?;
    }
    if let (Some(project), Some(triple), false) = (&project, target.triple(), target.runs_here()) {
        let program = Path::new(&package.manifest.executable).file_name().unwrap_or_default().to_string_lossy();
        let build = Build {
            options,
            target: Some(triple),
            settings: target.settings(),
            program: Some(&program),
            ..Build::default()
        };
        package.program = Some(project.build(&build)?);
    }
    let contents = contents(&package, description.as_ref(), project.is_some(), &wanted.include)?;
    let file = output.map_or_else(|| PathBuf::from(format!("{}.zip", package.name)), Path::to_owned);
    let size = contents.write(&file)?;
    let entries = contents.names().filter(|name| contents.has_file(name)).map(str::to_owned).collect();
    let target = project.is_some().then(|| target.name());
    let file = file.canonicalize().unwrap_or(file);
    Ok(Made { file, name: package.name, manifest: package.manifest, target, size, entries })
}

/// Refuses a manifest that contradicts the plugin's description of itself: an
/// engine would install the package, and could not start its symbols.
fn compare(path: &Path, package: &Package, description: &Description) -> Result<()> {
    let mut report = Report::of(path);
    comparing::check(package, description, &mut report);
    if let Some((finding, more)) = report.first_error() {
        return Err(Error::Unfit { path: path.to_owned(), action: "packaged", finding, more });
    }
    report.warnings(true).for_each(|warning| console::line(format_args!("warning: {warning}")));
    Ok(())
}

/// Collects what the package holds: the manifest, the program, eKuiper's files
/// and, for what is no Cargo project, everything else in the folder.
fn contents(
    package: &Package,
    description: Option<&Description>,
    is_project: bool,
    include: &[PathBuf],
) -> Result<Contents> {
    for doubt in description.map(Description::doubts).unwrap_or_default() {
        console::line(format_args!("{doubt}"));
    }
    let mut contents = Contents::new();
    // First, so that the plugin's own files replace them.
    for file in description.map(Description::engine_files).unwrap_or_default() {
        contents.add_bytes(&file.path, file.content, false)?;
    }
    let files = Files::of(&package.folder);
    if is_project {
        for name in ["sources", "sinks", "functions", "install.sh"] {
            files.add(Path::new(name), &mut contents, &|_| false)?;
        }
    } else {
        files.add(Path::new(""), &mut contents, &|name| is_left_out(name))?;
    }
    for path in include {
        files.add(path, &mut contents, &|_| false)?;
    }
    let executable = &package.manifest.executable;
    let program = package.program.clone().unwrap_or_else(|| package.folder.join(executable));
    if !program.is_file() {
        return Err(Error::NoExecutable { plugin: package.name.clone(), program });
    }
    contents.add_file(executable, program, true)?;
    for source in &package.manifest.sources {
        let name = format!("sources/{source}.yaml");
        if !contents.has_file(&name) {
            console::line(format_args!("{name} is added, empty: eKuiper refuses a plugin without one for each source"));
            contents.add_bytes(&name, "default: {}\n", false)?;
        }
    }
    contents.add_bytes(&format!("{}.json", package.name), manifest(package), false)?;
    Ok(contents)
}

/// The manifest's text, as eKuiper accepts it.
fn manifest(package: &Package) -> String {
    let mut manifest: Manifest = package.manifest.clone();
    if matches!(manifest.language, Language::Rust | Language::Executable) {
        manifest.language = Language::Go;
        console::line(format_args!(
            r#"the package's manifest says "language": "go": eKuiper accepts no other word for a native program"#
        ));
    }
    if manifest.is_venv() {
        console::line(format_args!(
            r#"{}: eKuiper accepts no "virtualEnvType": "venv": its packages must be in the Python that it runs"#,
            printable::excerpt(&package.name)
        ));
    }
    // Encoding text cannot fail.
    let mut text = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    text.push('\n');
    text
}
