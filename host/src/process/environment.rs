//! Virtual environment of a Python plugin: one that its manifest names, or one
//! created in the plugin's folder from its `requirements.txt`.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ekuiper_transport_ipc::wait::deadline_after;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::guarded::{self, GuardedProcess, NotStarted, Setup};
use super::own_folder::OwnFolder;
use crate::catalog::Package;
use crate::error::{start_error, system_error};
use crate::program::unstartable;
use crate::{Error, Result, Subject};

/// Folder of a created environment, in the plugin's folder.
const FOLDER: &str = ".venv";

/// Requirements of the environment, in the plugin's folder.
const REQUIREMENTS: &str = "requirements.txt";

/// File in a complete environment that records what it was created from.
const STAMP: &str = "ekuiper-made-from.txt";

/// Maximum size of [`REQUIREMENTS`], in bytes.
const LARGEST: u64 = 16 << 20;

/// Maximum duration of an installation, which may download and build large
/// packages.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Number of the installer's last lines in an error.
const TAIL: usize = 12;

/// Interval of the check whether the installation is cancelled.
const SLICE: Duration = Duration::from_millis(50);

/// Returns the environment's interpreter, after creating the environment with
/// `python` if necessary. `is_cancelled` aborts the creation.
///
/// # Errors
/// [`Error::Environment`], with the last lines of the installer's output.
pub(crate) fn interpreter(package: &Package, python: &Path, is_cancelled: &dyn Fn() -> bool) -> Result<PathBuf> {
    let manifest = &package.manifest;
    let named = manifest.env.as_deref().filter(|env| !env.is_empty());
    let folder = package.folder.join(named.unwrap_or(FOLDER));
    let environment = Environment { package, folder, is_cancelled };
    let interpreter = environment.folder.join("bin/python");
    if named.is_none() {
        environment.make(python)?;
    } else if let (false, Ok(target)) = (interpreter.exists(), interpreter.read_link()) {
        return Err(environment.fail(format!(
            "belongs to an interpreter that no longer exists, {}: create it again with `python3 -m venv --clear`",
            target.display()
        )));
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
    /// Returns the error of a file that the environment needs.
    fn file_error(&self, what: &Path, error: io::Error) -> Error {
        start_error(&self.package.name, error, |error| {
            self.fail(format!("cannot be made: {}: {error}", what.display()))
        })
    }

    /// Returns the error of something that the system refuses.
    fn refused(&self, resource: &'static str) -> impl FnOnce(io::Error) -> Error {
        {
            let name = &self.package.name;
            let what = Subject::from(format!("the installer of plugin {name}")).about(name, None);
            system_error(what, resource)
        }
    }

    fn fail(&self, reason: String) -> Error {
        Error::Environment { plugin: self.package.name.clone(), folder: self.folder.clone(), reason }
    }

    /// Creates the environment, unless it exists and was created from the same
    /// requirements.
    fn make(&self, python: &Path) -> Result<()> {
        let requirements = self.package.folder.join(REQUIREMENTS);
        let text = match read(&requirements) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(self.file_error(&requirements, error)),
        };
        let made_from = format!("{}\n{text}", python.display());
        // The environment's interpreter is a link whose target may have been
        // removed.
        let is_current = || {
            read(&self.folder.join(STAMP)).is_ok_and(|found| found == made_from)
                && self.folder.join("bin/python").exists()
        };
        if is_current() {
            return Ok(());
        }
        // Locked: two hosts, or an update beside the running plugin, may create
        // it at the same time.
        let _turn = self.turn()?;
        if is_current() {
            return Ok(());
        }
        let name = &self.package.name;
        tracing::info!(plugin = name, "creating its environment, {}", self.folder.display());
        let began = Instant::now();
        let arguments = |words: &[&str], path: &Path| -> Vec<OsString> {
            words.iter().map(OsString::from).chain([path.into()]).collect()
        };
        // The folder is cleared first, which must not affect files elsewhere.
        if self.folder.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            return Err(
                self.fail("is not a folder, or a symbolic link to one: the host makes it anew, so remove it".into())
            );
        }
        // Files that a killed installer leaves are removed with this folder.
        let fail = |error: io::Error| {
            start_error(name, error, |error| {
                let parent = std::env::temp_dir();
                self.fail(format!("cannot be made: no folder for temporary files in {}: {error}", parent.display()))
            })
        };
        let own = OwnFolder::make().map_err(fail)?;
        let scratch = own.scratch().map_err(fail)?;
        self.run(python, &arguments(&["-m", "venv", "--clear"], &self.folder), &scratch)?;
        if !text.trim().is_empty() {
            let pip =
                ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off", "-r"];
            self.run(&self.folder.join("bin/python"), &arguments(&pip, &requirements), &scratch)?;
        }
        File::create_new(self.folder.join(STAMP))
            .and_then(|mut stamp| stamp.write_all(made_from.as_bytes()))
            .map_err(|error| start_error(name, error, |error| self.fail(format!("is not complete: {error}"))))?;
        tracing::info!(plugin = name, "its environment was created in {:.1?}", began.elapsed());
        Ok(())
    }

    /// Acquires the lock of the environment, held while the file is open.
    fn turn(&self) -> Result<File> {
        let path = self.package.folder.join(format!("{FOLDER}.lock"));
        let fail = |error: io::Error| self.file_error(&path, error);
        let file = open_lock(&path).map_err(fail)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::Error(error)) => return Err(fail(error)),
                Err(fs::TryLockError::WouldBlock) if (self.is_cancelled)() => return Err(Error::Stopped),
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(SLICE),
            }
        }
    }

    /// Runs an installation step, and logs each line of its output.
    fn run(&self, program: &Path, arguments: &[OsString], scratch: &Path) -> Result<()> {
        let step = arguments.iter().take(3).map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let (output, input) = io::pipe().map_err(self.refused("a pipe"))?;
        let second = input.try_clone().map_err(self.refused("a pipe"))?;
        // Paths in the requirements are relative to the plugin's folder.
        let folder = &self.package.folder;
        let env = [("TMPDIR".into(), scratch.into())].into();
        let setup = Setup { env, ..Setup::default() };
        let installer = GuardedProcess::start_with(program, arguments, folder, setup, second, input);
        let installer = installer.map_err(|failure| match failure {
            NotStarted::System(resource, error) => self.refused(resource)(error),
            NotStarted::Limit(problem) => self.fail(problem),
            NotStarted::Program(error) => {
                start_error(&self.package.name, error, |error| match unstartable::reason(program, folder, &error) {
                    Some(reason) => self.fail(format!("cannot be made: {} {reason}", program.display())),
                    None => self.fail(format!("cannot be made: python {step}: {error}")),
                })
            }
        })?;
        let name = self.package.name.clone();
        let reader = std::thread::Builder::new().name("environment".into()).spawn(move || {
            let mut tail = VecDeque::new();
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = ekuiper_core::printable::one_line(String::from_utf8_lossy(&line).trim_end()).into_owned();
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
        let reader = reader.map_err(self.refused("a thread"))?;
        let give_up = deadline_after(PATIENCE);
        let why = loop {
            if guarded::has_ended(installer.pid()) {
                break None;
            }
            if (self.is_cancelled)() {
                break Some(Error::Stopped);
            }
            if Instant::now() > give_up {
                break Some(self.fail(format!("was not made in {PATIENCE:?}")));
            }
            std::thread::sleep(SLICE);
        };
        let status = match why {
            Some(why) => {
                // Kills the installer and its children.
                drop(installer);
                return Err(why);
            }
            None => installer.wait().map_err(|error| {
                self.fail(format!(
                    "is not complete, or it is not known whether it is ({error}): the engine ignores SIGCHLD, or waits \
                     for children that are not its own"
                ))
            })?,
        };
        let tail: Vec<_> = reader.join().unwrap_or_default().into();
        if status.success() {
            return Ok(());
        }
        let tail = tail.join("\n");
        Err(self.fail(format!("cannot be made: python {step} failed ({status}); its last lines:\n{tail}")))
    }
}

/// Reads a regular file; reading another kind of file might never return.
fn read(path: &Path) -> io::Result<String> {
    // Opening a pipe must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("is not a file: remove it"));
    }
    if found.len() > LARGEST {
        return Err(io::Error::other(format!("is larger than it may be ({} MiB)", LARGEST >> 20)));
    }
    io::read_to_string(file.take(LARGEST))
}

