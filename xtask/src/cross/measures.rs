//! What the plugin `mirror` of a target is like under this machine's host.

use std::path::Path;

use super::Target;
use super::emulator::Emulator;
use crate::Result;
use crate::process::{cargo, execute, output, root};

/// How often the plugin is started, and a function called.
const STARTS: usize = 5;
const CALLS: &str = "5000";

pub(super) const HEADINGS: &str = "  mirror KiB  start ms  call p50 µs";

/// The figures.
pub(super) struct Measures {
    kibibytes: u64,
    /// From the start to the handshake; the median.
    start_ms: u64,
    call_us: f64,
}

impl Measures {
    /// Takes them, with the release builds of the command and the plugin.
    pub(super) fn take(target: &Target, emulator: &Emulator) -> Result<Self> {
        let mut build = cargo();
        build.args(["build", "--release", "--package", "ekuiper-cli"]);
        // It is not what is measured here.
        execute(super::quickly(&mut build))?;
        let program = target.programs("release").join("mirror");
        let found = std::fs::metadata(&program).map_err(|error| format!("{}: {error}", program.display()))?;
        let folder = root().join("target/cross/mirror");
        plugin(&folder, &program).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let command = |arguments: &[&str]| {
            let mut command = std::process::Command::new(root().join("target/release/ekuiper-plugin"));
            command.args(&arguments[..1]).arg(&folder).args(&arguments[1..]);
            output(&mut emulator.run(&command))
        };
        let mut starts = (0..STARTS).map(|_| started(&command(&["check", "--json", "--try-for", "1ms"])?));
        let mut starts: Vec<u64> = starts.by_ref().collect::<Result<_>>()?;
        starts.sort_unstable();
        let called = command(&["call", "revert", "\"hello\"", "--repeat", CALLS])?;
        let call_us = number(&called, "\"p50_us\":").ok_or_else(|| format!("no latency in {called}"))?;
        Ok(Self { kibibytes: found.len().div_ceil(1024), start_ms: starts[STARTS / 2], call_us })
    }

    pub(super) fn columns(&self) -> String {
        format!("{:>12} {:>9} {:>12.0}", self.kibibytes, self.start_ms, self.call_us)
    }
}

/// Makes a folder of the plugin with this program.
fn plugin(folder: &Path, program: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder.join("sources"))?;
    for name in ["mirror.json", "sources/random.yaml"] {
        std::fs::copy(root().join("examples/mirror").join(name), folder.join(name))?;
    }
    std::fs::copy(program, folder.join("mirror")).map(drop)
}

/// Finds how long a check has waited for the handshake, in milliseconds.
fn started(report: &str) -> Result<u64> {
    let found = number(report, "handshake after ").ok_or_else(|| format!("no handshake in {report}"))?;
    Ok(found as u64)
}

fn number(text: &str, after: &str) -> Option<f64> {
    let (_, rest) = text.split_once(after)?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}
