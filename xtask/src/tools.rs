//! What the tests need besides cargo, set up in `.tools` in the checkout:
//! nothing is installed elsewhere, and nothing is done twice.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::{execute, exists, path_with, root};

/// The Python packages: what builds libnng and the wheel, and what the tests
/// talk to.
const REQUIREMENTS: [&str; 3] = ["xtask/requirements.txt", "interop/requirements.txt", "cli/tests/requirements.txt"];

/// The set-up, done.
#[derive(Default)]
pub(crate) struct Tools {
    folder: PathBuf,
    /// What was left out, for a reason that the user may want to know.
    skipped: Vec<String>,
}

/// Sets everything up that is not there yet.
pub(crate) fn set_up() -> Result<Tools> {
    let mut tools = Tools { folder: root().join(".tools"), skipped: Vec::new() };
    std::fs::create_dir_all(&tools.folder)
        .map_err(|error| format!("cannot make {}: {error}", tools.folder.display()))?;
    tools.python()?;
    tools.mangos_peer()?;
    Ok(tools)
}

impl Tools {
    /// Makes `command` find the tools before anybody else's: cmake and ninja
    /// build libnng.
    pub(crate) fn for_command<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("PATH", path_with(self.folder.join("python/bin"))).env("CMAKE_GENERATOR", "Ninja")
    }

    /// The interpreter that has the tools.
    pub(crate) fn python_bin(&self) -> PathBuf {
        self.folder.join("python/bin/python")
    }

    /// Says again, where it is seen, what was left out.
    pub(crate) fn report_skipped(&self) {
        for text in &self.skipped {
            eprintln!("SKIPPED: {text}");
        }
    }

    /// Notes that something is left out; continuous integration must have it.
    pub(crate) fn skip(&mut self, text: String) -> Result<()> {
        if std::env::var_os("CI").is_some() {
            return Err(format!("{text} (CI is set, so this is an error)"));
        }
        self.note(text);
        Ok(())
    }

    /// Notes that something is left out, which nobody need have.
    pub(crate) fn note(&mut self, text: String) {
        self.skipped.push(text);
    }

    /// A Python environment with the packages, in `.tools/python`.
    fn python(&self) -> Result<()> {
        let environment = Environment { folder: self.folder.join("python"), requirements: &REQUIREMENTS };
        environment.set_up(execute)
    }

    /// A host on mangos, the library of eKuiper's engine, as
    /// `.tools/mangos-peer`.
    fn mangos_peer(&mut self) -> Result<()> {
        self.go("mangos-peer", "interop/peers/mangos", "the tests against mangos")
    }

    /// What measures mangos, as `.tools/mangos-bench`.
    pub(crate) fn mangos_bench(&mut self) -> Result<()> {
        self.go("mangos-bench", "bench/peers/mangos", "mangos in the benchmark")
    }

    /// What measures iceoryx2, as `.tools/peers/release/iceoryx2-bench`: a
    /// workspace of its own, which may ask for a later compiler.
    pub(crate) fn iceoryx2_bench(&mut self) -> Result<()> {
        let mut build = crate::process::cargo();
        build.args(["build", "--quiet", "--release", "--locked", "--manifest-path", "bench/peers/iceoryx2/Cargo.toml"]);
        build.arg("--target-dir").arg(self.folder.join("peers"));
        execute(&mut build).or_else(|error| self.skip(format!("iceoryx2 in the benchmark: {error}")))
    }

    /// Builds a Go program as `.tools/<name>`; without it, `what` is left out.
    fn go(&mut self, name: &str, sources: &str, what: &str) -> Result<()> {
        if !exists("go") {
            return self
                .skip(format!("{what}: go was not found (install the Debian package golang-go, 1.21 or later)"));
        }
        let program = self.folder.join(name);
        // Inside the checkout, like everything else; writable, so that it can
        // be removed.
        let go = self.folder.join("go");
        execute(
            Command::new("go")
                .args(["build", "-modcacherw", "-o"])
                .arg(&program)
                .arg(".")
                .current_dir(root().join(sources))
                .env("GOPATH", go.join("path"))
                .env("GOCACHE", go.join("cache"))
                .env("GOTOOLCHAIN", "local")
                .env("CGO_ENABLED", "0"),
        )
    }

    /// Finds a command of cargo's: the user's, or one of our own in
    /// `.tools/cargo`, which is installed once.
    pub(crate) fn cargo_tool(&self, tool: &CargoTool) -> Result<PathBuf> {
        if exists(tool.name) {
            return Ok(tool.name.into());
        }
        let folder = self.folder.join("cargo");
        let program = folder.join("bin").join(tool.name);
        let stamp = folder.join(format!("{}.txt", tool.name));
        if !is_current(&stamp, tool.version) || !program.is_file() {
            let mut install = crate::process::cargo();
            install.args(["install", "--quiet", "--locked", "--force", tool.name, "--version", tool.version]);
            install.args(tool.options).arg("--root").arg(&folder);
            execute(&mut install)?;
            done(&stamp, tool.version)?;
        }
        Ok(program)
    }
}

