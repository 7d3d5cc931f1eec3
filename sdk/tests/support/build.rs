//! The artifacts that cargo has built for the tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The plugin with misbehaving symbols.
pub fn unruly() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // Columns would only make it larger, and its supervisor is measured.
        let artifacts = artifacts(&["--example", "unruly"], &TRANSPORTS);
        let executable = artifacts.iter().rfind(|artifact| artifact["target"]["name"] == "unruly");
        executable.and_then(|artifact| artifact["executable"].as_str()).expect("cargo builds unruly").into()
    })
}

/// The transports, and whether this test has them.
pub const TRANSPORTS: [(&str, bool); 4] = [
    ("uds", cfg!(feature = "uds")),
    ("nng", cfg!(feature = "nng")),
    ("zeromq", cfg!(feature = "zeromq")),
    ("shm", cfg!(feature = "shm")),
];

/// Cargo's messages about the artifacts that it has built or found up to date,
/// with these features.
pub fn artifacts(target: &[&str], features: &[(&str, bool)]) -> Vec<Value> {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(["build", "--quiet", "--message-format=json", "--package=ekuiper-sdk", "--no-default-features"]);
    for (feature, on) in features {
        if *on {
            command.arg(format!("--features={feature}"));
        }
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let built = command.args(target).current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit()).output().unwrap();
    assert!(built.status.success(), "cargo build {target:?}: {}", String::from_utf8_lossy(&built.stdout));
    let lines = String::from_utf8(built.stdout).unwrap();
    let messages = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter(|message| message["reason"] == "compiler-artifact").collect()
}
