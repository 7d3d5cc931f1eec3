//! The command line that starts a plugin, and the error for one that does not
//! start.
//!
//! The forms are eKuiper's (`internal/plugin/portable/runtime`, protocol: the
//! launch JSON is the last argument, the working directory the executable's).
//! Nothing is rejected for how it looks: it is executed, and examined only if
//! that fails.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ekuiper_core::manifest::Language;
use ekuiper_core::printable;

use super::checksum::{NotTheFile, open_checked};
use super::environment;
use super::exit::Exit;
use crate::catalog::Package;
use crate::error::start_error;
use crate::program::search::{default_python, find_program, in_path};
use crate::program::unstartable;
use crate::{Error, Result};

/// A program, its arguments and its working directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) directory: PathBuf,
}

impl CommandLine {
    /// Returns the command line of a plugin, after creating its environment if
    /// necessary; `is_cancelled` aborts that.
    pub(crate) fn new(
        package: &Package,
        python_bin: Option<&str>,
        launch_json: &str,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let manifest = &package.manifest;
        let (executable, directory) = match &package.program {
            Some(program) => (program.clone(), package.folder.clone()),
            None => {
                let executable = package.folder.join(&manifest.executable);
                let directory = executable.parent().unwrap_or(&package.folder).to_owned();
                (executable, directory)
            }
        };
        if manifest.language == Language::Python {
            // The interpreter is executed, possibly after an installation of
            // half an hour.
            check_script(package, &executable)?;
        }
        let (program, mut args) = match (manifest.language, manifest.conda_env()) {
            (Language::Python, None) => {
                let mut python = python(package, python_bin)?;
                if manifest.is_venv() {
                    python = environment::interpreter(package, &python, is_cancelled)?;
                }
                (python, vec!["-u".into(), executable.into()])
            }
            (Language::Python, Some(env)) => {
                let conda = find_program("conda").ok_or_else(|| Error::ProgramNotFound {
                    plugin: package.name.clone(),
                    program: "conda".into(),
                    hint: "its manifest asks for a conda environment; install conda, or remove virtualEnvType",
                })?;
                let python = python_bin.unwrap_or("python");
                (conda, vec!["run".into(), "-n".into(), env.into(), python.into(), executable.into()])
            }
            _ => (executable, vec![]),
        };
        args.push(launch_json.into());
        Ok(Self { program, args, directory })
    }

    /// Opens the plugin's own program, its script if an interpreter runs it,
    /// whose SHA-256 must be this. Returns the file if it is to be executed
    /// itself.
    pub(crate) fn open_checked(&self, plugin: &str, sha256: &str) -> Result<Option<File>> {
        let path = self.script().unwrap_or_else(|| self.program.clone());
        match open_checked(&path, sha256) {
            // An interpreter opens a script by its path.
            Ok((file, is_script)) => Ok((!is_script && self.script().is_none()).then_some(file)),
            Err(NotTheFile::Unreadable(error)) => {
                Err(start_error(plugin, error, |error| match unstartable::reason(&path, &self.directory, &error) {
                    Some(reason) => self.refuse(plugin, reason),
                    None => self.refuse(plugin, format!("cannot be read for its checksum: {error}")),
                }))
            }
            Err(NotTheFile::Differs(found)) => {
                let reason = format!(
                    "has the SHA-256 {found} and not {sha256}: it was replaced, or the plugin's options are not this version's"
                );
                Err(Error::Executable { plugin: plugin.to_owned(), path, reason })
            }
        }
    }

    /// Returns the error for a program that could not be started.
    pub(crate) fn cannot_start(&self, plugin: &str, source: io::Error) -> Error {
        start_error(plugin, source, |source| match unstartable::reason(&self.program, &self.directory, &source) {
            Some(reason) => self.refuse(plugin, reason),
            None => Error::Spawn { plugin: plugin.to_owned(), command: self.display(), source: source.into() },
        })
    }

    /// Returns the error for an end before the handshake that the `#!` line
    /// explains.
    pub(crate) fn ended_for(&self, plugin: &str, exit: &Exit) -> Option<Error> {
        let reason = unstartable::reason_of_end(&self.program, exit.code?)?;
        Some(self.refuse(plugin, reason))
    }