/// A program that cargo installs.
pub(crate) struct CargoTool {
    name: &'static str,
    version: &'static str,
    options: &'static [&'static str],
}

/// Checks licences, sources, duplicates and advisories.
pub(crate) const CARGO_DENY: CargoTool = CargoTool { name: "cargo-deny", version: "0.20.2", options: &[] };

/// Lists what a program is made of.
pub(crate) const CARGO_CYCLONEDX: CargoTool = CargoTool { name: "cargo-cyclonedx", version: "0.5.9", options: &[] };

/// Finds changes that break users of a crate.
pub(crate) const SEMVER_CHECKS: CargoTool = CargoTool { name: "cargo-semver-checks", version: "0.51.0", options: &[] };

/// Builds the guide; without the server of its pages, most of it is not needed.
pub(crate) const MDBOOK: CargoTool =
    CargoTool { name: "mdbook", version: "0.5.4", options: &["--no-default-features"] };

/// A Python environment with what is required in these files.
pub(crate) struct Environment<'a> {
    pub(crate) folder: PathBuf,
    pub(crate) requirements: &'a [&'a str],
}

impl Environment<'_> {
    /// Makes it, unless it is there already; `execute` runs the commands.
    pub(crate) fn set_up(&self, execute: impl Fn(&mut Command) -> Result<()>) -> Result<()> {
        if self.is_current()? {
            return Ok(());
        }
        if !exists("python3") {
            return Err("python3 was not found: install the Debian packages python3 and python3-venv".into());
        }
        execute(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&self.folder)).map_err(|error| {
            format!("{error}\npython3 cannot make an environment: install the Debian package python3-venv")
        })?;
        let mut pip = Command::new(self.folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).current_dir(root());
        self.requirements.iter().for_each(|file| {
            pip.args(["-r", file]);
        });
        execute(&mut pip)?;
        done(&self.stamp(), &self.wanted()?)
    }

    /// Whether it is there already.
    pub(crate) fn is_current(&self) -> Result<bool> {
        Ok(is_current(&self.stamp(), &self.wanted()?))
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("installed.txt")
    }

    fn wanted(&self) -> Result<String> {
        let mut wanted = format!("{}\n", self.folder.display());
        for file in self.requirements {
            let text = std::fs::read_to_string(root().join(file));
            wanted += &text.map_err(|error| format!("cannot read {file}: {error}"))?;
        }
        Ok(wanted)
    }
}

/// Whether a set-up was done with these very words.
pub(crate) fn is_current(stamp: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|found| found == wanted)
}

/// Notes that it is.
pub(crate) fn done(stamp: &Path, wanted: &str) -> Result<()> {
    std::fs::write(stamp, wanted).map_err(|error| format!("cannot write {}: {error}", stamp.display()))
}
