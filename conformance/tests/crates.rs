//! Tests that the crates that are published say what a registry and its users
//! need, and that they can be published without those that are not.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn table(manifest: &Path) -> Table {
    let text = std::fs::read_to_string(manifest).unwrap();
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", manifest.display()))
}

/// Returns the workspace's own table, and the folder and manifest of each
/// member, by its name.
fn members() -> (Table, BTreeMap<String, (PathBuf, Table)>) {
    let workspace = table(&root().join("Cargo.toml"))["workspace"].as_table().unwrap().clone();
    let folders = workspace["members"].as_array().unwrap().iter();
    let members = folders.map(|folder| {
        let folder = root().join(folder.as_str().unwrap());
        let manifest = table(&folder.join("Cargo.toml"));
        (manifest["package"]["name"].as_str().unwrap().to_owned(), (folder, manifest))
    });
    let members = members.collect();
    (workspace, members)
}

fn is_published(manifest: &Table) -> bool {
    manifest["package"].get("publish") != Some(&Value::Boolean(false))
}

#[test]
fn each_published_crate_says_what_it_is() {
    let (_, members) = members();
    for (name, (folder, manifest)) in members.iter().filter(|(_, (_, manifest))| is_published(manifest)) {
        let package = manifest["package"].as_table().unwrap();
        let text = |key: &str| package.get(key).and_then(Value::as_str).unwrap_or_default();
        assert!(text("description").ends_with('.'), "{name} has no sentence that describes it");
        assert_eq!(text("documentation"), format!("https://docs.rs/{name}"));
        for key in ["version", "edition", "rust-version", "license"] {
            assert!(package[key].get("workspace").is_some(), "{name} has its own {key}");
        }
        let words = |key: &str| package[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        // What the registry allows.
        assert!((1..=5).contains(&words("keywords").count()), "{name} has {} keywords", words("keywords").count());
        assert!(words("keywords").all(|word| word.len() <= 20), "{name} has a keyword that is too long");
        assert!((1..=5).contains(&words("categories").count()), "{name} has no categories");
        let readme = std::fs::read_to_string(folder.join(text("readme"))).unwrap();
        assert!(readme.starts_with(&format!("# {name}\n")), "the README of {name} has another title");
        let links = readme.split("](").skip(1);
        for link in links {
            assert!(link.starts_with("https://"), "the README of {name} refers to what is not published: {link}");
        }
        let license = std::fs::read(folder.join("LICENSE")).unwrap();
        assert!(license == std::fs::read(root().join("LICENSE")).unwrap(), "the licence of {name} is another");
        if manifest.contains_key("features") && package["name"].as_str() != Some("ekuiper-cli") {
            assert_eq!(package["metadata"]["docs"]["rs"]["all-features"], Value::Boolean(true), "{name}");
            let library = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
            assert!(library.contains("\n#![cfg_attr(docsrs, feature(doc_cfg))]\n"), "{name} shows no features");
        }
    }
}

#[test]
fn published_crates_depend_on_published_ones() {
    let (workspace, members) = members();
    let shared = workspace["dependencies"].as_table().unwrap();
    for (name, (_, manifest)) in members.iter().filter(|(_, (_, manifest))| is_published(manifest)) {
        for dependency in manifest["dependencies"].as_table().unwrap().keys() {
            let Some((_, other)) = members.get(dependency) else { continue };
            assert!(is_published(other), "{name} depends on {dependency}, which is not published");
            assert_eq!(
                shared[dependency].get("version"),
                workspace["package"].get("version"),
                "the dependency {dependency} has another version than the crate"
            );
        }
    }
}
