//! Asking a plugin's program to describe itself, without starting the plugin.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ekuiper_core::description::{DESCRIBE, Description};
use ekuiper_host::{GuardedProcess, default_python};

use crate::error::{Error, Result, excerpt};
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
        Program::Native(path) => path,
        Program::Python { script, .. } => script,
    };
    let failed = |source| Error::Describe { program: path.to_path_buf(), source };
    let (mut output, input) = std::io::pipe().map_err(failed)?;
    // A file, which nothing has to drain.
    let mut messages = tempfile::tempfile().map_err(failed)?;
    let child = start(program, folder, input, messages.try_clone().map_err(failed)?).map_err(failed)?;
    let deadline = Instant::now().checked_add(patience);
    let mut text = Vec::new();
    let end = program_output::read(&mut output, deadline, None, |piece| {
        text.extend_from_slice(piece);
        text.len() as u64 <= LONGEST
    });
    match end.map_err(failed)? {
        ReadUntil::End => {}
        ReadUntil::Enough => return Ok(Answer::Nothing { failure: None }),
        ReadUntil::CutOff => return Err(Error::NoDescription { program: path.to_path_buf(), after: patience }),
    }
    // It has closed its output, and whatever it still does is of no interest.
    drop(child);
    let line = text.split(|byte| *byte == b'\n').rev().find(|line| !line.is_empty());
    if let Some(line) = line.filter(|line| line.starts_with(b"{\"format\":")) {
        let description = Description::decode(line);
        return description
            .map(|description| Answer::Description(Box::new(description)))
            .map_err(|source| Error::Misdescribed { program: path.to_path_buf(), source: Box::new(source) });
    }
    Ok(Answer::Nothing { failure: last_line(&mut messages).map_err(failed)? })
}

/// Returns the last line of a file, if there is one.
fn last_line(file: &mut File) -> std::io::Result<Option<String>> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let line = text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().filter(|line| !line.is_empty());
    Ok(line.map(|line| excerpt(line, 0)))
}

fn start(
    program: &Program<'_>,
    folder: &Path,
    output: std::io::PipeWriter,
    messages: File,
) -> std::io::Result<GuardedProcess> {
    let describe = || OsString::from(DESCRIBE);
    match program {
        Program::Native(path) => GuardedProcess::start(path, &[describe()], folder, output, messages),
        Program::Python { script, interpreter } => {
            let interpreter = match interpreter {
                Some(named) => PathBuf::from(named),
                None => default_python().unwrap_or_else(|| "python3".into()),
            };
            GuardedProcess::start(&interpreter, &[script.into(), describe()], folder, output, messages)
        }
    }
}
