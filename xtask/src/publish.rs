//! The packages of the crates that are published.

use std::path::PathBuf;

use crate::Result;
use crate::process::{cargo, display, execute, root};
use crate::tools::Tools;

/// What cargo always says at the end of a rehearsal.
const REHEARSAL: &str = "aborting upload due to dry run";

/// A crate's package.
pub(crate) struct Package {
    pub(crate) name: String,
    version: String,
}

impl Package {
    /// The name of the package's file.
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{}.crate", self.name, self.version)
    }
}

/// Makes the packages as `cargo publish` does, without uploading them, in the
/// order in which they are to be published. `is_built`: each is unpacked and
/// built from what is in it.
///
/// # Errors
/// Cargo fails or warns, which a user of the crate would have to live with.
pub(crate) fn packages(is_built: bool, tools: &Tools) -> Result<Vec<Package>> {
    if is_built {
        forget_former_packages()?;
    }
    let mut publish = cargo();
    publish.args(["publish", "--workspace", "--dry-run", "--allow-dirty", "--color", "never"]);
    if !is_built {
        publish.arg("--no-verify");
    }
    let text = display(&publish);
    eprintln!("xtask: {text}");
    let output = tools.for_command(&mut publish).output().map_err(|error| format!("cannot run {text}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("failed ({}): {text}\n{said}", output.status));
    }
    if let Some(warning) = said.lines().find(|line| line.starts_with("warning:") && !line.ends_with(REHEARSAL)) {
        return Err(format!("{text}: {warning}\n{said}"));
    }
    let uploads = said.lines().filter_map(|line| line.trim_start().strip_prefix("Uploading "));
    let packages = uploads.filter_map(|upload| {
        let (name, rest) = upload.split_once(" v")?;
        Some(Package { name: name.to_owned(), version: rest.split(' ').next()?.to_owned() })
    });
    let packages: Vec<Package> = packages.collect();
    if packages.is_empty() { Err(format!("{text} has made no package:\n{said}")) } else { Ok(packages) }
}

/// Removes what cargo has unpacked for a former rehearsal: it does not notice
/// that packages of the same version have changed, and would build them against
/// former ones.
fn forget_former_packages() -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let Some(home) = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))) else { return Ok(()) };
    let registries = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    // Of a registry in a folder, the name has no host.
    for registry in registries.filter(|registry| registry.file_name().as_encoded_bytes().starts_with(b"-")) {
        for package in std::fs::read_dir(registry.path()).into_iter().flatten().flatten() {
            if package.file_name().as_encoded_bytes().starts_with(b"ekuiper-") {
                let path = package.path();
                std::fs::remove_dir_all(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Writes the packages' files, and returns their folder.
pub(crate) fn files(packages: &[Package]) -> Result<PathBuf> {
    let mut package = cargo();
    package.args(["package", "--quiet", "--no-verify", "--allow-dirty"]);
    for crate_ in packages {
        package.args(["--package", &crate_.name]);
    }
    execute(&mut package)?;
    Ok(root().join("target/package"))
}
