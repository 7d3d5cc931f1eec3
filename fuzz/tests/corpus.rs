//! Runs every input of the corpus through its decoder, without a fuzzer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("it is read").file_name().into_string().expect("its name is text")).collect()
}

#[test]
fn every_decoder_has_inputs_and_they_hold() {
    let known: BTreeSet<String> = ekuiper_fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&corpus()), known, "a folder per decoder");
    for (name, target) in ekuiper_fuzz::TARGETS {
        let folder = corpus().join(name);
        let inputs = names(&folder);
        assert!(!inputs.is_empty(), "{name} has no input");
        for input in inputs {
            // Says which, should it panic.
            eprintln!("{name}/{input}");
            target(&std::fs::read(folder.join(input)).unwrap());
        }
    }
}

#[test]
fn the_corpus_stays_small() {
    let mut count = 0;
    let mut bytes = 0;
    for name in names(&corpus()) {
        for input in names(&corpus().join(&name)) {
            count += 1;
            bytes += std::fs::metadata(corpus().join(&name).join(input)).unwrap().len();
        }
    }
    assert!(count <= 100 && bytes <= 200 << 10, "{count} inputs, {bytes} bytes: minimise it");
}
