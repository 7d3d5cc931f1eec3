//! The plugins `mirror` and `pysam` as zips that eKuiper installs.

use std::fs;
use std::io::Write;
use std::path::Path;

use ekuiper_interop::tools;
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

/// Writes the zip, with this program.
pub(crate) fn write_mirror(zip: &Path, program: &Path) {
    let example = tools::root().join("examples/mirror");
    let mut zip = zip::ZipWriter::new(fs::File::create(zip).unwrap());
    let file = SimpleFileOptions::default();
    let mut add = |name: &str, options, content: &[u8]| {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    };
    add("mirror.json", file, &fs::read(example.join("mirror.json")).unwrap());
    add("mirror", file.unix_permissions(0o755), &fs::read(program).unwrap());
    let settings = fs::read_to_string(example.join("sources/random.yaml")).unwrap() + SETTINGS;
    add("sources/random.yaml", file, settings.as_bytes());
    zip.finish().unwrap();
}

/// Writes the zip of the document's plugin in Python, unchanged or with a guard.
pub(crate) fn write_pysam(zip: &Path, supervised: bool) {
    let example = tools::root().join("examples/pysam");
    let mut zip = zip::ZipWriter::new(fs::File::create(zip).unwrap());
    let mut program = fs::read_to_string(example.join("pysam.py")).unwrap();
    if supervised {
        program = program.replace("\"revert\": Revert})", "\"revert\": Revert}, supervised=True)");
        assert!(program.contains("supervised"), "the example has another end");
    }
    let settings = b"default:\n  interval: 100\nquick:\n  interval: 5\n".to_vec();
    let files = [
        ("pysam.json", fs::read(example.join("pysam.json")).unwrap()),
        ("pysam.py", program.into_bytes()),
        ("sources/pyjson.yaml", settings),
    ];
    for (name, content) in files {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(&content).unwrap();
    }
    zip.finish().unwrap();
}