/// Opens a lock file for processes of this user, and of the folder's owner. The
/// file is not changed, symbolic links are not followed, and nobody else can
/// hold the lock.
fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let refuse = |reason: &str| Err(io::Error::other(format!("{reason}: remove it")));
    let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return refuse("is a symbolic link"),
        Err(errno) => return Err(errno.into()),
    };
    let (found, folder) = (file.metadata()?, path.parent().unwrap_or(path).metadata()?);
    if !found.is_file() {
        return refuse("is not a regular file");
    }
    if ![rustix::process::geteuid().as_raw(), folder.uid()].contains(&found.uid()) {
        return refuse(&format!("belongs to user {}", found.uid()));
    }
    if found.mode() & 0o077 != 0 {
        // A user who can open the file could hold the lock.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
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
        crate::program::search::find_program("python3").expect("the tests need python3")
    }

    #[test]
    fn it_is_made_once_for_the_same_requirements() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), "");
        let never = || false;
        let interpreter = interpreter(&package, &python(), &never).unwrap();
        #[allow(clippy::disallowed_methods)] // it is this test's own
        let prefix =
            std::process::Command::new(&interpreter).args(["-c", "import sys; print(sys.prefix)"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&prefix.stdout).trim(), folder.path().join(FOLDER).to_str().unwrap());
        let mark = folder.path().join(FOLDER).join("mark");
        fs::write(&mark, "").unwrap();
        super::interpreter(&package, &python(), &never).unwrap();
        assert!(mark.exists(), "it was made again");
        // A comment changes the content, and needs no package.
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
    fn requirements_that_are_no_file_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), "");
        let refused = || interpreter(&package, &python(), &|| false).unwrap_err().to_string();
        let requirements = folder.path().join(REQUIREMENTS);
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &requirements, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(refused().contains("requirements.txt: is not a file: remove it"), "{}", refused());
        fs::remove_file(&requirements).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &requirements).unwrap();
        assert!(refused().contains("requirements.txt: is not a file"), "{}", refused());
        fs::remove_file(&requirements).unwrap();
        File::create(&requirements).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(refused().contains("requirements.txt: is larger than it may be (16 MiB)"), "{}", refused());
    }

    #[test]
    fn what_lies_elsewhere_is_neither_followed_nor_emptied() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let precious = elsewhere.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let package = package(folder.path(), "");
        let refused = || interpreter(&package, &python(), &|| false).unwrap_err().to_string();
        let lock = folder.path().join(".venv.lock");
        std::os::unix::fs::symlink(&precious, &lock).unwrap();
        assert!(refused().contains(".venv.lock: is a symbolic link: remove it"), "{}", refused());
        std::os::unix::fs::symlink(elsewhere.path().join("new"), folder.path().join("link")).unwrap();
        fs::rename(folder.path().join("link"), &lock).unwrap();
        assert!(refused().contains("is a symbolic link"), "one that leads nowhere");
        fs::remove_file(&lock).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(refused().contains("is not a regular file"), "{}", refused());
        fs::remove_file(&lock).unwrap();
        // The old environment is cleared before it is created again.
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join(FOLDER)).unwrap();
        assert!(refused().contains("is not a folder, or a symbolic link to one"), "{}", refused());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_is_its_owners_alone_and_keeps_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        fs::write(&path, "notes").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        open_lock(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600, "nobody else can hold it");
        fs::remove_file(&path).unwrap();
        open_lock(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            let error = open_lock(&path).unwrap_err().to_string();
            assert_eq!(error, "belongs to user 65534: remove it");
        }
    }

    #[test]
    fn the_hosts_end_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), "");
        assert!(matches!(interpreter(&package, &python(), &|| true), Err(Error::Stopped)));
    }

    #[test]
    fn an_installation_that_is_ended_leaves_no_temporary_files() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let script = folder.path().join("python");
        let text = "#!/bin/sh\nmktemp -d > \"$SAID.new\"; mv \"$SAID.new\" \"$SAID\"; sleep 60";
        fs::write(&script, text.replace("$SAID", said.to_str().unwrap())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let package = package(folder.path(), "");
        let ended = interpreter(&package, &script, &|| said.exists());
        assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
        let made = fs::read_to_string(&said).unwrap();
        assert!(made.contains("/ekuiper-") && !Path::new(made.trim()).exists(), "{made}");
    }
}
