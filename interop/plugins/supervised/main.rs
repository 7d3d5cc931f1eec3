//! The plugin `mirror`, supervised, with a function that crashes on request.

#[path = "../../../examples/mirror/src/file.rs"]
mod file;
#[path = "../../../examples/mirror/src/random.rs"]
mod random;

use std::path::PathBuf;

use ekuiper_sdk::prelude::*;

fn main() -> ExitCode {
    Plugin::new("mirror")
        .source("random", random::RandomSource::default)
        .sink("file", file::FileSink::default)
        .sink("lines", file::FileSink::default)
        .function("echo", brittle)
        .function("revert", |text: String| text.chars().rev().collect::<String>())
        .aggregate("average", |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64)
        .supervised()
        .run()
}

/// Crashes, once, when its argument is the path of a file.
fn brittle(value: Value) -> Value {
    if let Some(path) = value.as_str().map(PathBuf::from).filter(|path| path.is_absolute())
        && std::fs::remove_file(path).is_ok()
    {
        std::process::abort();
    }
    value
}
