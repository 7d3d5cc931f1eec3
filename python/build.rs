//! Builds the supervisor of supervised plugins for the wheel: a separate program,
//! which maturin picks up from the output folder. Other builds of this crate do
//! not need it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Set by maturin.
const WHEEL: &str = "PYO3_BUILD_EXTENSION_MODULE";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed={WHEEL}");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var_os(name).unwrap_or_default();
    let out = PathBuf::from(variable("OUT_DIR"));
    if variable(WHEEL).is_empty() {
        return ExitCode::SUCCESS;
    }
    for folder in ["guard", "../sdk/src", "../core/src", "../transport-ipc/src", "../transport-uds/src"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    let built = out.join("guard");
    let mut cargo = Command::new(variable("CARGO"));
    let target = variable("TARGET");
    // A separate target folder: the running build holds its own locked.
    cargo.args(["build", "--release", "--package", "ekuiper-python-guard", "--target-dir"]).arg(&built);
    // The wheel's processor need not be that of this machine.
    cargo.arg("--target").arg(&target);
    cargo.arg("--manifest-path").arg(Path::new(&variable("CARGO_MANIFEST_DIR")).join("guard/Cargo.toml"));
    match cargo.status() {
        Ok(status) if status.success() => {}
        other => {
            println!("cargo::error=cannot build the supervisor: {other:?}");
            return ExitCode::FAILURE;
        }
    }
    match std::fs::copy(built.join(&target).join("release/ekuiper-guard"), out.join("ekuiper-guard")) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=cannot copy the supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}
