//! The wheel of the module `ekuiper`: built, installed into an environment of
//! its own, tested.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::{execute, root};
use crate::tools::{self, Tools};

/// Sets up, builds the wheel and runs its tests.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let tools = tools::set_up()?;
    install(&tools)?;
    test(arguments)?;
    tools.report_skipped();
    Ok(())
}

/// The environment that has the wheel, and what its tests need.
pub(crate) fn environment() -> PathBuf {
    root().join("target/python")
}

/// A command of its Python.
pub(crate) fn in_environment(arguments: &[&str]) -> Command {
    let mut command = Command::new(environment().join("bin/python"));
    command.args(arguments).current_dir(root()).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    command
}

/// Builds the wheel and installs it into an empty environment; what it needs is
/// complete, and no libnng is there.
pub(crate) fn install(tools: &Tools) -> Result<()> {
    let (environment, wheels) = (environment(), root().join("target/wheels"));
    // An older wheel of the same version would be as good a match.
    let _ = std::fs::remove_dir_all(&wheels);
    execute(tools.for_command(&mut maturin(tools, &["build", "--release"], &wheels)))?;
    let wheel = only_file(&wheels)?;
    execute(Command::new(tools.python_bin()).args(["-m", "venv", "--clear"]).arg(&environment))?;
    execute(in_environment(&["-m", "pip", "install", "--quiet", "--no-index"]).arg(wheel))?;
    // Not a word of it into a report that somebody keeps.
    execute(in_environment(&["-m", "pip", "check"]).stdout(std::io::stderr()))?;
    let alone = "import sys, ekuiper; assert not {'nng', 'pynng'} & sys.modules.keys()";
    execute(&mut in_environment(&["-c", alone]))?;
    execute(&mut in_environment(&["-m", "pip", "install", "--quiet", "-r", "python/tests/requirements.txt"]))
}

/// A command of maturin's that puts what it makes into a folder.
pub(crate) fn maturin(tools: &Tools, arguments: &[&str], out: &Path) -> Command {
    let mut maturin = Command::new(tools.python_bin());
    maturin.args(["-m", "maturin"]).args(arguments).args(["--manifest-path", "python/Cargo.toml", "--out"]).arg(out);
    maturin.current_dir(root());
    maturin
}

/// Runs the tests in Python, or those that are named.
pub(crate) fn test(arguments: &[String]) -> Result<()> {
    let python = environment().join("bin/python");
    let mut pytest = Command::new(&python);
    pytest.args(["-m", "pytest", "-p", "no:cacheprovider", "--basetemp"]).arg(root().join("target/pytest"));
    pytest.args(arguments);
    execute(pytest.current_dir(root().join("python/tests")).env("PYTHONDONTWRITEBYTECODE", "1"))
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => Err(format!("there is not one file in {}", folder.display())),
    }
}
