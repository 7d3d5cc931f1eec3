//! From the PATH that a user gives to a folder that the host can start.
//!
//! A folder that is a Cargo project is built first, as `cargo run` does, and
//! runs from a staged folder beside the build's other products.

use std::io::BufRead;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ekuiper_host::Package;
use serde_json::Value;

use crate::error::{Error, Result};

/// A plugin's folder, ready to be started; what was staged goes when it is
/// dropped.
#[derive(Debug)]
pub(crate) struct PluginPath {
    folder: PathBuf,
    _staged: Option<tempfile::TempDir>,
}

impl PluginPath {
    /// Resolves PATH, building it if it is a Cargo project.
    pub(crate) fn resolve(path: &Path, features: &[&str]) -> Result<Self> {
        if !path.join("Cargo.toml").is_file() {
            return Ok(Self { folder: path.to_owned(), _staged: None });
        }
        let package = Package::read(path)?;
        let executable = &package.manifest.executable;
        let artifact = build(&package, features)?;
        // The folder as it would be installed: everything in it, and the
        // executable where its manifest says.
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let staged = tempfile::Builder::new().prefix("ekuiper-plugin-").tempdir().map_err(failed)?;
        let folder = staged.path().join(&package.name);
        std::fs::create_dir(&folder).map_err(failed)?;
        for entry in std::fs::read_dir(&package.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() != executable.as_str() {
                symlink(entry.path(), folder.join(entry.file_name())).map_err(failed)?;
            }
        }
        let target = folder.join(executable);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        symlink(artifact, target).map_err(failed)?;
        Ok(Self { folder, _staged: Some(staged) })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Builds a Cargo project and returns the program that its manifest names.
fn build(package: &Package, features: &[&str]) -> Result<PathBuf> {
    let failed = |source| Error::Cargo { path: package.folder.clone(), source };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "--quiet", "--message-format=json-render-diagnostics"])
        .current_dir(&package.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for feature in features {
        command.args(["--features", feature]);
    }
    eprintln!("building {} …", package.name);
    let mut child = command.spawn().map_err(failed)?;
    let wanted = Path::new(&package.manifest.executable).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut artifact = None;
    if let Some(output) = child.stdout.take() {
        for line in std::io::BufReader::new(output).lines() {
            let line = line.map_err(failed)?;
            let message: Value = serde_json::from_str(&line).unwrap_or_default();
            let is_wanted = message["reason"] == "compiler-artifact" && message["target"]["name"] == wanted.as_str();
            if let (true, Some(path)) = (is_wanted, message["executable"].as_str()) {
                artifact = Some(PathBuf::from(path));
            }
        }
    }
    if !child.wait().map_err(failed)?.success() {
        return Err(Error::Build { path: package.folder.clone() });
    }
    artifact.ok_or_else(|| Error::NoArtifact { path: package.folder.clone(), wanted })
}
