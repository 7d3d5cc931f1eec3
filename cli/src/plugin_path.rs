//! The plugin at the PATH that a user gives, ready for the host to start.
//!
//! A folder that is a Cargo project is built first, as `cargo run` does, and
//! its program runs in that folder.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ekuiper_host::{GuardedProcess, Package};
use serde_json::Value;

use crate::console;
use crate::error::{Error, Result};

/// Reads the plugin at PATH. A Cargo project is built first, with the
/// transport's feature if it has one.
pub(crate) fn resolve(path: &Path, transport: Option<&str>) -> Result<Package> {
    if path.is_file() {
        return Err(Error::NotAFolder { path: path.to_owned() });
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
    Ok(package)
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
