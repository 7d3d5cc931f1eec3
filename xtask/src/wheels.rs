//! The wheels of the module `ekuiper` for devices, linked by zig for a glibc that
//! systems have since 2014 and for musl, and the archive of its sources. Each
//! wheel has the supervisor of its own processor.
//!
//! `python` makes the wheel of this machine, for the tests in Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::cross::{TARGETS, Target, Toolchain, names_of, quickly};
use crate::process::{execute, find, output, root};
use crate::python::maturin;
use crate::tools::{self, Tools};

/// One wheel is for every CPython with a lock; the other one for this CPython,
/// which has none.
const FREE_THREADED: &str = "python3.14t";

/// Minor versions of CPython 3 that a wheel is tried with, if they are there.
const VERSIONS: std::ops::RangeInclusive<u32> = 9..=20;

/// Prints the names of a wheel's programs and libraries, and what they begin with.
const ELF_FILES: &str = r"
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
for name in wheel.namelist():
    start = wheel.read(name)[:20]
    if start.startswith(b'\x7fELF'):
        print(name, start.hex())
";

/// Imports the module, calls a function, and starts the supervisor, which says
/// what it is.
const TRIAL: &str = r#"
import pathlib, platform, subprocess, ekuiper
from ekuiper import testing
def double(number: int) -> int:
    return 2 * number
assert testing.function(double).call(21) == 42
supervisor = pathlib.Path(ekuiper.__file__).parent / "ekuiper-guard"
said = subprocess.run([supervisor], capture_output=True, text=True).stderr
assert "the supervisor of supervised plugins" in said, said
print("imported and called by CPython", platform.python_version(), "on", platform.machine())
"#;

/// Makes the wheels of the named targets, or of all, and tries those that this
/// machine can run.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (options, names): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| argument.starts_with('-'));
    if let Some(unknown) = options.iter().find(|option| **option != "--quick") {
        return Err(format!("{unknown} is unknown: cargo xtask wheels takes --quick and names of targets"));
    }
    let mut tools = tools::set_up()?;
    let folder = root().join("target/device-wheels");
    // Wheels of an earlier version would be checked with the new ones.
    let _ = std::fs::remove_dir_all(&folder);
    let wheels = Wheels { folder, is_quick: !options.is_empty() };
    wheels.build(&Target::chosen(&names)?, &mut tools)?;
    tools.report_skipped();
    Ok(())
}

/// Makes all for a release.
pub(crate) fn release(folder: &Path, tools: &mut Tools) -> Result<()> {
    Wheels { folder: folder.to_owned(), is_quick: false }.build(&TARGETS, tools)
}

/// What is made.
struct Wheels {
    folder: PathBuf,
    /// Built fast, which makes them larger.
    is_quick: bool,
}

impl Wheels {
    fn build(&self, targets: &[Target], tools: &mut Tools) -> Result<()> {
        self.sources(tools)?;
        let toolchain = match Toolchain::set_up() {
            Ok(toolchain) => toolchain,
            Err(reason) => {
                tools.note(format!("the wheels for {}: {reason}", names_of(targets)));
                return Ok(());
            }
        };
        for target in targets {
            match toolchain.library(target.triple) {
                Ok(library) => {
                    let mut maturin = maturin(tools, &["build", "--release", "--zig"], &self.folder);
                    maturin.args(["--target", target.triple, "--compatibility", target.platform()]);
                    maturin.arg("--interpreter").arg(tools.python_bin()).args(["--interpreter", FREE_THREADED]);
                    toolchain.for_command(&mut maturin, &library);
                    execute(if self.is_quick { quickly(&mut maturin) } else { &mut maturin })?;
                    self.check(target, &toolchain, tools)?;
                }
                Err(reason) => tools.note(format!("the wheels for {}: {reason}", target.triple)),
            }
        }
        Ok(())
    }

    /// Makes the archive of the sources, and a wheel from it as pip does: with
    /// maturin alone.
    fn sources(&self, tools: &Tools) -> Result<()> {
        execute(tools.for_command(&mut maturin(tools, &["sdist"], &self.folder)))?;
        let archive = self.made("", ".tar.gz")?;
        let mut pip = Command::new(tools.python_bin());
        pip.args(["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"]);
        pip.args(["--disable-pip-version-check", "--wheel-dir"]).arg(root().join("target/wheels-from-sources"));
        execute(tools.for_command(quickly(pip.args(archive))))
    }

