//! The proofs on real processes: `cargo xtask chaos`, `cargo xtask soak`.

use std::process::Command;

use crate::Result;
use crate::process::{cargo, execute, root};
use crate::{python, tools};

/// Sets up, builds the proofs and their plugin, and runs one. They are built
/// for release: that is what their figures are about.
pub(crate) fn run(proof: &str, arguments: &[String]) -> Result<()> {
    let tools = tools::set_up()?;
    let mut build = cargo();
    build.args(["build", "--release", "--package", "chaos"]);
    if cfg!(target_os = "linux") {
        build.args(["--features", "shm"]);
    }
    execute(tools.for_command(&mut build))?;
    if proof == "soak" && !python::environment().join("bin/python").exists() {
        python::install(&tools)?;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    execute(Command::new(target.join("release/chaos")).arg(proof).args(arguments).current_dir(root()))
}
