//! The command line that starts a plugin, and what is checked before.
//!
//! The forms are eKuiper's (`internal/plugin/portable/runtime`, protocol: the
//! launch JSON is the last argument, the working directory the executable's).

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ekuiper_core::manifest::Language;

use crate::catalog::Package;
use crate::{Error, Result, environment};

/// A program, its arguments and its working directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) directory: PathBuf,
}

impl CommandLine {
    /// The command line for a plugin, whose environment is made first if that
    /// is due; `is_cancelled` ends that.
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
        check_file(package, &executable)?;
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
            _ => {
                check_native(package, &executable)?;
                (executable, vec![])
            }
        };
        args.push(launch_json.into());
        Ok(Self { program, args, directory })
    }

    /// The command line as a person would type it, without the launch JSON.
    pub(crate) fn display(&self) -> String {
        let words = self.args.iter().take(self.args.len().saturating_sub(1));
        words.fold(self.program.display().to_string(), |text, word| format!("{text} {}", word.to_string_lossy()))
    }
}

fn python(package: &Package, python_bin: Option<&str>) -> Result<PathBuf> {
    let found = match python_bin {
        Some(chosen) => find_program(chosen),
        None => find_program("python").or_else(|| find_program("python3")),
    };
    found.ok_or_else(|| Error::ProgramNotFound {
        plugin: package.name.clone(),
        program: python_bin.unwrap_or("python").to_owned(),
        hint: "install Python 3, or name the interpreter with python_bin (--python-bin)",
    })
}

/// Finds a program as a shell does.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return std::path::absolute(name).ok().filter(is_program);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(is_program)
}

fn check_file(package: &Package, executable: &Path) -> Result<()> {
    let reason = match std::fs::metadata(executable) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(_) => "is not a file".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "does not exist: build the plugin, or correct \"executable\" in its manifest".to_owned()
        }
        Err(error) => format!("cannot be read: {error}"),
    };
    Err(refuse(package, executable, reason))
}

/// Whether this machine can run the file: what exec reports for a foreign one
/// depends on how it is started, so its header is read.
fn check_native(package: &Package, executable: &Path) -> Result<()> {
    let fail = |error: std::io::Error| refuse(package, executable, format!("cannot be read: {error}"));
    let mut file = std::fs::File::open(executable).map_err(fail)?;
    if file.metadata().map_err(fail)?.permissions().mode() & 0o111 == 0 {
        let reason = format!("is not executable: chmod +x {}", executable.display());
        return Err(refuse(package, executable, reason));
    }
    let mut header = [0; 20];
    let mut length = 0;
    while length < header.len() {
        match file.read(&mut header[length..]).map_err(fail)? {
            0 => break,
            count => length += count,
        }
    }
    match foreign(&header[..length]) {
        None => Ok(()),
        Some(reason) => Err(refuse(package, executable, reason)),
    }
}

/// Why a file that begins so cannot run here; `None` when it can.
fn foreign(header: &[u8]) -> Option<String> {
    if header.starts_with(b"#!") {
        return None;
    }
    let Some(elf) = header.strip_prefix(b"\x7fELF") else {
        return Some("is neither a program for Linux nor a script that begins with #!".into());
    };
    // ELF: class at 4, byte order at 5, machine at 18 (elf(5)).
    let &[_, order, ..] = elf else { return Some("is not a complete program".into()) };
    let Some(&machine) = header.get(18..20).and_then(<[u8]>::first_chunk::<2>) else {
        return Some("is not a complete program".into());
    };
    let machine = if order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    let here = MACHINES.iter().find(|(name, _)| *name == std::env::consts::ARCH);
    match here {
        Some((_, number)) if *number != machine => {
            let name =
                MACHINES.iter().find(|(_, number)| *number == machine).map_or("another machine", |(name, _)| name);
            Some(format!("is built for {name}, this machine is {}: build it for this one", std::env::consts::ARCH))
        }
        _ => None,
    }
}

/// Rust's names of machines and ELF's numbers of them.
const MACHINES: &[(&str, u16)] = &[
    ("x86_64", 62),
    ("aarch64", 183),
    ("arm", 40),
    ("x86", 3),
    ("riscv64", 243),
    ("powerpc64", 21),
    ("s390x", 22),
    ("loongarch64", 258),
    ("mips", 8),
];

fn refuse(package: &Package, path: &Path, reason: String) -> Error {
    Error::Executable { plugin: package.name.clone(), path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
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
        let error = CommandLine::new(&package, Some("/no/python"), "{}", &|| false).unwrap_err().to_string();
        assert!(error.contains("/no/python was not found") && error.contains("python_bin"), "{error}");
    }

    #[test]
    fn what_cannot_run_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), r#""language":"rust","executable":"run""#);
        let refused = || CommandLine::new(&package, None, "{}", &|| false).unwrap_err().to_string();
        assert!(refused().contains("does not exist"));
        file(folder.path(), "run", b"#!/bin/sh\n", 0o644);
        assert!(refused().contains("chmod +x"));
        file(folder.path(), "run", b"MZ\x90 a Windows program", 0o755);
        assert!(refused().contains("neither a program for Linux"));
        let mut elf = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\0\0";
        elf[18] = 22;
        file(folder.path(), "run", &elf, 0o755);
        assert!(refused().contains("built for s390x"));
        file(folder.path(), "run", &elf[..10], 0o755);
        assert!(refused().contains("not a complete program"));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        file(folder.path(), "run", &own[..20], 0o755);
        CommandLine::new(&package, None, "{}", &|| false).unwrap();
    }
}
