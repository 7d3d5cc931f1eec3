//! Plugins for the tests, each in a folder of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ekuiper_host::{Host, HostBuilder, Package};
use serde_json::{Value, json};

use crate::guard::{self, Watchdog, sockets_in_tmp};
use crate::tools;

/// A plugin for the official Python SDK (`plugins/official/main.py`) whose
/// names no other test has.
pub struct OfficialPython {
    root: tempfile::TempDir,
    name: String,
    python: PathBuf,
}

impl OfficialPython {
    /// Makes the folder.
    pub fn new() -> Self {
        Self::on(tools::python(), true)
    }

    /// Runs a test, watched, with a host that has the plugin and eKuiper's
    /// settings. What the test has open is closed, the host shut down, and
    /// nothing may be left.
    pub fn run(transport: &str, test: impl FnOnce(&Self, &Host)) {
        Self::run_with(transport, |builder| builder, test);
    }

    /// The same, on a host with other settings.
    pub fn run_with(transport: &str, set: impl FnOnce(HostBuilder) -> HostBuilder, test: impl FnOnce(&Self, &Host)) {
        let _watchdog = Watchdog::start();
        let plugin = Self::new();
        let host = set(plugin.host_builder(transport)).build().unwrap();
        test(&plugin, &host);
        host.shutdown();
        plugin.assert_clean();
    }

    /// The same plugin on our module `ekuiper`, without `ghost` in its manifest:
    /// its handshake names the symbols that it has, and our host compares.
    pub fn on_ours() -> Self {
        Self::on(tools::our_python(), false)
    }

    fn on(python: PathBuf, ghost: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        let name = guard::unique("py");
        install_official(&root.path().join(&name), &name, "v1.0.0", ghost);
        Self { root, name, python }
    }

    /// Another version of it, in a folder of its own.
    pub fn version(&self, version: &str) -> Package {
        let folder = self.root.path().join(version).join(&self.name);
        install_official(&folder, &self.name, version, true);
        Package::read(folder).unwrap()
    }

    /// The plugin's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The full name of one of its symbols. `ghost` is in the manifest and not
    /// in the plugin.
    pub fn symbol(&self, symbol: &str) -> String {
        format!("{}_{symbol}", self.name)
    }

    /// A rule that no other test has.
    pub fn rule(&self, rule: &str) -> String {
        format!("{}r{rule}", self.name)
    }

    /// The plugin's folder.
    pub fn folder(&self) -> PathBuf {
        self.root.path().join(&self.name)
    }

    /// A host that has the plugin, and eKuiper's settings.
    pub fn host(&self, transport: &str) -> Host {
        self.host_builder(transport).build().unwrap()
    }

    /// The same, to be changed.
    pub fn host_builder(&self, transport: &str) -> HostBuilder {
        Host::builder().transport(transport).plugin(self.folder()).python_bin(self.python.display().to_string())
    }

    /// Checks that nothing of it is left in `/tmp`.
    ///
    /// # Panics
    /// A socket is.
    pub fn assert_clean(&self) {
        assert_eq!(sockets_in_tmp(&self.name), [] as [PathBuf; 0]);
    }
}

