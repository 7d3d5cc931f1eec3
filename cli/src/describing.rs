//! Asking a plugin's program to describe itself, without starting the plugin.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ekuiper_core::description::{DESCRIBE, Description};
use ekuiper_core::printable;
use ekuiper_host::{GuardedProcess, Package, default_python};

use crate::error::{Error, Result, excerpt};
use crate::interrupt::Interrupt;
use crate::program_output::{self, ReadUntil};

/// Maximum length of a description, in bytes.
const LONGEST: u64 = 16 << 20;

/// Length of the end of stderr that is looked at, in bytes.
const TAIL: u64 = 4 << 10;

/// A program that may describe itself.
pub(crate) enum Program<'a> {
    /// A native executable.
    Native(&'a Path),
    /// A script, and the interpreter that the user has named.
    Python { script: &'a Path, interpreter: Option<&'a str> },
    /// The program of a plugin with a manifest, which may name an environment,
    /// and the interpreter that the user has named.
    Plugin { package: &'a Package, interpreter: Option<&'a str> },
}

/// What a program says when it is asked.
pub(crate) enum Answer {
    Description(Box<Description>),
    /// No description, as none on an official SDK has one; the last line of
    /// stderr, if the program has failed.
    Nothing {
        failure: Option<String>,
    },
}

impl Answer {
    /// Returns the description, if there is one.
    pub(crate) fn description(self) -> Option<Description> {
        match self {
            Self::Description(description) => Some(*description),
            Self::Nothing { .. } => None,
        }
    }

    /// Returns the description of the plugin at `path`, which has nothing else
    /// that says what is in it.
    pub(crate) fn needed(self, path: &Path) -> Result<Description> {
        match self {
            Self::Description(description) => Ok(*description),
            Self::Nothing { failure } => Err(Error::Undescribed { path: path.to_owned(), failure }),
        }
    }
}

/// Asks the program, which gets `patience` for its answer.
///
/// # Errors
/// The program cannot be started, or does not end.
pub(crate) fn ask(program: &Program<'_>, folder: &Path, patience: Duration) -> Result<Answer> {
    let path = match program {
        Program::Native(path) => path.to_path_buf(),
        Program::Python { script, .. } => script.to_path_buf(),
        Program::Plugin { package, .. } => package.folder.join(&package.manifest.executable),
    };
    let failed = |source| Error::Describe { program: path.clone(), source };
    let (mut output, input) = std::io::pipe().map_err(failed)?;
    // A file, which nothing has to drain.
    let mut messages =
        tempfile::tempfile().map_err(|source| Error::Temporary { folder: std::env::temp_dir(), source })?;
    let messages_of_child = messages.try_clone().map_err(failed)?;
    let child = match program {
        Program::Plugin { package, interpreter } => {
            let is_cancelled = || Interrupt::current().is_some_and(|interrupt| interrupt.is_set());
            GuardedProcess::start_plugin(package, *interpreter, DESCRIBE, &is_cancelled, input, messages_of_child)?
        }
        Program::Native(path) => start(path, &[], folder, input, messages_of_child).map_err(failed)?,
        Program::Python { script, interpreter } => {
            let interpreter = interpreter.map(PathBuf::from).or_else(default_python);
            let interpreter = interpreter.unwrap_or_else(|| "python3".into());
            start(&interpreter, &[script], folder, input, messages_of_child).map_err(failed)?
        }
    };
    let deadline = Instant::now().checked_add(patience);
    let mut text = Vec::new();
    let interrupt = Interrupt::current();
    let end = program_output::read(&mut output, deadline, interrupt.as_ref(), |piece| {
        text.extend_from_slice(piece);
        text.len() as u64 <= LONGEST
    });
    match end.map_err(failed)? {
        ReadUntil::End => {}
        ReadUntil::Enough => return Ok(Answer::Nothing { failure: None }),
        ReadUntil::CutOff if interrupt.is_some_and(|interrupt| interrupt.is_set()) => return Err(Error::Interrupted),
        ReadUntil::CutOff => return Err(Error::NoDescription { program: path.clone(), after: patience }),
    }
    // It has closed its output, and whatever it still does is of no interest.
    drop(child);
    let line = text.split(|byte| *byte == b'\n').rev().find(|line| !line.is_empty());
    if let Some(line) = line.filter(|line| line.starts_with(b"{\"format\":")) {
        let description = Description::decode(line);
        return description
            .map(|description| Answer::Description(Box::new(description)))
            .map_err(|source| Error::Misdescribed { program: path.clone(), source: Box::new(source) });
    }
    Ok(Answer::Nothing { failure: failure(&mut messages).map_err(failed)? })
}

/// Returns the last line of what a program has written, if there is one, and
/// the place that Python names before it.
fn failure(file: &mut File) -> std::io::Result<Option<String>> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(text.trim_ascii_end());
    let mut lines = text.lines().rev();
    let Some(last) = lines.next() else { return Ok(None) };
    let place = lines.find_map(|line| {
        let (file, rest) = line.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
        let number = rest.split(',').next()?;
        Some(format!(" (line {number} of {})", Path::new(file).file_name()?.to_string_lossy()))
    });
    Ok(Some(excerpt(last.as_bytes(), 0) + &printable::excerpt(&place.unwrap_or_default())))
}

fn start(
    program: &Path,
    arguments: &[&Path],
    folder: &Path,
    output: std::io::PipeWriter,
    messages: File,
) -> std::io::Result<GuardedProcess> {
    let arguments = arguments.iter().map(OsString::from).chain([DESCRIBE.into()]);
    GuardedProcess::start(program, &arguments.collect::<Vec<_>>(), folder, output, messages)
}