    /// Checks a target's wheels: what they are for, by their names, by their
    /// programs and libraries, and by what these need.
    fn check(&self, target: &Target, toolchain: &Toolchain, tools: &mut Tools) -> Result<()> {
        let (platform, processor) = (target.platform(), target.machine());
        let wheels = self.made(platform, &format!("{processor}.whl"))?;
        for kind in ["cp39-abi3-", "cp314-cp314t-"] {
            if !wheels.iter().any(|wheel| name_of(wheel).contains(kind)) {
                return Err(format!("there is no wheel {kind}{platform}_{processor}"));
            }
        }
        for wheel in &wheels {
            let name = name_of(wheel);
            let found = output(Command::new(tools.python_bin()).args(["-c", ELF_FILES]).arg(wheel))?;
            for part in ["_ekuiper", "ekuiper-guard"] {
                let line = found.lines().find(|line| line.starts_with(&format!("ekuiper/{part}")));
                let line = line.ok_or_else(|| format!("{name} has no {part}"))?;
                if !target.has_start(line.rsplit(' ').next().unwrap_or_default()) {
                    return Err(format!("{name} has a {part} for another processor: {line}"));
                }
            }
            let mut show = Command::new(toolchain.program("auditwheel"));
            show.arg("show");
            if !target.has_glibc() {
                // Not among this machine's libraries, which are no musl's.
                show.arg("--ldpaths").arg(&self.folder);
            }
            let shown = output(show.arg(wheel))?;
            let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            // For musl, zig calls the C library by the name that musl's loader
            // takes for itself, and auditwheel knows only Alpine's.
            let needs_musl_alone =
                !target.has_glibc() && shown.contains("required by the wheel: { \"libc.so\": null }");
            if !needs_musl_alone && !shown.contains(&format!("following platform tag: \"{}", target.tag())) {
                return Err(format!("auditwheel says of {name}: {shown}"));
            }
            println!("{name}: its library and its supervisor are for {processor}, on {} and newer", target.tag());
        }
        if target.is_own() && target.has_glibc() { self.try_on_this_machine(&wheels, tools) } else { Ok(()) }
    }

    /// Installs wheels into empty environments, and uses them.
    fn try_on_this_machine(&self, wheels: &[PathBuf], tools: &mut Tools) -> Result<()> {
        for wheel in wheels {
            let pythons = if name_of(wheel).contains("-abi3-") {
                let found: Vec<PathBuf> =
                    VERSIONS.filter_map(|minor| interpreter(&format!("python3.{minor}"))).collect();
                let ends = [found.first(), found.last()].into_iter().flatten().cloned();
                let mut ends: Vec<PathBuf> = ends.collect();
                ends.dedup();
                if ends.is_empty() { vec![tools.python_bin()] } else { ends }
            } else {
                interpreter(FREE_THREADED).into_iter().collect()
            };
            if pythons.is_empty() {
                tools.note(format!("trying {}: there is no {FREE_THREADED}", name_of(wheel)));
            }
            for python in pythons {
                let environment = root().join("target/wheel-environment");
                execute(Command::new(python).args(["-m", "venv", "--clear"]).arg(&environment))?;
                let python = environment.join("bin/python");
                let mut install = Command::new(&python);
                install.args(["-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"]);
                execute(install.arg(wheel))?;
                print!("{}", output(Command::new(&python).args(["-c", TRIAL]))?);
            }
        }
        Ok(())
    }

    /// The files of this folder whose names have the first and end with the
    /// second text.
    fn made(&self, part: &str, end: &str) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(&self.folder);
        let entries = entries.map_err(|error| format!("cannot read {}: {error}", self.folder.display()))?;
        let files = entries.flatten().map(|entry| entry.path());
        let mut files: Vec<_> = files
            .filter(|file| name_of(file).starts_with("ekuiper_rs-"))
            .filter(|file| name_of(file).contains(part) && name_of(file).ends_with(end))
            .collect();
        files.sort();
        Ok(files)
    }
}

impl Target {
    /// The platform, as maturin takes it.
    fn platform(&self) -> &'static str {
        if self.has_glibc() { "manylinux2014" } else { "musllinux_1_2" }
    }

    /// The platform, as wheels name it.
    fn tag(&self) -> String {
        let platform = if self.has_glibc() { "manylinux_2_17" } else { "musllinux_1_2" };
        format!("{platform}_{}", self.machine())
    }

    /// Python's name of the processor.
    fn machine(&self) -> &'static str {
        if self.processor == "arm" { "armv7l" } else { self.processor }
    }

    /// Whether this is the start of an ELF file for the processor, in
    /// hexadecimal digits: its word size is at 4, its processor at 18.
    fn has_start(&self, digits: &str) -> bool {
        let (size, processor) = match self.processor {
            "x86_64" => ("02", "3e00"),
            "aarch64" => ("02", "b700"),
            _ => ("01", "2800"),
        };
        digits.get(8..10) == Some(size) && digits.get(36..40) == Some(processor)
    }
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Finds an interpreter that runs, also among those of pyenv that are not chosen.
fn interpreter(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let versions = home.and_then(|home| std::fs::read_dir(home.join("versions")).ok()).into_iter().flatten().flatten();
    let mut found = find(name).into_iter().chain(versions.map(|version| version.path().join("bin").join(name)));
    found.find(|path| path.is_file() && output(Command::new(path).arg("--version")).is_ok())
}