    /// Returns the likely cause of an end before the handshake; empty where
    /// none is known.
    pub(crate) fn hint(&self, exit: &Exit) -> String {
        let Some(script) = self.script() else {
            return match exit.code == Some(0) && exit.tail.is_empty() {
                true => "its program must call its SDK's run or start, and end when that returns".into(),
                false => String::new(),
            };
        };
        // A shell's error message would not mention Python.
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if !["python", "pypy", "conda"].iter().any(|known| name.contains(known)) {
            return format!(
                "it was run by {}, which has to be a Python interpreter (--python-bin)",
                self.program.display()
            );
        }
        if let Some(advice) = python_advice(&exit.tail) {
            return advice;
        }
        // A script that found no engine ends like this too, and says why.
        let serves = || {
            let text = std::fs::read(&script).unwrap_or_default();
            [&b"start("[..], b"run("].iter().any(|call| text.windows(call.len()).any(|found| found == *call))
        };
        match exit.code == Some(0) && (exit.tail.is_empty() || !serves()) {
            true => format!("{} must call plugin.start(…), or its Plugin's run(), at its end", script.display()),
            false => String::new(),
        }
    }

    /// Returns the plugin's script, if an interpreter runs it.
    fn script(&self) -> Option<PathBuf> {
        self.args.len().checked_sub(2).map(|at| PathBuf::from(&self.args[at]))
    }

    fn refuse(&self, plugin: &str, reason: String) -> Error {
        let reason = match self.script() {
            None => with_cure(reason),
            Some(_) => with_python_cure(reason),
        };
        Error::Executable { plugin: plugin.to_owned(), path: self.program.clone(), reason }
    }

    /// Returns the command line as typed in a shell, without the launch JSON.
    pub(crate) fn display(&self) -> String {
        let words = self.args.iter().take(self.args.len().saturating_sub(1));
        words.fold(self.program.display().to_string(), |text, word| format!("{text} {}", word.to_string_lossy()))
    }
}

/// Remedy for an interpreter that cannot be started.
const PYTHON_CURE: &str = "install Python 3, or name the interpreter with python_bin (--python-bin)";

/// Appends the remedy for the interpreter to a reason that has none of its own,
/// or as an alternative.
fn with_python_cure(reason: String) -> String {
    match reason.contains(": ") {
        true if reason.starts_with("cannot be reached") => reason,
        true => format!("{reason}, or {PYTHON_CURE}"),
        false => format!("{reason}: {PYTHON_CURE}"),
    }
}

/// Appends the remedy for the plugin's own file to a reason that has none.
fn with_cure(reason: String) -> String {
    match reason.contains(": ") {
        true => reason,
        false => reason + ": build the plugin, or correct \"executable\" in its manifest",
    }
}

