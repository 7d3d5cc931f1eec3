//! The plugin at the PATH that a user gives, ready for the host to start.
//!
//! A folder that is a Cargo project is built first, as `cargo run` does, and
//! its program runs in that folder. A zip, the package that eKuiper installs,
//! is unpacked for as long as the command runs.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ekuiper_host::{GuardedProcess, Package};
use ekuiper_manager::Unpacked;
use serde_json::Value;

use crate::console;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::progress::{Progress, grouped};

/// A plugin that the host can start.
pub(crate) struct Resolved {
    pub(crate) package: Package,
    /// Its folder, if it comes from a zip.
    pub(crate) unpacked: Option<Unpacked>,
}

/// Reads the plugin at PATH. A Cargo project is built first, with the
/// transport's feature if it has one.
pub(crate) fn resolve(path: &Path, transport: Option<&str>) -> Result<Resolved> {
    if path.is_file() {
        return unpack(path);
    }
    let mut package = Package::read(path)?;
    let project = package.folder.join("Cargo.toml");
    if project.is_file() {
        let failed = |source| Error::Read { path: project.clone(), source };
        let bytes = std::fs::read(&project).map_err(failed)?;
        // cargo reports what is wrong with the file.
        let text = ekuiper_core::text::decode(&bytes).unwrap_or_default();
        let feature = transport.filter(|name| has_feature(text, name));
        package.program = Some(build(&package, feature)?);
    }
    Ok(Resolved { package, unpacked: None })
}

/// Unpacks a zip; a signal ends that.
fn unpack(path: &Path) -> Result<Resolved> {
    let interrupt = Interrupt::watch(|| {}).map_err(Error::Signals)?;
    let mut progress = Progress::start();
    let unpacked = Unpacked::new(path, |bytes| {
        progress.update(|_| format!("unpacking {}: {} KiB", path.display(), grouped(bytes >> 10)));
        !interrupt.is_set()
    });
    drop(progress);
    if interrupt.is_set() {
        return Err(Error::Interrupted);
    }
    let unpacked = unpacked?;
    let package = Package::read(unpacked.folder())?;
    if package.folder.join("install.sh").is_file() {
        let name = &package.name;
        console::tell(format_args!(
            "{name} has an install.sh, which eKuiper runs when it installs the plugin, and this command does not"
        ));
    }
    Ok(Resolved { package, unpacked: Some(unpacked) })
}

fn has_feature(project: &str, name: &str) -> bool {
    // cargo reports what is wrong with the file.
    let project: toml::Table = project.parse().unwrap_or_default();
    project.get("features").and_then(|features| features.get(name)).is_some()
}

/// Builds a Cargo project, and returns the program that its manifest names.
fn build(package: &Package, feature: Option<&str>) -> Result<PathBuf> {
    let failed = |source| Error::Cargo { path: package.folder.clone(), source };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut arguments = vec!["build", "--release", "--quiet", "--message-format=json-render-diagnostics"];
    arguments.extend(feature.into_iter().flat_map(|feature| ["--features", feature]));
    let arguments: Vec<_> = arguments.into_iter().map(OsString::from).collect();
    console::line(format_args!("building {} …", package.name));
    let (output, input) = std::io::pipe().map_err(failed)?;
    let messages = std::io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
    let child =
        GuardedProcess::start(Path::new(&cargo), &arguments, &package.folder, input, messages).map_err(failed)?;
    let wanted = Path::new(&package.manifest.executable).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut artifact = None;
    for line in std::io::BufReader::new(output).lines() {
        let line = line.map_err(failed)?;
        let message: Value = serde_json::from_str(&line).unwrap_or_default();
        let is_wanted = message["reason"] == "compiler-artifact" && message["target"]["name"] == wanted.as_str();
        if let (true, Some(path)) = (is_wanted, message["executable"].as_str()) {
            artifact = Some(PathBuf::from(path));
        }
    }
    if !child.wait().map_err(failed)?.success() {
        return Err(Error::Build { path: package.folder.clone() });
    }
    artifact.ok_or_else(|| Error::NoArtifact { path: package.folder.clone(), wanted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_is_asked_for_only_where_there_is_a_feature_of_its_name() {
        let project = "[package]\nname = 'x'\n[features]\ndefault = ['uds']\nuds = []\nnng = []\n";
        assert!(has_feature(project, "nng"));
        assert!(!has_feature(project, "zeromq"));
        assert!(!has_feature("[package]\nname = 'x'\n", "nng"));
        assert!(!has_feature("not toml", "nng"));
    }
}
