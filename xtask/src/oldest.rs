//! The oldest Rust that the crates promise.

use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::process::{execute, execute_within, exists, output, root};
use crate::tools::Tools;

/// Maximum time to install the oldest toolchain.
const PATIENCE: Duration = Duration::from_secs(300);

/// Checks the crates with the oldest toolchain that they promise.
pub(crate) fn check(tools: &mut Tools) -> Result<()> {
    let manifest = root().join("Cargo.toml");
    let text =
        std::fs::read_to_string(&manifest).map_err(|error| format!("cannot read {}: {error}", manifest.display()))?;
    let oldest = text.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'));
    let oldest = oldest.ok_or("Cargo.toml has no rust-version")?;
    if !exists("rustup") {
        tools.note(format!("the check with Rust {oldest}: rustup was not found"));
        return Ok(());
    }
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(["run", oldest, "cargo"]).args(arguments).current_dir(root()).env_remove("RUSTC");
        command
    };
    if output(&mut cargo(&["--version"])).is_err() {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", oldest, "--profile", "minimal"]);
        if let Err(reason) = execute_within(&mut install, PATIENCE) {
            tools.note(format!("the check with Rust {oldest}: {reason}"));
            return Ok(());
        }
    }
    let mut check = cargo(&["check", "--workspace", "--all-features", "--target-dir"]);
    execute(tools.for_command(check.arg(root().join("target/oldest"))))
}