fn install_official(folder: &Path, name: &str, version: &str, ghost: bool) {
    fs::create_dir_all(folder).unwrap();
    for file in ["interop/plugins/official/main.py", "examples/pysam/pysam.py"] {
        let file = tools::root().join(file);
        fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    let named = |symbols: &[&str]| {
        let there = symbols.iter().filter(|symbol| ghost || **symbol != "ghost");
        there.map(|symbol| format!("{name}_{symbol}")).collect::<Vec<_>>()
    };
    let manifest = json!({
        "version": version,
        "language": "python",
        "executable": "main.py",
        "sources": named(&["pyjson", "told", "faulty", "ghost"]),
        "sinks": named(&["print", "picky", "keep", "ghost"]),
        "functions": named(&["revert", "mean", "fail", "exit", "brittle", "vanishing", "ghost"]),
    });
    fs::write(folder.join(format!("{name}.json")), manifest.to_string()).unwrap();
}

impl Default for OfficialPython {
    fn default() -> Self {
        Self::new()
    }
}

/// The folder of the plugin `mirror` as it is installed: its manifest, and the
/// program.
pub struct Mirror(tempfile::TempDir);

impl Mirror {
    /// Makes the folder.
    pub fn new() -> Self {
        Self::with(tools::mirror())
    }

    /// The same plugin with a guard before it.
    pub fn supervised() -> Self {
        Self::with(tools::supervised())
    }

    fn with(program: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("mirror");
        fs::create_dir(&folder).unwrap();
        symlink(tools::root().join("examples/mirror/mirror.json"), folder.join("mirror.json")).unwrap();
        symlink(program, folder.join("mirror")).unwrap();
        Self(root)
    }

    /// The plugin's folder.
    pub fn folder(&self) -> PathBuf {
        self.0.path().join("mirror")
    }

    /// The program.
    pub fn program(&self) -> PathBuf {
        self.folder().join("mirror")
    }

    /// A folder for files and sockets of the test.
    pub fn scratch(&self) -> &Path {
        self.0.path()
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a plugin's folder, in one that is removed with it.
fn made(name: &str, program: &Path, manifest: &Value) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join(name);
    fs::create_dir(&folder).unwrap();
    symlink(program, folder.join(name)).unwrap();
    fs::write(folder.join(format!("{name}.json")), manifest.to_string()).unwrap();
    root
}

/// The folder of the plugin that counts its allocations (`plugins/counting.rs`).
pub struct Counting(tempfile::TempDir);

impl Counting {
    /// Makes the folder.
    pub fn new() -> Self {
        let manifest = json!({
            "version": "v1.0.0",
            "language": "rust",
            "executable": "counting",
            "sources": ["numbers"],
            "sinks": ["sum"],
            "functions": ["double", "allocations"],
        });
        Self(made("counting", tools::counting(), &manifest))
    }

    /// The plugin's folder.
    pub fn folder(&self) -> PathBuf {
        self.0.path().join("counting")
    }
}

impl Default for Counting {
    fn default() -> Self {
        Self::new()
    }
}

/// The folder of the plugin with columns (`plugins/columnar.rs`).
pub struct Columns(tempfile::TempDir);

impl Columns {
    /// Makes the folder.
    pub fn new() -> Self {
        let manifest = json!({
            "version": "v1.0.0",
            "language": "rust",
            "executable": "columns",
            "sources": ["batches", "ramp", "rows"],
            "sinks": ["totals", "lines"],
            "functions": ["double", "label", "same", "batch_of", "half_of_them", "refuse", "panic", "wide", "crash", "until_cancelled", "crash_once", "meet", "triple", "add", "upper", "below_ten", "anything"],
        });
        Self(made("columns", tools::columns(), &manifest))
    }

    /// The plugin's folder.
    pub fn folder(&self) -> PathBuf {
        self.0.path().join("columns")
    }
}

impl Default for Columns {
    fn default() -> Self {
        Self::new()
    }
}

/// The folder of the plugin that keeps account of what it executes
/// (`plugins/ledger.rs`).
pub struct Ledger(tempfile::TempDir);

impl Ledger {
    /// Makes the folder.
    pub fn new() -> Self {
        let manifest = json!({
            "version": "v1.0.0",
            "language": "rust",
            "executable": "ledger",
            "sources": ["stuck", "letters"],
            "sinks": ["late", "rows", "bytes"],
            "functions": ["note", "slow", "noted", "begun", "held", "patient", "cancelled", "word", "crash_until", "crash", "kept", "filed", "meet", "length", "text", "counted_text", "texts"],
        });
        Self(made("ledger", tools::ledger(), &manifest))
    }

    /// The plugin's folder.
    pub fn folder(&self) -> PathBuf {
        self.0.path().join("ledger")
    }

    /// The numbers that its process has executed, in their order.
    pub fn noted(host: &Host) -> Vec<u64> {
        host.function("noted").unwrap().call((0,)).unwrap()
    }

    /// The numbers of the calls of `patient` that were cancelled while they ran.
    pub fn cancelled(host: &Host) -> Vec<u64> {
        host.function("cancelled").unwrap().call((0,)).unwrap()
    }

    /// How many calls of `slow`, `held` and `patient` its process has begun.
    pub fn begun(host: &Host) -> u64 {
        host.function("begun").unwrap().call((0,)).unwrap()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}
