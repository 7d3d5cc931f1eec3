//! A plugin for tests of requests: it tells what it was given, sends without
//! end, is late, and crashes.

use std::time::Duration;

use ekuiper_sdk::prelude::*;

/// Sends a row that looks like an error, an error, and then what it was opened
/// with; ends.
#[derive(Default)]
struct Telling {
    given: Value,
}

impl Source for Telling {
    fn configure(&mut self, datasource: &str, config: &Config) -> Result<()> {
        self.given = json!({ "datasource": datasource, "config": config.parse::<Value>()? });
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        ctx.emit(&json!({ "error": "a field of a row" }))?;
        ctx.emit_error("the broker is away")?;
        ctx.emit_with_meta(&self.given, &json!({ "topic": "a" }))?;
        Ok(())
    }
}

/// Sends numbered rows of 4 KiB, as fast as they are taken.
struct Flooding;

impl Source for Flooding {
    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let fill = "x".repeat(4 << 10);
        for number in 0u64.. {
            if ctx.is_stopped() {
                break;
            }
            ctx.emit(&json!({ "number": number, "fill": fill }))?;
        }
        Ok(())
    }
}

/// Ends the process at its second row.
#[derive(Default)]
struct Crashing {
    rows: u64,
}

impl Sink for Crashing {
    fn collect(&mut self, _: &SinkContext, _: &[u8]) -> Result<()> {
        self.rows += 1;
        if self.rows == 2 {
            std::process::exit(3);
        }
        Ok(())
    }
}

/// The symbols, for the manifest.
pub(crate) const MANIFEST: &str = r#"{
    "version": "v1", "language": "go", "executable": "run",
    "sources": ["telling", "flooding"], "sinks": ["crashing"], "functions": ["echo", "crash", "late"]
}"#;

/// Runs the plugin, with the argument that its host gave it.
pub(crate) fn run(argument: String) -> ExitCode {
    Plugin::new("unsteady")
        .source("telling", Telling::default)
        .source("flooding", || Flooding)
        .sink("crashing", Crashing::default)
        .function("echo", |value: Value| value)
        .function("crash", || -> u64 { std::process::exit(3) })
        .function("late", |ctx: &FunctionContext| -> Result<()> {
            while !ctx.is_cancelled() {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err("it was given up".into())
        })
        .run_with(vec![argument])
}
