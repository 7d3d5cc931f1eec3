//! The targets of the devices that eKuiper runs on: built, and tested under
//! qemu.
//!
//! Needed are rustup, and for tests of other processors' programs Debian's
//! packages of qemu. What cannot be had is left out, and said.

mod emulator;
mod library;
mod measures;
mod toolchain;

use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::process::{cargo, execute, root};
use crate::tools::{self, Tools};
use emulator::Emulator;
pub(crate) use library::install;
use measures::Measures;
pub(crate) use toolchain::Toolchain;

/// Where eKuiper runs: its images, and systems with glibc since 2014.
pub(crate) const TARGETS: [Target; 6] = [
    Target { triple: "x86_64-unknown-linux-gnu", processor: "x86_64" },
    Target { triple: "x86_64-unknown-linux-musl", processor: "x86_64" },
    Target { triple: "aarch64-unknown-linux-gnu", processor: "aarch64" },
    Target { triple: "aarch64-unknown-linux-musl", processor: "aarch64" },
    Target { triple: "armv7-unknown-linux-gnueabihf", processor: "arm" },
    Target { triple: "armv7-unknown-linux-musleabihf", processor: "arm" },
];

/// The oldest glibc that the programs run with.
const GLIBC: &str = "2.17";

/// What is built with all its programs, in one go, so that nothing is built twice.
const BUILT: [&str; 5] = ["ekuiper-sdk", "ekuiper-host", "ekuiper-cli", "ekuiper-interop", "mirror"];

/// Tests of what depends on the processor: sizes, atomics, futexes, credentials
/// of peers. One is left out, since its user has no number where the tests run.
const OWN_TESTS: [&[&str]; 3] = [
    &["--package", "ekuiper-core", "--lib"],
    &["--package", "ekuiper-transport-ipc", "--lib", "--", "--skip", "the_lock_of_a_users_sockets_is_the_users"],
    &["--package", "ekuiper-sdk", "--test", "strangers", "--test", "functions", "--test", "symbols"],
];

/// The long ones.
const CONFORMANCE: &[&str] =
    &["--package", "ekuiper-transport-uds", "--test", "conformance", "--", "--skip", "stress_", "--test-threads", "8"];

/// The number of cases of tests with made-up input: qemu is slow.
const CASES: &str = "16";

/// Tests of this machine's host, whose plugins are the target's.
const WIRE_TESTS: [&str; 5] = ["our_host", "our_sinks", "supervised", "allocations", "devices"];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) triple: &'static str,
    /// Qemu's name of it.
    pub(crate) processor: &'static str,
}

/// What came of a target.
#[derive(Default)]
struct Outcome {
    is_built: bool,
    is_tested: bool,
    measures: Option<Measures>,
}

/// Builds and tests the named targets, or all; if that is asked for, measures
/// the plugin instead of testing.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (options, names): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| argument.starts_with('-'));
    let chosen = Target::chosen(&names)?;
    let has = |name: &str| options.iter().any(|option| *option == name);
    if let Some(unknown) = options.iter().find(|option| !["--quick", "--measure"].contains(&option.as_str())) {
        return Err(format!("{unknown} is unknown: cargo xtask cross takes --quick, --measure and names of targets"));
    }
    let (is_quick, is_measured) = (has("--quick"), has("--measure"));
    let mut tools = tools::set_up()?;
    let toolchain = match Toolchain::set_up() {
        Ok(toolchain) => toolchain,
        Err(reason) => {
            tools.note(format!("the targets {}: {reason}", names_of(&chosen)));
            tools.report_skipped();
            return Ok(());
        }
    };
    let mut outcomes = Vec::new();
    for target in &chosen {
        outcomes.push(Cross { target, toolchain: &toolchain, is_quick, is_measured }.run(&mut tools)?);
    }
    table(&chosen, &outcomes, is_measured);
    tools.report_skipped();
    Ok(())
}

/// Builds the command for release, one static program for each processor, and
/// returns the targets with their programs.
pub(crate) fn static_commands(tools: &mut Tools) -> Result<Vec<(&'static str, PathBuf)>> {
    let targets: Vec<_> = TARGETS.iter().filter(|target| !target.has_glibc()).collect();
    let toolchain = match Toolchain::set_up() {
        Ok(toolchain) => toolchain,
        Err(reason) => {
            tools.note(format!("the static programs: {reason}"));
            return Ok(Vec::new());
        }
    };
    let mut programs = Vec::new();
    for target in targets {
        match toolchain.library(target.triple) {
            Ok(library) => {
                let mut build = toolchain.cargo("zigbuild", &target.for_zig(), &library);
                execute(build.args(["--release", "--package", "ekuiper-cli"]))?;
                programs.push((target.triple, target.programs("release").join("ekuiper-plugin")));
            }
            Err(reason) => tools.note(format!("the program for {}: {reason}", target.triple)),
        }
    }
    Ok(programs)
}

pub(crate) fn names_of(targets: &[Target]) -> String {
    targets.iter().map(|target| target.triple).collect::<Vec<_>>().join(", ")
}

