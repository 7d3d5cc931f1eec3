//! The tools that link programs of other targets: zig, and the cargo command
//! around it, in `.tools/cross`.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::library::{self, Library};
use crate::Result;
use crate::process::{execute_within, exists, path_with, root};
use crate::tools::Environment;

/// What is installed.
const REQUIREMENTS: &str = "xtask/cross-requirements.txt";

/// Maximum time to install it: 100 MB, from a registry that may be slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// The tools, set up.
pub(crate) struct Toolchain {
    folder: PathBuf,
}

impl Toolchain {
    /// Installs what is not there yet.
    pub(crate) fn set_up() -> Result<Self> {
        let environment = Environment { folder: root().join(".tools/cross"), requirements: &[REQUIREMENTS] };
        if !environment.is_current()? && !exists("rustup") {
            return Err("rustup was not found, which installs Rust's library for other targets".into());
        }
        environment.set_up(|command| execute_within(command, PATIENCE))?;
        Ok(Self { folder: environment.folder })
    }

    /// Rust's library for a target.
    pub(crate) fn library(&self, triple: &str) -> Result<Library> {
        library::find(triple, &self.folder)
    }

    /// A program of what is installed.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// Makes `command` find zig, and Rust's library for its target.
    pub(crate) fn for_command<'a>(&self, command: &'a mut Command, library: &Library) -> &'a mut Command {
        command.current_dir(root()).env("PATH", path_with(self.folder.join("bin")));
        // Both are in the user's home folder otherwise.
        command.env("CARGO_ZIGBUILD_CACHE_DIR", self.folder.join("cache"));
        command.env("ZIG_GLOBAL_CACHE_DIR", self.folder.join("zig-cache"));
        library.for_command(command);
        command
    }

    /// A command of cargo's that links for a target, by zig's name of it.
    pub(super) fn cargo(&self, command: &str, target: &str, library: &Library) -> Command {
        let mut cargo = Command::new(self.program("cargo-zigbuild"));
        cargo.args([command, "--target", target]).env("CARGO_PROFILE_DEV_DEBUG", "0");
        self.for_command(&mut cargo, library);
        cargo
    }
}
