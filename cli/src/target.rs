//! The processors and systems that a package's program is built for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ekuiper_host::GuardedProcess;

use crate::error::{Error, Result};

/// Short names of the processors that eKuiper's images are made for.
const NAMES: [(&str, &str); 6] = [
    ("x86_64", "x86_64-unknown-linux-musl"),
    ("amd64", "x86_64-unknown-linux-musl"),
    ("aarch64", "aarch64-unknown-linux-musl"),
    ("arm64", "aarch64-unknown-linux-musl"),
    ("armv7", "armv7-unknown-linux-musleabihf"),
    ("arm/v7", "armv7-unknown-linux-musleabihf"),
];

/// The word for this machine's own target, with its C library.
const NATIVE: &str = "native";

/// What a program is built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// This machine: the program runs where the C library is as new as here.
    Native,
    /// A target of Rust's; static where it is one with musl.
    Triple(String),
}

impl Target {
    /// Reads what a user asks for. Without that, a static program for this
    /// machine's processor: it runs in each of eKuiper's images.
    pub(crate) fn parse(wanted: Option<&str>) -> Result<Self> {
        let Some(wanted) = wanted else {
            return Self::parse(Some(std::env::consts::ARCH)).or(Ok(Self::Native));
        };
        if wanted == NATIVE {
            return Ok(Self::Native);
        }
        if let Some((_, triple)) = NAMES.iter().find(|(name, _)| *name == wanted) {
            return Ok(Self::Triple((*triple).to_owned()));
        }
        let is_triple = wanted.split('-').count() >= 3
            && wanted.bytes().all(|byte| byte.is_ascii_alphanumeric() || [b'-', b'_', b'.'].contains(&byte));
        if is_triple { Ok(Self::Triple(wanted.to_owned())) } else { Err(Error::NoTarget { name: wanted.to_owned() }) }
    }

    /// The name that cargo knows it by; `None` for this machine's own.
    pub(crate) fn triple(&self) -> Option<&str> {
        match self {
            Self::Native => None,
            Self::Triple(triple) => Some(triple),
        }
    }

    /// Whether this machine runs its programs.
    pub(crate) fn runs_here(&self) -> bool {
        self.triple().is_none_or(|triple| {
            let rest = triple.strip_prefix(std::env::consts::ARCH).unwrap_or_default();
            // With another C library's loader it may not.
            rest.starts_with('-') && rest.ends_with("-linux-musl")
        })
    }

    /// The name in a report.
    pub(crate) fn name(&self) -> String {
        self.triple().unwrap_or(NATIVE).to_owned()
    }

    /// Checks that Rust's library for the target is installed.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(triple) = self.triple() else { return Ok(()) };
        let missing = || Error::TargetMissing { target: triple.to_owned() };
        let Some(folder) = library(triple) else { return Err(missing()) };
        let entries = std::fs::read_dir(folder).map_err(|_| missing())?;
        let is_std = |name: OsString| name.to_string_lossy().starts_with("libstd-");
        let found = entries.flatten().any(|entry| is_std(entry.file_name()));
        if found { Ok(()) } else { Err(missing()) }
    }

    /// Settings for cargo: paths of this machine are left out of the program,
    /// and a program for another processor needs no C compiler for it.
    pub(crate) fn settings(&self) -> Vec<String> {
        let Some(triple) = self.triple() else { return Vec::new() };
        let mut flags = Vec::new();
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
        let is_foreign = !triple.starts_with(std::env::consts::ARCH);
        if is_foreign && triple.contains("-musl") {
            // Comes with Rust, as musl itself does.
            flags.push("-Clinker=rust-lld".into());
        }
        let flags: Vec<_> = flags.into_iter().map(|flag| toml::Value::String(flag).to_string()).collect();
        vec![format!("target.{triple}.rustflags=[{}]", flags.join(", "))]
    }
}

/// Returns the folder of Rust's libraries for a target.
fn library(triple: &str) -> Option<PathBuf> {
    let (output, input) = std::io::pipe().ok()?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let arguments = ["--print", "target-libdir", "--target", triple].map(OsString::from);
    let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null").ok()?;
    let child = GuardedProcess::start(Path::new(&rustc), &arguments, Path::new("."), input, nowhere).ok()?;
    let text = std::io::read_to_string(output).ok()?;
    child.wait().ok().filter(std::process::ExitStatus::success)?;
    Some(PathBuf::from(text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_short_names() {
        let parse = |name| Target::parse(Some(name)).map(|target| target.name()).ok();
        assert_eq!(parse("native").as_deref(), Some("native"));
        assert_eq!(parse("arm64").as_deref(), Some("aarch64-unknown-linux-musl"));
        assert_eq!(parse("riscv64gc-unknown-linux-gnu").as_deref(), Some("riscv64gc-unknown-linux-gnu"));
        for wrong in ["", "x86", "a b-c-d", "../x-y-z", "--x-y-z/"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert!(Target::parse(None).is_ok_and(|target| target.runs_here()));
        for other in ["riscv64gc-unknown-linux-gnu", "aarch64_be-unknown-linux-musl", "x86_64-unknown-linux-gnux32"] {
            assert!(!Target::parse(Some(other)).unwrap().runs_here(), "{other}");
        }
    }
}
