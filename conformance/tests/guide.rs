//! Tests that the guide matches the code: the tests that it names exist, and
//! each exception of a transport is explained. No text refers to a page that is
//! not in the repository.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs/src").join(name)).unwrap()
}

/// Returns every file of these kinds in the repository, with its text.
fn texts(kinds: &[&str]) -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                // Generated or downloaded files.
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if kinds.iter().any(|kind| name.ends_with(kind)) {
                found.push((path.clone(), std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn pages_that_are_referred_to_are_there() {
    let texts = texts(&[".rs", ".md", ".toml", ".py", ".go"]);
    for (file, text) in &texts {
        for word in text.split(|letter: char| !(letter.is_alphanumeric() || "_-./".contains(letter))) {
            let word = word.trim_end_matches('.');
            // The name of a kind of files is not a page.
            let Some(page) = word.strip_suffix(".md").filter(|page| !page.is_empty()) else { continue };
            let name = format!("{}.md", page.rsplit('/').next().unwrap());
            let is_there = texts.iter().any(|(path, _)| path.file_name().unwrap() == name.as_str());
            assert!(is_there, "{} refers to {word}, which is not in the repository", file.display());
        }
    }
}

#[test]
fn tests_that_are_named_are_there() {
    let sources: String = texts(&[".rs"]).into_iter().map(|(_, text)| text).collect();
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
    let guide = page("conformance.md");
    let table = guide.split_once("## Exceptions").unwrap().1;
    let lists = [("transport-nng", 11), ("transport-zeromq", 1), ("transport-shm", 1)].map(|(transport, at_least)| {
        let path = root().join(transport).join("tests/conformance/main.rs");
        let list = std::fs::read_to_string(path).unwrap();
        let named = list.lines().filter_map(|line| line.trim().split_once(": Exception::"));
        let names: Vec<_> = named.map(|(name, _)| name.to_owned()).collect();
        assert!(names.len() >= at_least, "{transport}");
        names
    });
    for name in lists.concat() {
        let explained = match name.strip_prefix("case_").and_then(|rest| rest.split_once('_')) {
            Some((number, _)) => format!("| {},", number.trim_start_matches('0')),
            None => format!("| `{name}` |"),
        };
        assert!(table.contains(&explained), "{name} is not explained: {explained}");
    }
}

/// Returns the code fences of this kind in the README and the guide's pages.
fn examples(language: &str) -> Vec<(String, String)> {
    let pages = std::fs::read_dir(root().join("docs/src")).unwrap().map(|entry| entry.unwrap().path());
    let mut found = Vec::new();
    for path in pages.filter(|path| path.extension().is_some_and(|kind| kind == "md")).chain([root().join("README.md")])
    {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut rest = text.as_str();
        while let Some((_, after)) = rest.split_once(&format!("```{language}\n")) {
            let (example, after) = after.split_once("```").unwrap();
            found.push((path.file_name().unwrap().to_string_lossy().into_owned(), example.to_owned()));
            rest = after;
        }
    }
    assert!(!found.is_empty(), "no example in {language}");
    found
}

/// Removes the indentation and the visibility, in which an example and its
/// original may differ.
fn lines(text: &str) -> String {
    text.lines()
        .map(|line| line.trim().trim_start_matches("pub(super) "))
        .filter(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn every_example_in_rust_is_compiled() {
    let compiled = [
        "sdk/examples/guide.rs",
        "sdk/examples/lines.rs",
        "sdk/examples/columns.rs",
        "interop/tests/columns.rs",
        "examples/engine/tests/guide.rs",
        "examples/engine-async/tests/guide.rs",
        "manager/examples/mounted.rs",
    ];
    let compiled = compiled.map(|path| format!("\n{}", lines(&std::fs::read_to_string(root().join(path)).unwrap())));
    for (page, example) in examples("rust") {
        // This example is about a transport that does not exist.
        if example.starts_with("ekuiper_conformance::sp_suite!(MyTransport") {
            continue;
        }
        let wanted = format!("\n{}", lines(&example));
        assert!(compiled.iter().any(|code| code.contains(&wanted)), "{page} shows what no file has:\n{example}");
    }
}

#[test]
fn every_example_in_json_and_toml_is_valid() {
    for (page, example) in examples("json") {
        let values = serde_json::Deserializer::from_str(&example).into_iter::<serde_json::Value>();
        let values = values.collect::<Result<Vec<_>, _>>();
        let values = values.unwrap_or_else(|error| panic!("{page}: {error}: {example}"));
        assert!(!values.is_empty(), "{page}: {example}");
        if example.contains("\"executable\"") {
            let manifest = ekuiper_core::manifest::Manifest::parse(&example);
            assert!(manifest.is_ok_and(|manifest| manifest.doubts().is_empty()), "{page}: {example}");
        }
    }
    for (page, example) in examples("toml") {
        assert!(example.parse::<toml::Table>().is_ok(), "{page}: {example}");
    }
}

#[test]
fn the_version_of_rust_that_is_told_is_the_one_that_is_needed() {
    let project: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let needed = project["workspace"]["package"]["rust-version"].as_str().unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for text in [readme, page("write-a-plugin.md"), page("embed-the-host.md")] {
        assert!(text.contains(&format!("Rust {needed} or later")), "{needed}");
    }
}

/// Returns the anchor of a heading, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim_start_matches('#').trim().chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        _ => (letter.is_alphanumeric() || "-_".contains(letter)).then(|| letter.to_ascii_lowercase()),
    });
    letters.collect()
}

/// Returns a page's text without what is shown as code.
fn prose(text: &str) -> String {
    let blocks = text.split("```").step_by(2).collect::<Vec<_>>().join("\n");
    blocks.split('`').step_by(2).collect::<Vec<_>>().join("code")
}

#[test]
fn links_lead_to_pages_and_headings() {
    for (file, text) in texts(&[".md"]) {
        for after in prose(&text).split("](").skip(1) {
            let link: String = after.split(')').next().unwrap().split_whitespace().collect();
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link} is not there", file.display());
            if !heading.is_empty() {
                let page = std::fs::read_to_string(&target).unwrap();
                let has = page.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
                assert!(has, "{}: {link} names no heading", file.display());
            }
        }
    }
}

#[test]
fn each_page_is_in_the_table_of_contents() {
    let summary = page("SUMMARY.md");
    for entry in std::fs::read_dir(root().join("docs/src")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") && name != "SUMMARY.md" {
            assert!(summary.contains(&format!("({name})")), "{name} is not in SUMMARY.md");
        }
    }
}

#[test]
fn the_unit_of_serve_is_valid_and_the_one_that_the_guide_shows() {
    let unit = std::fs::read_to_string(root().join("docs/systemd/ekuiper-plugin.service")).unwrap();
    assert!(page("systemd.md").contains(&format!("```ini\n{unit}```")));
    // The program that it starts need not be installed here.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ekuiper-plugin.service");
    std::fs::write(&file, unit.replace("/usr/local/bin/ekuiper-plugin", "/bin/true")).unwrap();
    match std::process::Command::new("systemd-analyze").arg("verify").arg(&file).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("ekuiper-plugin.service"), "{said}");
        }
        Err(error) => eprintln!("SKIPPED: the unit is not verified: systemd-analyze cannot be run: {error}"),
    }
}
