//! The virtual environment of a Python plugin: one that its manifest names, or
//! one that is made in the plugin's folder from its `requirements.txt`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::catalog::Package;
use crate::{Error, Result};

/// Where it is made, in the plugin's folder.
const FOLDER: &str = ".venv";

/// What it is made from, in the plugin's folder.
const REQUIREMENTS: &str = "requirements.txt";

/// Written into it when it is complete: what it was made from.
const STAMP: &str = "ekuiper-made-from.txt";

/// How long an installation may take: large packages are downloaded and built.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How many of the installer's last lines an error has.
const TAIL: usize = 12;

/// How often it is looked whether the installation is to end.
const SLICE: Duration = Duration::from_millis(50);

/// The environment's interpreter; it is made first where that is due, with
/// `python`. `is_cancelled` ends that.
///
/// # Errors
/// [`Error::Environment`], with the last lines of what the installer said.
pub(crate) fn interpreter(package: &Package, python: &Path, is_cancelled: &dyn Fn() -> bool) -> Result<PathBuf> {
    let manifest = &package.manifest;
    let named = manifest.env.as_deref().filter(|env| !env.is_empty());
    let folder = package.folder.join(named.unwrap_or(FOLDER));
    let environment = Environment { package, folder, is_cancelled };
    let interpreter = environment.folder.join("bin/python");
    if named.is_none() {
        environment.make(python)?;
    } else if !interpreter.exists() {
        return Err(environment.fail(format!(
            "has no bin/python: make it with `python3 -m venv`, or leave \"env\" out of the manifest, and the host \
             makes one from {REQUIREMENTS}"
        )));
    }
    Ok(interpreter)
}

struct Environment<'a> {
    package: &'a Package,
    folder: PathBuf,
    is_cancelled: &'a dyn Fn() -> bool,
}

