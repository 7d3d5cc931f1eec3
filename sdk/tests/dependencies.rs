//! The dependencies that a plugin's author has to build: few, without C libraries
//! or an async runtime.

#![allow(clippy::unwrap_used, reason = "only tests are here")]

use std::collections::BTreeSet;
use std::process::Command;

/// Raw Linux constants and structures for `rustix`, in pure Rust: nothing is
/// linked or compiled for it.
const PURE: &str = "linux-raw-sys";

#[test]
fn the_tree_is_small_and_pure_rust() {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["tree", "--offline", "--package=ekuiper-sdk", "--edges=normal", "--prefix=none", "--format={p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("ekuiper-core"), "{tree}");
    let native: Vec<_> = crates.iter().filter(|name| name.ends_with("-sys") && **name != PURE).collect();
    assert!(native.is_empty(), "bindings of C libraries: {native:?}");
    let asynchronous = ["tokio", "async-std", "smol", "futures", "futures-core", "mio", "async-io"];
    let found: Vec<_> = asynchronous.iter().filter(|name| crates.contains(**name)).collect();
    assert!(found.is_empty(), "async runtimes: {found:?}");
    let heavy: Vec<_> = crates.iter().filter(|name| name.starts_with("arrow")).collect();
    assert!(heavy.is_empty(), "columns: {heavy:?}");
    assert!(crates.len() <= 45, "{} crates: an author feels each in every build", crates.len());
}
