//! Packages of the plugin `mirror` as zips, in any version, a kilobyte each.

use std::path::{Path, PathBuf};

use ekuiper_manager::archive::{Archive, Contents, Limits};
use serde_json::{Value, json};

use crate::tools;

/// Contents of a package whose program is a script that executes the built
/// plugin.
///
/// # Panics
/// The plugin cannot be built.
pub fn mirror(version: &str) -> Contents {
    with_program(version, &script("", tools::mirror()))
}

/// A script that executes a program after some commands.
pub fn script(before: &str, program: &Path) -> String {
    format!("#!/bin/sh\n{before}\nexec '{}' \"$@\"\n", program.display())
}

/// Contents of a package of `mirror` with another program.
///
/// # Panics
/// Never: the names can be those of entries.
pub fn with_program(version: &str, program: &str) -> Contents {
    let mut contents = Contents::new();
    contents.add_bytes("mirror.json", manifest(version).to_string(), false).unwrap();
    contents.add_bytes("mirror", program, true).unwrap();
    contents.add_bytes("sources/random.yaml", "default:\n  interval: 10\n", false).unwrap();
    contents
}

/// The manifest of `mirror` with another version.
pub fn manifest(version: &str) -> Value {
    json!({
        "version": version, "language": "go", "executable": "mirror",
        "sources": ["random"], "sinks": ["file", "lines"], "functions": ["echo", "revert", "average"],
    })
}

/// Writes a package into a folder; returns its path.
///
/// # Panics
/// It cannot be written.
pub fn write(contents: &Contents, folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    contents.write(&path).unwrap();
    path
}

/// Makes a plugin's folder; returns its path.
///
/// # Panics
/// It cannot be made.
pub fn folder(contents: &Contents, parent: &Path, name: &str) -> PathBuf {
    let zip = write(contents, parent, &format!("{name}.packed"));
    let folder = parent.join(name);
    Archive::open(&zip, Limits::default()).unwrap().unpack(&folder, |_| true).unwrap();
    folder
}