impl Environment<'_> {
    fn fail(&self, reason: String) -> Error {
        Error::Environment { plugin: self.package.name.clone(), folder: self.folder.clone(), reason }
    }

    /// Makes it, unless it is there and made from the same.
    fn make(&self, python: &Path) -> Result<()> {
        let requirements = self.package.folder.join(REQUIREMENTS);
        let text = match fs::read_to_string(&requirements) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(self.fail(format!("cannot be made: {}: {error}", requirements.display()))),
        };
        let made_from = format!("{}\n{text}", python.display());
        let is_current = || fs::read_to_string(self.folder.join(STAMP)).is_ok_and(|found| found == made_from);
        if is_current() {
            return Ok(());
        }
        // Two hosts, or an update beside the running plugin, would meet in it.
        let _turn = self.turn()?;
        if is_current() {
            return Ok(());
        }
        let name = &self.package.name;
        tracing::info!(plugin = name, "making its environment, {}", self.folder.display());
        let began = Instant::now();
        self.run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&self.folder))?;
        if !text.trim().is_empty() {
            let mut pip = Command::new(self.folder.join("bin/python"));
            pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]);
            // Paths in it are the plugin's.
            self.run(pip.arg("-r").arg(&requirements).current_dir(&self.package.folder))?;
        }
        fs::write(self.folder.join(STAMP), made_from)
            .map_err(|error| self.fail(format!("is not complete: {error}")))?;
        tracing::info!(plugin = name, "its environment was made in {:.1?}", began.elapsed());
        Ok(())
    }

    /// The right to make it.
    fn turn(&self) -> Result<File> {
        let path = self.package.folder.join(format!("{FOLDER}.lock"));
        let fail = |error: io::Error| self.fail(format!("cannot be made: {}: {error}", path.display()));
        let file = File::create(&path).map_err(fail)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::Error(error)) => return Err(fail(error)),
                Err(fs::TryLockError::WouldBlock) if (self.is_cancelled)() => return Err(Error::Stopped),
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(SLICE),
            }
        }
    }

    /// Runs a step; each line that it says is one of the log.
    fn run(&self, command: &mut Command) -> Result<()> {
        let step = command.get_args().take(3).map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let fail = |error: io::Error| self.fail(format!("cannot be made: python {step}: {error}"));
        let (output, input) = io::pipe().map_err(fail)?;
        // Neither may keep the pipe open in this process.
        command.stdin(Stdio::null()).stdout(input.try_clone().map_err(fail)?).stderr(input).process_group(0);
        let spawned = command.spawn();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawned.map_err(fail)?;
        let name = self.package.name.clone();
        let reader = std::thread::Builder::new().name("environment".into()).spawn(move || {
            let mut tail = VecDeque::new();
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !line.is_empty() {
                    tracing::info!(plugin = name, "{line}");
                    tail.push_back(line);
                }
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            }
            tail
        });
        let reader = reader.map_err(fail)?;
        let give_up = Instant::now() + PATIENCE;
        let (status, why) = loop {
            if let Some(status) = child.try_wait().map_err(fail)? {
                break (status, None);
            }
            let cancelled = (self.is_cancelled)();
            if cancelled || Instant::now() > give_up {
                if let Ok(pid) = i32::try_from(child.id())
                    && let Some(pid) = Pid::from_raw(pid)
                {
                    // Its group, which it leads: it is not waited for yet.
                    let _ = kill_process_group(pid, Signal::KILL);
                }
                let why = if cancelled { Error::Stopped } else { self.fail(format!("was not made in {PATIENCE:?}")) };
                break (child.wait().map_err(fail)?, Some(why));
            }
            std::thread::sleep(SLICE);
        };
        let tail: Vec<_> = reader.join().unwrap_or_default().into();
        match why {
            Some(why) => Err(why),
            None if status.success() => Ok(()),
            None => Err(self.fail(format!(
                "cannot be made: python {step} failed ({status}); its last lines:\n{}",
                tail.join("\n")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &Path, rest: &str) -> Package {
        let text =
            format!(r#"{{"language":"python","executable":"x.py","functions":["f"],"virtualEnvType":"venv"{rest}}}"#);
        let manifest = ekuiper_core::manifest::Manifest::parse(&text).unwrap();
        Package { name: "demo".into(), folder: folder.to_owned(), manifest, program: None }
    }

    fn python() -> PathBuf {
        crate::command::find_program("python3").expect("the tests need python3")
    }

    #[test]
    fn it_is_made_once_for_the_same_requirements() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), "");
        let never = || false;
        let interpreter = interpreter(&package, &python(), &never).unwrap();
        let prefix = Command::new(&interpreter).args(["-c", "import sys; print(sys.prefix)"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&prefix.stdout).trim(), folder.path().join(FOLDER).to_str().unwrap());
        let mark = folder.path().join(FOLDER).join("mark");
        fs::write(&mark, "").unwrap();
        super::interpreter(&package, &python(), &never).unwrap();
        assert!(mark.exists(), "it was made again");
        // A comment is another content, and needs no package.
        fs::write(folder.path().join(REQUIREMENTS), "# nothing yet\n").unwrap();
        super::interpreter(&package, &python(), &never).unwrap();
        assert!(!mark.exists(), "it was not made again");
    }

    #[test]
    fn a_failed_installation_has_pips_last_lines_and_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(REQUIREMENTS), "./no-such-folder\n").unwrap();
        let package = package(folder.path(), "");
        for _ in 0..2 {
            let error = interpreter(&package, &python(), &|| false).unwrap_err().to_string();
            assert!(error.contains("plugin demo") && error.contains("-m pip install failed"), "{error}");
            assert!(error.contains("no-such-folder"), "{error}");
        }
    }

    #[test]
    fn one_that_is_named_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), r#","env":"mine""#);
        let error = interpreter(&package, &python(), &|| false).unwrap_err().to_string();
        assert!(error.contains("/mine has no bin/python"), "{error}");
        fs::create_dir_all(folder.path().join("mine/bin")).unwrap();
        fs::write(folder.path().join("mine/bin/python"), "").unwrap();
        let found = interpreter(&package, &python(), &|| false).unwrap();
        assert_eq!(found, folder.path().join("mine/bin/python"));
        assert!(!folder.path().join(FOLDER).exists());
    }

    #[test]
    fn the_hosts_end_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), "");
        assert!(matches!(interpreter(&package, &python(), &|| true), Err(Error::Stopped)));
    }
}
