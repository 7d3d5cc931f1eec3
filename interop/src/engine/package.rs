//! Plugins as zips that eKuiper installs.

use std::fs;
use std::io::Write;
use std::path::Path;

use zip::write::SimpleFileOptions;

use crate::tools;

/// Settings of the source `random`, by the names that streams give.
const SETTINGS: &str = "
steady:
  seed: 3
brisk:
  interval: 5
burst:
  # No pause, and none of the engine's own for it.
  interval: 0
  count: 200
flood:
  interval: 0
";

/// How many rows a stream with the settings `burst` has.
pub const BURST: usize = 200;

/// A file of a zip: its name, its bytes, and whether it is executable.
pub type Entry<'a> = (&'a str, &'a [u8], bool);

/// Writes a zip of these files.
///
/// # Panics
/// The file system refuses.
pub fn write(zip: &Path, entries: &[Entry<'_>]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(zip).unwrap());
    for (name, content, is_executable) in entries {
        let options = SimpleFileOptions::default().unix_permissions(if *is_executable { 0o755 } else { 0o644 });
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

/// Writes the zip of `mirror`, with this program.
pub fn write_mirror(zip: &Path, program: &Path) {
    let example = tools::root().join("examples/mirror");
    let settings = fs::read_to_string(example.join("sources/random.yaml")).unwrap() + SETTINGS;
    write(
        zip,
        &[
            ("mirror.json", &fs::read(example.join("mirror.json")).unwrap(), false),
            ("mirror", &fs::read(program).unwrap(), true),
            ("sources/random.yaml", settings.as_bytes(), false),
        ],
    );
}

/// Writes the zip of the document's plugin in Python, unchanged or with a guard.
pub fn write_pysam(zip: &Path, supervised: bool) {
    let example = tools::root().join("examples/pysam");
    let mut program = fs::read_to_string(example.join("pysam.py")).unwrap();
    if supervised {
        program = program.replace("\"revert\": Revert})", "\"revert\": Revert}, supervised=True)");
        assert!(program.contains("supervised"), "the example has another end");
    }
    let settings = b"default:\n  interval: 100\nquick:\n  interval: 5\n";
    write(
        zip,
        &[
            ("pysam.json", &fs::read(example.join("pysam.json")).unwrap(), false),
            ("pysam.py", program.as_bytes(), false),
            ("sources/pyjson.yaml", settings, false),
        ],
    );
}

/// A plugin in Python with three functions.
const TRIO: &str = r#"
import time
from ekuiper import Plugin

app = Plugin("trio")

@app.function
def double(x: float) -> float:
    return x * 2

@app.function
def negate(x: float) -> float:
    return -x

@app.function
def label(x: int) -> str:
    return "number %d" % x

@app.source
def ticks(interval: float = 100):
    value = 0
    while True:
        value += 1
        yield {"value": value}
        time.sleep(interval / 1000)

@app.sink
def say(row: dict) -> None:
    print("received: [%s]" % __import__("json").dumps(row), flush=True)

if __name__ == "__main__":
    app.run()
"#;

/// Its manifest.
const TRIO_MANIFEST: &str = r#"{"version": "v1.0.0", "language": "python", "executable": "trio.py",
    "sources": ["ticks"], "sinks": ["say"], "functions": ["double", "negate", "label"]}"#;

/// Writes the zip of a plugin in Python with three functions.
pub fn write_trio(zip: &Path) {
    write_script(zip, TRIO);
}

/// Writes the same with a guard and a sink that takes its time.
pub fn write_slow_trio(zip: &Path) {
    let script = TRIO
        .replace("Plugin(\"trio\")", "Plugin(\"trio\", supervised=True)")
        .replace("def say(row: dict) -> None:", "def say(row: dict) -> None:\n    time.sleep(0.02)");
    assert!(script.contains("supervised=True") && script.contains("0.02"), "the script has other words");
    write_script(zip, &script);
}

fn write_script(zip: &Path, script: &str) {
    let settings = b"default:\n  interval: 100\nsteady:\n  interval: 100\nbrisk:\n  interval: 5\n";
    let files =
        [("trio.json", TRIO_MANIFEST.as_bytes()), ("trio.py", script.as_bytes()), ("sources/ticks.yaml", settings)];
    write(zip, &files.map(|(name, content)| (name, content, false)));
}
