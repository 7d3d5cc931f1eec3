//! Running programs, and saying what runs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Shows a command and runs it.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let text = display(command);
    eprintln!("xtask: {text}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("failed ({status}): {text}")),
        Err(error) => Err(format!("cannot run {text}: {error}")),
    }
}

/// What a command prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let text = display(command);
    let output = command.output().map_err(|error| format!("cannot run {text}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("failed ({}): {text}\n{}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

/// Whether there is a program of this name.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn display(command: &Command) -> String {
    let root = root();
    let word = |word: &OsStr| {
        let path = Path::new(word);
        path.strip_prefix(&root).unwrap_or(path).display().to_string()
    };
    let words = command.get_args().map(word);
    words.fold(word(command.get_program()), |text, word| format!("{text} {word}"))
}
