//! Tests that the guide's page on dependencies lists each one that there is,
//! with its licence, its users and its weight as cargo knows them.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The workspace's crates and what they depend on.
struct Metadata {
    packages: BTreeMap<String, Value>,
    nodes: BTreeMap<String, Value>,
    members: BTreeSet<String>,
}

/// What a member needs a dependency for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Use {
    /// In what is published.
    Published,
    /// In tests, measurements and tasks.
    Own,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn by_id(values: &Value) -> BTreeMap<String, Value> {
    values.as_array().unwrap().iter().map(|value| (text(&value["id"]), value.clone())).collect()
}

impl Metadata {
    fn read() -> Self {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["metadata", "--format-version", "1", "--locked", "--all-features"]);
        // The same on every machine.
        cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(root());
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let members = metadata["workspace_members"].as_array().unwrap().iter().map(text).collect();
        Self { packages: by_id(&metadata["packages"]), nodes: by_id(&metadata["resolve"]["nodes"]), members }
    }

    /// Returns the direct dependencies of a crate, with what it needs them for.
    fn dependencies(&self, id: &str) -> impl Iterator<Item = (String, bool)> {
        self.nodes[id]["deps"].as_array().unwrap().iter().map(|dependency| {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            (text(&dependency["pkg"]), kinds.iter().any(|kind| kind["kind"] != "dev"))
        })
    }

    /// Counts the crates that come with one, itself included.
    fn weight(&self, id: &str) -> usize {
        self.built_with([id.to_owned()]).len()
    }

    /// Returns these crates and all that come with them.
    fn built_with(&self, ids: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let (mut found, mut open) = (BTreeSet::new(), ids.into_iter().collect::<Vec<_>>());
        while let Some(id) = open.pop() {
            if found.insert(id.clone()) {
                open.extend(self.dependencies(&id).filter(|(_, is_built)| *is_built).map(|(id, _)| id));
            }
        }
        found
    }

    /// Returns whether a member is published, as a crate or in the wheel.
    fn is_published(&self, id: &str) -> bool {
        self.packages[id]["publish"].is_null() || self.packages[id]["name"] == "ekuiper-python"
    }

    /// Returns the names of crates that what is published has in two versions.
    fn duplicates(&self) -> BTreeSet<String> {
        let published = self.members.iter().filter(|id| self.is_published(id)).cloned();
        let mut names = BTreeSet::new();
        let built = self.built_with(published);
        let built = built.iter().map(|id| text(&self.packages[id]["name"]));
        built.filter(|name| !names.insert(name.clone())).collect()
    }

    /// Returns the direct dependencies of all members, each with its users.
    fn direct(&self) -> BTreeMap<(Use, String), BTreeSet<String>> {
        let mut direct: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for member in &self.members {
            let package = &self.packages[member];
            let is_published = self.is_published(member);
            let user = text(&package["name"]).trim_start_matches("ekuiper-").to_owned();
            for (dependency, is_built) in self.dependencies(member).filter(|(id, _)| !self.members.contains(id)) {
                let kind = if is_published && is_built { Use::Published } else { Use::Own };
                direct.entry((kind, dependency)).or_default().insert(user.clone());
            }
        }
        direct
    }
}

/// Returns the rows of a section's table, without the column of reasons.
fn rows(page: &str, heading: &str) -> BTreeSet<String> {
    let section = page.split_once(heading).unwrap().1.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let (facts, reason) = row.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        assert!(reason.len() > 10, "no reason in {row}");
        facts.to_owned()
    });
    rows.collect()
}

#[test]
fn each_direct_dependency_has_its_row() {
    let page = std::fs::read_to_string(root().join("docs/src/dependencies.md")).unwrap();
    let metadata = Metadata::read();
    let direct = metadata.direct();
    let published: BTreeSet<_> = direct.keys().filter(|(kind, _)| *kind == Use::Published).map(|(_, id)| id).collect();
    let mut expected: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for ((kind, id), users) in &direct {
        let package = &metadata.packages[id];
        let (name, licence) = (text(&package["name"]), text(&package["license"]));
        match kind {
            Use::Published => {
                let users = users.iter().cloned().collect::<Vec<_>>().join(", ");
                let row = format!("| `{name}` | {users} | {licence} | {}", metadata.weight(id));
                expected.entry(*kind).or_default().insert(row);
            }
            Use::Own if !published.contains(id) => {
                expected.entry(*kind).or_default().insert(format!("| `{name}` | {licence}"));
            }
            Use::Own => {}
        }
    }
    for (kind, heading) in [(Use::Published, "\n## Published\n"), (Use::Own, "\n## Not published\n")] {
        let (is, should) = (rows(&page, heading), &expected[&kind]);
        let missing: Vec<_> = should.difference(&is).collect();
        let wrong: Vec<_> = is.difference(should).collect();
        assert!(missing.is_empty() && wrong.is_empty(), "{heading}missing: {missing:#?}\nwrong: {wrong:#?}");
    }
}

#[test]
fn each_crate_in_two_versions_has_its_row() {
    let page = std::fs::read_to_string(root().join("docs/src/dependencies.md")).unwrap();
    let rows = rows(&page, "\n## Twice in the tree\n");
    let named: BTreeSet<_> = rows.iter().map(|row| row.trim_matches(&['|', ' ', '`'][..]).to_owned()).collect();
    assert_eq!(named, Metadata::read().duplicates());
}
