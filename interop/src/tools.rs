//! The programs that the tests run: the Python environment and the Go peer,
//! which `cargo xtask test` sets up, and this workspace's own.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use serde_json::Value;

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The interpreter that has the official Python SDK.
///
/// # Panics
/// It was not set up.
pub fn python() -> PathBuf {
    let python = root().join(".tools/python/bin/python");
    assert!(python.exists(), "there is no {}: run `cargo xtask test`, which sets it up", python.display());
    python
}

/// The interpreter that has our module `ekuiper` instead.
///
/// # Panics
/// It was not set up.
pub fn our_python() -> PathBuf {
    let python = root().join("target/python/bin/python");
    assert!(python.exists(), "there is no {}: run `cargo xtask python`, which makes it", python.display());
    python
}

/// The wheel of our module `ekuiper`.
///
/// # Panics
/// It was not built.
pub fn our_wheel() -> PathBuf {
    let wheels = std::fs::read_dir(root().join("target/wheels")).into_iter().flatten();
    let wheel = wheels
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "whl"));
    wheel.expect("`cargo xtask python` builds the wheel")
}

/// The Go peer; without it the test that asks is skipped, loudly.
///
/// # Panics
/// It was not built, and this is CI, where nothing may be skipped.
pub fn mangos_peer() -> Option<PathBuf> {
    let peer = root().join(".tools/mangos-peer");
    if peer.exists() {
        return Some(peer);
    }
    let reason = format!("there is no {}: install Go and run `cargo xtask test`, which builds it", peer.display());
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    skip(&reason);
    None
}

/// The target whose plugins the tests start, if it is not this machine's:
/// `cargo xtask cross` has built them, and runs the tests where the kernel runs
/// such programs.
pub fn device() -> Option<String> {
    std::env::var("EKUIPER_DEVICE").ok()
}

/// Where cargo has put the debug build of the target's program.
fn of_device(name: &str) -> Option<PathBuf> {
    Some(root().join("target").join(device()?).join("debug").join(name))
}

/// Says that a test is skipped, past the capture of the test's output.
pub fn skip(reason: &str) {
    let current = std::thread::current();
    let test = current.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

/// The plugin `mirror`, built as these tests are.
pub fn mirror() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| of_device("mirror").unwrap_or_else(|| program("mirror").to_owned()))
}

/// The command `ekuiper-plugin`, built as these tests are.
pub fn ekuiper_plugin() -> &'static Path {
    program("ekuiper-plugin")
}

/// The plugin `mirror` with a guard before it (`plugins/supervised`).
pub fn supervised() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("supervised"))
}

/// The plugin that counts its allocations (`plugins/counting.rs`).
pub fn counting() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("counting"))
}

/// The plugin with columns (`plugins/columnar.rs`).
pub fn columns() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example_with("columnar", &of_ours()))
}

/// The plugin that keeps account of what it executes (`plugins/ledger.rs`).
pub fn ledger() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example_with("ledger", &of_ours()))
}

/// The transports that only our host and our SDK have, as cargo takes them.
fn of_ours() -> Vec<&'static str> {
    let built = [("zeromq", cfg!(feature = "zeromq")), ("shm", cfg!(feature = "shm"))];
    built.into_iter().filter(|(_, is_built)| *is_built).flat_map(|(name, _)| ["--features", name]).collect()
}

fn example(name: &str) -> PathBuf {
    of_device(&format!("examples/{name}")).unwrap_or_else(|| example_with(name, &[]))
}

fn example_with(name: &str, features: &[&str]) -> PathBuf {
    let what = [&["-p", "ekuiper-interop", "--example", name], features].concat();
    cargo_build(&what).remove(name).expect("cargo builds the plugin")
}

fn program(name: &str) -> &'static Path {
    static PROGRAMS: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(build);
    programs.get(name).unwrap_or_else(|| panic!("cargo has not built {name}"))
}

fn build() -> HashMap<String, PathBuf> {
    let mut what = vec!["-p", "mirror", "-p", "ekuiper-cli"];
    if cfg!(feature = "nng") {
        what.extend(["--features", "mirror/nng,ekuiper-cli/nng"]);
    }
    if cfg!(feature = "zeromq") {
        what.extend(["--features", "mirror/zeromq,ekuiper-cli/zeromq"]);
    }
    if cfg!(feature = "shm") {
        what.extend(["--features", "mirror/shm,ekuiper-cli/shm"]);
    }
    cargo_build(&what)
}

/// Twice the number of builds that have ended, and one more during a build.
static BUILDS: AtomicU64 = AtomicU64::new(0);

/// A number that changes with each build that begins or ends, and is odd during
/// one.
pub(crate) fn builds() -> u64 {
    BUILDS.load(Ordering::SeqCst)
}

/// Builds some of the workspace's programs. Where they are up to date this
/// takes a moment: Cargo has no other way to give one package's tests
/// another's program.
fn cargo_build(what: &[&str]) -> HashMap<String, PathBuf> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock();
    BUILDS.fetch_add(1, Ordering::SeqCst);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--message-format=json-render-diagnostics"]).args(what);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(root()).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    BUILDS.fetch_add(1, Ordering::SeqCst);
    assert!(output.status.success(), "cargo cannot build {what:?}");
    let messages = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    messages
        .filter_map(|message: Value| {
            let path = message["executable"].as_str()?;
            Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
        })
        .collect()
}