fn table(targets: &[Target], outcomes: &[Outcome], is_measured: bool) {
    let word = |is: bool| if is { "yes" } else { "skipped" };
    let heading = if is_measured { measures::HEADINGS.to_owned() } else { format!("{:>8}", "tests") };
    println!("{:<32} {:>7} {heading}", "target", "builds");
    for (target, outcome) in targets.iter().zip(outcomes) {
        let result = match &outcome.measures {
            _ if !is_measured => format!("{:>8}", word(outcome.is_tested)),
            Some(measures) => measures.columns(),
            None => "skipped".to_owned(),
        };
        println!("{:<32} {:>7} {result}", target.triple, word(outcome.is_built));
    }
}

impl Target {
    /// The targets of these names, or all if there are none.
    pub(crate) fn chosen(names: &[impl AsRef<str>]) -> Result<Vec<Self>> {
        let named = |name: &str| {
            let found = TARGETS.iter().find(|target| target.triple == name).copied();
            found.ok_or_else(|| format!("{name} is no target: they are {}", names_of(&TARGETS)))
        };
        if names.is_empty() { Ok(TARGETS.to_vec()) } else { names.iter().map(|name| named(name.as_ref())).collect() }
    }

    /// This machine runs its programs without an emulator.
    pub(crate) fn is_own(&self) -> bool {
        self.processor == std::env::consts::ARCH
    }

    pub(crate) fn has_glibc(&self) -> bool {
        self.triple.contains("-gnu")
    }

    /// The name for zig, which has the version of glibc.
    fn for_zig(&self) -> String {
        if self.has_glibc() { format!("{}.{GLIBC}", self.triple) } else { self.triple.to_owned() }
    }

    /// Where cargo puts the target's programs.
    fn programs(&self, profile: &str) -> PathBuf {
        root().join("target").join(self.triple).join(profile)
    }
}

/// The work on one target.
struct Cross<'a> {
    target: &'a Target,
    toolchain: &'a Toolchain,
    /// Without the suite of transports, which takes the longest.
    is_quick: bool,
    is_measured: bool,
}

impl Cross<'_> {
    fn run(&self, tools: &mut Tools) -> Result<Outcome> {
        let triple = self.target.triple;
        eprintln!("xtask: {triple}");
        let mut outcome = Outcome::default();
        let library = match self.toolchain.library(triple) {
            Ok(library) => library,
            Err(reason) => {
                tools.note(format!("{triple}: {reason}"));
                return Ok(outcome);
            }
        };
        let zig = |arguments: &[&str]| {
            let mut command = self.toolchain.cargo(arguments[0], &self.target.for_zig(), &library);
            command.args(&arguments[1..]);
            command
        };
        if self.is_measured {
            execute(&mut zig(&["zigbuild", "--package", "mirror", "--release"]))?;
            outcome.is_built = true;
            if let Some(emulator) = self.emulator("release", tools) {
                outcome.measures = Some(Measures::take(self.target, &emulator)?);
            }
            return Ok(outcome);
        }
        let mut build = zig(&["zigbuild", "--lib", "--bins", "--examples"]);
        build.args(BUILT.iter().flat_map(|package| ["--package", package]));
        execute(&mut build)?;
        execute(as_fast_as_possible(&mut zig(&["zigbuild", "--package", "mirror", "--release"])))?;
        // It is asked for the description of the plugin.
        execute(as_fast_as_possible(cargo().args(["build", "--release", "--package", "mirror"])))?;
        outcome.is_built = true;
        let Some(emulator) = self.emulator("debug", tools) else { return Ok(outcome) };
        for tests in OWN_TESTS.into_iter().chain((!self.is_quick).then_some(CONFORMANCE)) {
            emulator.execute(zig(&["test"]).args(tests).env("PROPTEST_CASES", CASES))?;
        }
        let mut wire = self.wire_tests();
        emulator.execute(tools.for_command(as_fast_as_possible(&mut wire)))?;
        outcome.is_tested = true;
        Ok(outcome)
    }

    /// What runs the target's programs; without it, that is noted.
    fn emulator(&self, profile: &str, tools: &mut Tools) -> Option<Emulator> {
        let found = Emulator::find(self.target, &self.target.programs(profile).join("mirror"));
        found.map_err(|reason| tools.note(format!("running programs of {}: {reason}", self.target.triple))).ok()
    }

    fn wire_tests(&self) -> Command {
        let mut test = cargo();
        test.args(["test", "--package", "ekuiper-interop"]);
        for name in WIRE_TESTS {
            test.args(["--test", name]);
        }
        test.env("EKUIPER_DEVICE", self.target.triple);
        test
    }
}

/// Makes a release build fast. As an author's it is only where it is measured:
/// most of its time is spent on its size.
pub(crate) fn quickly(command: &mut Command) -> &mut Command {
    command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
}

/// Makes a release build of which nothing is measured.
fn as_fast_as_possible(command: &mut Command) -> &mut Command {
    quickly(command).env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
}
