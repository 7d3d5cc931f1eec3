//! Building a plugin that is a Cargo project.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ekuiper_host::GuardedProcess;
use serde_json::Value;

use crate::console;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::program_output::{self, ReadUntil};
use crate::progress::{Progress, counted};

/// How a Cargo project is built.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BuildOptions {
    /// Build a Cargo project with the dev profile, for a debugger
    #[arg(long)]
    pub(crate) debug: bool,
    /// Use the program that a Cargo project was built to before
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// A Cargo project.
#[derive(Clone, Debug)]
pub(crate) struct Project {
    folder: PathBuf,
    /// The content of its `Cargo.toml`.
    file: toml::Table,
}

/// What a project is built to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Build<'a> {
    pub(crate) options: BuildOptions,
    /// A feature of the project's; asked for only if it has it.
    pub(crate) feature: Option<&'a str>,
    /// The target, if it is not this machine's.
    pub(crate) target: Option<&'a str>,
    /// More settings, as cargo's `--config` takes them.
    pub(crate) settings: Vec<String>,
    /// The name of the program, if the project has several.
    pub(crate) program: Option<&'a str>,
}

impl Project {
    /// Reads the project in `folder`, if there is one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("Cargo.toml");
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(|source| Error::Read { path, source })?;
        // cargo reports what is wrong with the file.
        let file = ekuiper_core::text::decode(&bytes).unwrap_or_default().parse().unwrap_or_default();
        Ok(Some(Self { folder: folder.to_owned(), file }))
    }

    fn has_feature(&self, name: &str) -> bool {
        self.file.get("features").and_then(|features| features.get(name)).is_some()
    }

    /// The project's name.
    pub(crate) fn name(&self) -> Option<&str> {
        self.file.get("package")?.get("name")?.as_str()
    }

    /// Builds the project, and returns the path of its program.
    pub(crate) fn build(&self, build: &Build<'_>) -> Result<PathBuf> {
        if build.options.no_build {
            return self.built_before(build);
        }
        let mut arguments = vec!["build", "--quiet", "--message-format=json-render-diagnostics"];
        arguments.extend((!build.options.debug).then_some("--release"));
        let feature = build.feature.filter(|name| self.has_feature(name));
        arguments.extend(feature.into_iter().flat_map(|feature| ["--features", feature]));
        arguments.extend(build.target.into_iter().flat_map(|target| ["--target", target]));
        arguments.extend(build.settings.iter().flat_map(|setting| ["--config", setting]));
        let what = build.target.map_or(String::new(), |target| format!(" for {target}"));
        console::line(format_args!("building {}{what} …", self.name().unwrap_or("the project")));
        let (mut programs, mut crates, mut progress) = (Vec::new(), 0, Progress::start());
        self.cargo(&arguments, |message| {
            // One for each library and program that is built, or was before.
            if message["reason"] == "compiler-artifact" {
                crates += 1;
                let built = |elapsed: Duration| format!("{} built, {} s", counted(crates, "crate"), elapsed.as_secs());
                progress.update(built);
            }
            programs.extend(self.program(&message));
        })?;
        drop(progress);
        self.choose(programs, build.program)
    }

    /// Runs cargo, and hands over each line that it prints, parsed.
    fn cargo(&self, arguments: &[&str], mut each: impl FnMut(Value)) -> Result<()> {
        let failed = |source| Error::Cargo { path: self.folder.clone(), source };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        let (mut output, input) = std::io::pipe().map_err(failed)?;
        let messages = std::io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
        let child =
            GuardedProcess::start(Path::new(&cargo), &arguments, &self.folder, input, messages).map_err(failed)?;
        let mut text = Vec::new();
        let until = program_output::read(&mut output, None, Interrupt::current().as_ref(), |piece| {
            for part in piece.split_inclusive(|byte| *byte == b'\n') {
                text.extend_from_slice(part);
                if text.ends_with(b"\n") {
                    each(serde_json::from_slice(&text).unwrap_or_default());
                    text.clear();
                }
            }
            true
        });
        if until.map_err(failed)? != ReadUntil::End {
            // Dropping it ends cargo, and the compilers that it has started.
            return Err(Error::Interrupted);
        }
        if child.wait().map_err(failed)?.success() { Ok(()) } else { Err(Error::Build { path: self.folder.clone() }) }
    }

    /// Returns the name and path of the program that cargo reports, if it is
    /// this project's own.
    fn program(&self, message: &Value) -> Option<(String, PathBuf)> {
        let is_own = || {
            let manifest = Path::new(message["manifest_path"].as_str()?).canonicalize().ok()?;
            (manifest == self.folder.join("Cargo.toml").canonicalize().ok()?).then_some(())
        };
        let is_program = message["reason"] == "compiler-artifact" && message["target"]["kind"][0] == "bin";
        let path = message["executable"].as_str().filter(|_| is_program)?;
        is_own()?;
        Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
    }

    /// Chooses the program of this name, or the only one.
    fn choose(&self, mut programs: Vec<(String, PathBuf)>, wanted: Option<&str>) -> Result<PathBuf> {
        let path = self.folder.clone();
        if let Some(wanted) = wanted {
            let found = programs.into_iter().find(|(name, _)| name == wanted);
            return found.map(|(_, path)| path).ok_or_else(|| Error::NoArtifact { path, wanted: wanted.to_owned() });
        }
        // The one that `cargo run` takes.
        let default =
            self.file.get("package").and_then(|package| package.get("default-run")).and_then(|run| run.as_str());
        if let (Some(default), true) = (default, programs.len() > 1) {
            programs.retain(|(name, _)| name == default);
        }
        match programs.len() {
            1 => Ok(programs.remove(0).1),
            0 => Err(Error::NoProgram { path }),
            _ => Err(Error::ManyPrograms { path, found: programs.into_iter().map(|(name, _)| name).collect() }),
        }
    }

    /// Returns the path of the program that was built before.
    fn built_before(&self, build: &Build<'_>) -> Result<PathBuf> {
        let mut metadata = Value::Null;
        self.cargo(&["metadata", "--no-deps", "--format-version=1"], |answer| metadata = answer)?;
        let mut folder = PathBuf::from(metadata["target_directory"].as_str().unwrap_or("target"));
        folder.extend(build.target);
        folder.push(if build.options.debug { "debug" } else { "release" });
        let own = self.folder.join("Cargo.toml");
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let targets = packages
            .filter(|package| package["manifest_path"].as_str().map(Path::new) == Some(&own))
            .flat_map(|package| package["targets"].as_array().into_iter().flatten())
            .filter(|target| target["kind"][0] == "bin")
            .filter_map(|target| target["name"].as_str());
        let programs = targets.map(|name| (name.to_owned(), folder.join(name))).collect();
        let program = self.choose(programs, build.program)?;
        if program.is_file() { Ok(program) } else { Err(Error::NotBuilt { program }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(file: &str) -> Project {
        Project { folder: "/nowhere".into(), file: file.parse().unwrap_or_default() }
    }

    #[test]
    fn a_transport_is_asked_for_only_where_there_is_a_feature_of_its_name() {
        let nng = project("[package]\nname = 'x'\n[features]\ndefault = ['uds']\nuds = []\nnng = []\n");
        assert!(nng.has_feature("nng"));
        assert!(!nng.has_feature("zeromq"));
        assert!(!project("[package]\nname = 'x'\n").has_feature("nng"));
        assert!(!project("not toml").has_feature("nng"));
    }

    #[test]
    fn the_program_is_the_wanted_the_default_or_the_only_one() {
        let programs = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), PathBuf::from(name))).collect();
        let choose = |file: &str, names: &[&str], wanted| {
            project(file).choose(programs(names), wanted).map(|path| path.display().to_string()).ok()
        };
        assert_eq!(choose("", &["a"], None).as_deref(), Some("a"));
        assert_eq!(choose("", &["a", "b"], Some("b")).as_deref(), Some("b"));
        assert_eq!(choose("[package]\ndefault-run = 'b'", &["a", "b"], None).as_deref(), Some("b"));
        assert_eq!(choose("", &["a", "b"], None), None);
        assert_eq!(choose("", &["a"], Some("b")), None);
        assert_eq!(choose("", &[], None), None);
    }
}
