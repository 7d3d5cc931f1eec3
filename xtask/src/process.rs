//! Running programs, and saying what runs.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

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
    execute_as(&text, command)
}

/// Shows this text for a command, and runs it.
pub(crate) fn execute_as(text: &str, command: &mut Command) -> Result<()> {
    eprintln!("xtask: {text}");
    let status = command.status().map_err(|error| format!("cannot run {text}: {error}"))?;
    succeeded(status, text)
}

fn succeeded(status: ExitStatus, text: &str) -> Result<()> {
    if status.success() { Ok(()) } else { Err(format!("failed ({status}): {text}")) }
}

/// The same, for a command that must end in time, as one that waits for a
/// network may not.
pub(crate) fn execute_within(command: &mut Command, patience: Duration) -> Result<()> {
    let text = display(command);
    eprintln!("xtask: {text}");
    let failed = |error| format!("cannot run {text}: {error}");
    let mut child = command.spawn().map_err(failed)?;
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => return succeeded(status, &text),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not end in {} s: {text}", patience.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
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
    find(program).is_some()
}

/// The program of this name that would be run.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&path()).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Where programs are looked for, with a folder that comes first.
pub(crate) fn path_with(first: PathBuf) -> OsString {
    let mut whole = OsString::from(first);
    whole.push(":");
    whole.push(path());
    whole
}

fn path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// A command's words, with paths as seen from the checkout.
pub(crate) fn display(command: &Command) -> String {
    let root = root();
    let word = |word: &OsStr| {
        let path = Path::new(word);
        path.strip_prefix(&root).unwrap_or(path).display().to_string()
    };
    let words = command.get_args().map(word);
    words.fold(word(command.get_program()), |text, word| format!("{text} {word}"))
}
