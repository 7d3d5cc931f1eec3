//! Tests that the guide's page on unsafe code names each file that has some.
// Clippy takes only functions with #[test] for tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, iter};

/// What makes a line of code unsafe.
const UNSAFE: [&str; 4] = ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"];

/// The paths in the first column of the page's table.
fn listed(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let first = rows.map(|row| row.trim_start_matches('|').split('|').next().unwrap());
    first.flat_map(|files| files.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The Rust files below a folder, but for tests and what is built.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let is_left_out = |name: &str| {
        matches!(name, "target" | "interop" | "examples") || name.starts_with('.') || name.contains("tests")
    };
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let entries = entries.filter(|entry| !is_left_out(&entry.file_name().to_string_lossy()));
    entries
        .flat_map(|entry| match entry.file_type().unwrap().is_dir() {
            true => sources(&entry.path()),
            false => iter::once(entry.path()).filter(|path| path.extension().is_some_and(|end| end == "rs")).collect(),
        })
        .collect()
}

#[test]
fn the_page_names_each_file_with_unsafe_code_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let is_unsafe = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let mut code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
        code.any(|line| UNSAFE.iter().any(|word| line.contains(word)))
    };
    let found = sources(root).into_iter().filter(is_unsafe);
    let found: BTreeSet<_> = found.map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()).collect();
    let page = fs::read_to_string(root.join("docs/src/unsafe.md")).unwrap();
    assert_eq!(found, listed(&page));
}
