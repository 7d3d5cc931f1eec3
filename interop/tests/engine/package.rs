//! The plugin `mirror` as a zip that eKuiper installs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use zip::write::SimpleFileOptions;

/// Settings of the source `random`, by the names that streams give.
const SETTINGS: &str = "
steady:
  seed: 3
burst:
  # No pause, and none of the engine's own for it.
  interval: 0
  count: 200
flood:
  interval: 0
";

/// How many rows a stream with the settings `burst` has.
pub(crate) const BURST: usize = 200;

/// Writes the zip.
pub(crate) fn write_mirror(zip: &Path) {
    let example = root().join("examples/mirror");
    let mut zip = zip::ZipWriter::new(fs::File::create(zip).unwrap());
    let file = SimpleFileOptions::default();
    let mut add = |name: &str, options, content: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    };
    add("mirror.json", file, &fs::read(example.join("mirror.json")).unwrap());
    add("mirror", file.unix_permissions(0o755), &fs::read(program()).unwrap());
    let settings = fs::read_to_string(example.join("sources/random.yaml")).unwrap() + SETTINGS;
    add("sources/random.yaml", file, settings.as_bytes());
    zip.finish().unwrap();
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The program, built as these tests are: Cargo has no other way to give one
/// package's tests another's program.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package=mirror", "--message-format=json-render-diagnostics"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let output = cargo.current_dir(root()).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "cargo cannot build mirror");
        let messages = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let mut programs = messages.filter_map(|message: Value| message["executable"].as_str().map(PathBuf::from));
        programs.next().expect("cargo names the program")
    })
}
