//! The program's file: what it is, for which processor, and what it needs of the
//! system that runs it.

use std::collections::BTreeSet;
use std::path::Path;

use goblin::elf::Elf;
use goblin::elf::dynamic::DF_1_PIE;
use goblin::elf::header::{EM_386, EM_AARCH64, EM_ARM, EM_PPC64, EM_RISCV, EM_S390, EM_X86_64, ET_DYN, ET_EXEC};

use super::file;

/// A file that is to be executed.
#[derive(Debug)]
pub(super) enum Program {
    Native(Native),
    /// A script with its `#!` line: the interpreter, and the word after it.
    Script {
        interpreter: String,
        argument: String,
    },
}

/// A native program.
#[derive(Debug)]
pub(super) struct Native {
    pub(super) processor: Processor,
    pub(super) library: Library,
    /// The shared libraries that it needs, beside the C library's own.
    pub(super) needs: Vec<String>,
}

/// A processor, by Docker's and by common names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Processor {
    Amd64,
    Arm64,
    ArmV7,
    Other(&'static str),
}

impl Processor {
    /// This machine's.
    pub(super) fn own() -> Self {
        match std::env::consts::ARCH {
            "x86_64" => Self::Amd64,
            "aarch64" => Self::Arm64,
            "arm" => Self::ArmV7,
            other => Self::Other(other),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::ArmV7 => "arm/v7",
            Self::Other(name) => name,
        }
    }
}

/// The C library that a program needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// None: it is linked statically.
    Static,
    /// glibc, of at least this version.
    Glibc {
        loader: String,
        version: (u32, u32),
    },
    Musl {
        loader: String,
    },
    Other {
        loader: String,
    },
}

impl Library {
    /// The program that loads the library.
    pub(super) fn loader(&self) -> Option<&str> {
        match self {
            Self::Static => None,
            Self::Glibc { loader, .. } | Self::Musl { loader } | Self::Other { loader } => Some(loader),
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::Static => "static".into(),
            Self::Glibc { version: (0, _), .. } => "glibc".into(),
            Self::Glibc { version: (major, minor), .. } => format!("glibc {major}.{minor} or later"),
            Self::Musl { .. } => "musl".into(),
            Self::Other { loader } => format!("the loader {loader}"),
        }
    }
}

/// Libraries that come with every C library.
const C_LIBRARIES: [&str; 9] =
    ["libc.", "libm.", "libdl.", "libpthread.", "librt.", "libutil.", "libresolv.", "ld-linux", "ld-musl"];

impl Program {
    /// Reads a program.
    ///
    /// # Errors
    /// What is wrong with the file, as the rest of a sentence, and what to do.
    pub(super) fn read(path: &Path) -> Result<Self, (String, &'static str)> {
        const BUILD: &str = "build the plugin again, for Linux";
        let bytes = file::read(path, file::PROGRAM)
            .map_err(|problem| (problem, "name the program in the manifest's \"executable\""))?;
        if bytes.is_empty() {
            return Err(("is empty".into(), BUILD));
        }
        if bytes.starts_with(b"\x7fELF") {
            return native(&bytes).map(Self::Native).map_err(|problem| (problem, BUILD));
        }
        if let Some(rest) = bytes.strip_prefix(b"#!") {
            return script(rest);
        }
        let kind = match bytes.as_slice() {
            [b'M', b'Z', ..] => "is a program for Windows",
            [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xfe, 0xed, 0xfa, 0xcf | 0xce, ..] => "is a program for macOS",
            [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => "is a library, not a program",
            _ => return Err(("is neither a program for Linux nor a script that begins with #!".into(), BUILD)),
        };
        Err((format!("{kind}, and eKuiper runs on Linux"), BUILD))
    }
}

fn script(rest: &[u8]) -> Result<Program, (String, &'static str)> {
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or(rest);
    if line.ends_with(b"\r") {
        let text = "has a #! line that ends with a carriage return, as files from Windows do: it cannot be executed";
        return Err((text.into(), "save it with Unix line ends"));
    }
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    match words.next() {
        None => Err(("has a #! line that names no interpreter".into(), "write #!/bin/sh, for example")),
        Some(interpreter) => Ok(Program::Script { interpreter, argument: words.next().unwrap_or_default() }),
    }
}

fn native(bytes: &[u8]) -> Result<Native, String> {
    let elf = Elf::parse(bytes).map_err(|error| format!("is a damaged program: {error}"))?;
    let processor = match (elf.header.e_machine, elf.little_endian, elf.is_64) {
        (EM_X86_64, true, true) => Processor::Amd64,
        (EM_X86_64, ..) => Processor::Other("x32"),
        (EM_AARCH64, true, true) => Processor::Arm64,
        (EM_ARM, true, false) => Processor::ArmV7,
        (EM_386, ..) => Processor::Other("386"),
        (EM_RISCV, _, true) => Processor::Other("riscv64"),
        (EM_PPC64, ..) => Processor::Other("ppc64"),
        (EM_S390, ..) => Processor::Other("s390x"),
        _ => Processor::Other("another processor"),
    };
    let is_program = match elf.header.e_type {
        ET_EXEC => true,
        ET_DYN => elf.interpreter.is_some() || is_pie(&elf),
        _ => false,
    };
    if !is_program {
        let kind = if elf.header.e_type == ET_DYN { "a shared library" } else { "an object file" };
        return Err(format!("is {kind}, not a program"));
    }
    let library = match elf.interpreter {
        None => Library::Static,
        Some(loader) if loader.contains("ld-musl") => Library::Musl { loader: loader.into() },
        Some(loader) if loader.contains("/ld-linux") || loader.contains("/ld64") => {
            Library::Glibc { loader: loader.into(), version: glibc_version(&elf) }
        }
        Some(loader) => Library::Other { loader: loader.into() },
    };
    let is_own = |name: &&&str| !C_LIBRARIES.iter().any(|known| name.starts_with(known));
    let needs = elf.libraries.iter().filter(is_own).map(|name| (*name).to_owned()).collect();
    Ok(Native { processor, library, needs })
}

/// Whether a file without a loader is a program nevertheless: a static one that
/// may lie anywhere in memory.
fn is_pie(elf: &Elf<'_>) -> bool {
    let flags = elf.dynamic.as_ref().map_or(0, |dynamic| dynamic.info.flags_1);
    elf.entry != 0 && flags & DF_1_PIE != 0
}

/// The highest version of glibc that the program's symbols ask for; (0, 0) if
/// none is named.
fn glibc_version(elf: &Elf<'_>) -> (u32, u32) {
    let mut versions = BTreeSet::new();
    for need in elf.verneed.iter().flat_map(|section| section.iter()) {
        for version in need.iter() {
            let name = elf.dynstrtab.get_at(version.vna_name).unwrap_or_default();
            let Some(numbers) = name.strip_prefix("GLIBC_") else { continue };
            let mut numbers = numbers.split('.').map(|number| number.parse().unwrap_or(0));
            versions.insert((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)));
        }
    }
    versions.pop_last().unwrap_or_default()
}
