//! Rust's library for another target: rustup's, or where rustup has none, one
//! that is built from its sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::process::{cargo, execute_within, exists, output, root};
use crate::tools::{done, is_current};

/// Maximum time for rustup to install something, and to build it instead.
const PATIENCE: Duration = Duration::from_secs(300);

/// As rustup's libraries are built: release builds of programs optimise across
/// them.
const FLAGS: &str = "-Cembed-bitcode=yes";

/// A library that can be used.
pub(crate) enum Library {
    Installed,
    /// Built here, in a folder of the form of the compiler's own.
    Built {
        triple: String,
        sysroot: PathBuf,
    },
}

impl Library {
    /// Makes cargo use it.
    pub(super) fn for_command(&self, command: &mut Command) {
        if let Self::Built { triple, sysroot } = self {
            // It has no C library beside it: zig links its own.
            command.env(flags_of(triple), format!("--sysroot={} -Clink-self-contained=no", sysroot.display()));
        }
    }
}

/// Finds the library of a target, or sets it up; builds are put into `tools`.
pub(super) fn find(triple: &str, tools: &Path) -> Result<Library> {
    let build = Build::new(triple, tools)?;
    if is_installed(triple) || !build.is_current() {
        let Err(reason) = install(triple) else { return Ok(Library::Installed) };
        eprintln!("xtask: {reason}\nxtask: building Rust's library for {triple} from its sources instead");
        build.make().map_err(|error| format!("rustup has no library for it, and it cannot be built: {error}"))?;
    }
    Ok(Library::Built { triple: triple.to_owned(), sysroot: build.sysroot() })
}

/// Has rustup install the library of a target, unless it is there already.
pub(crate) fn install(triple: &str) -> Result<()> {
    if is_installed(triple) {
        return Ok(());
    }
    if !exists("rustup") {
        return Err("rustup was not found, which installs Rust's library for other targets".into());
    }
    let mut add = Command::new("rustup");
    execute_within(add.args(["target", "add", triple]).env("RUST_BACKTRACE", "0"), PATIENCE)
}

/// The variable with what cargo tells the compiler for a target.
fn flags_of(triple: &str) -> String {
    format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"))
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(output(Command::new(rustc).args(arguments))?.trim_end().to_owned())
}

fn is_installed(triple: &str) -> bool {
    let folder = rustc(&["--print", "target-libdir", "--target", triple]);
    folder.is_ok_and(|folder| has_library(Path::new(&folder)))
}

fn has_library(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// A library that is built once for this compiler.
struct Build {
    triple: String,
    folder: PathBuf,
    /// What is noted when it is done: the compiler, and what it is told.
    compiler: String,
}

impl Build {
    fn new(triple: &str, tools: &Path) -> Result<Self> {
        Ok(Self {
            triple: triple.to_owned(),
            folder: tools.join("std").join(triple),
            compiler: format!("{}\n{FLAGS}", rustc(&["-vV"])?),
        })
    }

    fn is_current(&self) -> bool {
        is_current(&self.stamp(), &self.compiler)
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("built.txt")
    }

    fn sysroot(&self) -> PathBuf {
        self.folder.join("sysroot")
    }

    fn make(&self) -> Result<()> {
        let sources = Path::new(&rustc(&["--print", "sysroot"])?).join("lib/rustlib/src/rust/library/Cargo.lock");
        if !sources.is_file() {
            let mut add = Command::new("rustup");
            add.args(["component", "add", "rust-src"]).env("RUST_BACKTRACE", "0");
            execute_within(&mut add, PATIENCE)?;
        }
        // An empty crate: only what it depends on is wanted.
        let empty = self.folder.join("empty");
        let wrong = |error| format!("cannot write {}: {error}", empty.display());
        let manifest = empty.join("Cargo.toml");
        std::fs::create_dir_all(empty.join("src")).map_err(wrong)?;
        std::fs::write(&manifest, "[package]\nname = \"empty\"\nedition = \"2024\"\n[workspace]\n").map_err(wrong)?;
        std::fs::write(empty.join("src/lib.rs"), "").map_err(wrong)?;
        let artifacts = self.folder.join("target");
        let mut build = cargo();
        build.args(["build", "--release", "--quiet", "-Zbuild-std=std,panic_unwind,proc_macro,test"]);
        build.args(["--target", &self.triple, "--manifest-path"]).arg(&manifest).env("CARGO_TARGET_DIR", &artifacts);
        build.env(flags_of(&self.triple), FLAGS);
        // The option is one of the nightly compiler's. The other variable keeps
        // the names of the library's dependencies apart from a program's own.
        build.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_DEFAULT_LIB_METADATA", "ekuiper");
        execute_within(&mut build, PATIENCE)?;
        let libraries = self.sysroot().join("lib/rustlib").join(&self.triple).join("lib");
        let wrong = |error| format!("cannot copy to {}: {error}", libraries.display());
        let _ = std::fs::remove_dir_all(&libraries);
        std::fs::create_dir_all(&libraries).map_err(wrong)?;
        for entry in std::fs::read_dir(artifacts.join(&self.triple).join("release/deps")).map_err(wrong)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".rlib") && !name.starts_with("libempty-") {
                std::fs::copy(entry.path(), libraries.join(name)).map_err(wrong)?;
            }
        }
        let _ = std::fs::remove_dir_all(&artifacts);
        // Cargo does not notice that the library has changed.
        let _ = std::fs::remove_dir_all(root().join("target").join(&self.triple));
        done(&self.stamp(), &self.compiler)
    }
}