/// Why there is no interpreter.
enum NoPython {
    NotFound { program: String, hint: &'static str },
    Unusable { path: PathBuf, reason: String },
}

fn python(package: &Package, python_bin: Option<&str>) -> Result<PathBuf> {
    let plugin = package.name.clone();
    find_python(python_bin).map_err(|problem| match problem {
        NoPython::NotFound { program, hint } => Error::ProgramNotFound { plugin, program, hint },
        NoPython::Unusable { path, reason } => Error::Executable { plugin, path, reason },
    })
}

/// Checks that there is a program of this name or path, as
/// [`python_bin`](crate::HostBuilder::python_bin) takes it, that can be executed:
/// for a host whose plugins are not known yet. Whether it is an interpreter of
/// Python shows when it runs a plugin.
///
/// # Errors
/// A sentence with what is wrong, and what to do.
pub fn check_python(program: &str) -> std::result::Result<(), String> {
    let unusable = |path: &Path, reason: &str| format!("{} {reason}", path.display());
    match find_python(Some(program)) {
        Ok(found) => match unstartable::reason_of_place(&found) {
            Some(reason) => Err(unusable(&found, &with_python_cure(reason))),
            None => Ok(()),
        },
        Err(NoPython::NotFound { program, hint }) => Err(format!("{program} was not found: {hint}")),
        Err(NoPython::Unusable { path, reason }) => Err(unusable(&path, &reason)),
    }
}

fn find_python(python_bin: Option<&str>) -> std::result::Result<PathBuf, NoPython> {
    let refuse = |program: &str, hint| Err(NoPython::NotFound { program: program.to_owned(), hint });
    let found = match python_bin {
        Some(chosen) if chosen.trim().is_empty() => {
            return refuse(&format!("{chosen:?}"), "python_bin (--python-bin) must name a Python interpreter");
        }
        Some(chosen) => find_program(chosen),
        None => default_python(),
    };
    if let Some(found) = found {
        return Ok(found);
    }
    let program = python_bin.unwrap_or("python");
    match in_path(program).find_map(|path| Some((unstartable::reason_of_place(&path)?, path))) {
        Some((reason, path)) => Err(NoPython::Unusable { path, reason: with_python_cure(reason) }),
        None if program.contains(char::is_whitespace) => refuse(
            &format!("{program:?}"),
            "python_bin (--python-bin) takes a program's name or path, without arguments",
        ),
        None => refuse(program, PYTHON_CURE),
    }
}

/// Returns what to do about a plugin in Python that has failed, where its output
/// says why: a module is missing, or is not the one that the plugin needs.
pub fn python_advice(output: &str) -> Option<String> {
    const WHEEL: &str = "`cargo xtask python` in a checkout of ekuiper-plugins builds its wheel";
    let another = "name another Python by --python-bin";
    if let Some((_, after)) = output.split_once("No module named '") {
        let module = after.split(['\'', '.']).next().unwrap_or_default();
        let wheel = if module == "ekuiper" { format!(" ({WHEEL})") } else { String::new() };
        let module = printable::excerpt(module);
        return Some(format!("install the module {module} into this Python{wheel}, or {another}"));
    }
    let is_official = output.contains("cannot import name ") && output.contains(" from 'ekuiper");
    is_official.then(|| {
        format!(
            "this Python has the official package of that name, which lacks it: install the module ekuiper instead \
             ({WHEEL}), or {another}"
        )
    })
}

fn check_script(package: &Package, script: &Path) -> Result<()> {
    match unstartable::reason_of_file(script) {
        Some(reason) => {
            let reason = with_cure(reason);
            Err(Error::Executable { plugin: package.name.clone(), path: script.to_owned(), reason })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn package(folder: &Path, rest: &str) -> Package {
        let text = format!(r#"{{"functions":["f"],{rest}}}"#);
        let manifest = ekuiper_core::manifest::Manifest::parse(&text).unwrap();
        Package { name: "demo".into(), folder: folder.to_owned(), manifest, program: None }
    }

    fn file(folder: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_native_plugin_runs_in_its_executables_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "bin/run", b"#!/bin/sh\n", 0o755);
        let package = package(folder.path(), r#""language":"go","executable":"bin/run""#);
        let line = CommandLine::new(&package, None, "{}", &|| false).unwrap();
        assert_eq!(line, CommandLine { program: path, args: vec!["{}".into()], directory: folder.path().join("bin") });
    }

    #[test]
    fn a_fresh_build_runs_in_the_plugins_folder() {
        let folder = tempfile::tempdir().unwrap();
        let program = file(folder.path(), "target/run", b"#!/bin/sh\n", 0o755);
        let package = package(folder.path(), r#""language":"go","executable":"bin/run""#);
        let line =
            CommandLine::new(&Package { program: Some(program.clone()), ..package }, None, "{}", &|| false).unwrap();
        assert_eq!(line, CommandLine { program, args: vec!["{}".into()], directory: folder.path().to_owned() });
    }

    #[test]
    fn a_python_plugin_runs_unbuffered() {
        let folder = tempfile::tempdir().unwrap();
        let script = file(folder.path(), "demo.py", b"", 0o644);
        let package = package(folder.path(), r#""language":"python","executable":"demo.py""#);
        let line = CommandLine::new(&package, Some("/bin/sh"), "{}", &|| false).unwrap();
        assert_eq!(line.program, Path::new("/bin/sh"));
        assert_eq!(line.args, [OsString::from("-u"), script.into(), "{}".into()]);
        let error = CommandLine::new(&package, Some("no-such-python"), "{}", &|| false).unwrap_err().to_string();
        assert!(error.contains("no-such-python was not found") && error.contains("python_bin"), "{error}");
    }
}
