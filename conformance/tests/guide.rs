//! What the guide says of tests is true: those that it names are there, and
//! each exception of a transport is explained.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs/src").join(name)).unwrap()
}

/// The text of every Rust file in the workspace.
fn sources() -> String {
    let members = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = members.filter(|path| path.join("Cargo.toml").is_file()).collect();
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    text
}

#[test]
fn tests_that_are_named_are_there() {
    let sources = sources();
    let faults = page("faults.md");
    let rows: Vec<_> = faults.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")).collect();
    assert_eq!(rows.len(), 20);
    for row in rows {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for test in tests.split('`').skip(1).step_by(2) {
            assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}: {row}");
        }
    }
}

#[test]
fn each_case_has_a_row() {
    let guide = page("conformance.md");
    let suite = std::fs::read_to_string(root().join("conformance/src/suite.rs")).unwrap();
    for number in 1..=30 {
        assert!(guide.lines().any(|line| line.starts_with(&format!("| {number} |"))), "case {number} has no row");
        assert!(suite.contains(&format!(" case_{number:02}_")), "case {number} has no test");
    }
}

#[test]
fn each_exception_is_explained() {
    let list = std::fs::read_to_string(root().join("transport-nng/tests/conformance/main.rs")).unwrap();
    let guide = page("conformance.md");
    let table = guide.split_once("## Exceptions").unwrap().1;
    let exceptions: Vec<_> = list.lines().filter_map(|line| line.trim().split_once(": Exception::")).collect();
    assert!(exceptions.len() > 10);
    for (name, _) in exceptions {
        let explained = match name.strip_prefix("case_").and_then(|rest| rest.split_once('_')) {
            Some((number, _)) => format!("| {},", number.trim_start_matches('0')),
            None => format!("| `{name}` |"),
        };
        assert!(table.contains(&explained), "{name} is not explained: {explained}");
    }
}
