//! The plugin `mirror`, supervised, with a function that crashes on request and
//! a sink that takes its time on request.

#[path = "../../../examples/mirror/src/file.rs"]
mod file;
#[path = "../../../examples/mirror/src/random.rs"]
mod random;

use std::path::PathBuf;
use std::time::Duration;

use ekuiper_sdk::prelude::*;

fn main() -> ExitCode {
    Plugin::new("mirror")
        .source("random", random::RandomSource::default)
        .sink("file", file::FileSink::default)
        .sink("lines", SlowSink::default)
        .function("echo", brittle)
        .function("revert", |text: String| text.chars().rev().collect::<String>())
        .function("exceeds", |value: f64, limit: f64| value > limit)
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

/// A sink `file` that waits for `pause` milliseconds before each message.
#[derive(Default)]
struct SlowSink {
    file: file::FileSink,
    pause: Duration,
}

impl Sink for SlowSink {
    fn configure(&mut self, config: &Config) -> Result<()> {
        self.pause = Duration::from_millis(config.get("pause").and_then(Value::as_u64).unwrap_or(0));
        self.file.configure(config)
    }

    fn open(&mut self, ctx: &SinkContext) -> Result<()> {
        self.file.open(ctx)
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        std::thread::sleep(self.pause);
        self.file.collect(ctx, data)
    }
}
