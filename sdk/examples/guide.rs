//! The examples of plugins in the guide and the README, so that they are
//! compiled: `conformance/tests/guide.rs` finds each of them here or in
//! `lines.rs`.

#![allow(dead_code, reason = "most of it is only compiled")]

use ekuiper_sdk::prelude::*;

fn main() -> ExitCode {
    functions::symbols(Plugin::new("guide")).run()
}

mod readme {
    use super::clock::Clock as RandomSource;
    use super::file::Append as FileSink;

    use ekuiper_sdk::prelude::*;

    fn main() -> ExitCode {
        Plugin::new("mirror")
            .source("random", RandomSource::default)
            .sink("file", FileSink::default)
            .function("echo", |value: Value| value)
            .function("revert", |text: String| text.chars().rev().collect::<String>())
            .aggregate("average", |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64)
            .run()
    }
}

#[rustfmt::skip]
mod smallest {
    use ekuiper_sdk::prelude::*;

    fn main() -> ExitCode {
        Plugin::new("mirror")
            .function("revert", |text: String| text.chars().rev().collect::<String>())
            .run()
    }
}

mod functions {
    use ekuiper_sdk::prelude::*;

    fn shrink(jpeg: &[u8]) -> Result<Vec<u8>> {
        Ok(jpeg.to_vec())
    }

    fn is_prime(number: u64, smaller: &[u64]) -> bool {
        !smaller.iter().any(|prime| number.is_multiple_of(*prime))
    }

    pub(super) fn symbols(plugin: Plugin) -> Plugin {
        plugin
            .function("clamp", |value: f64, low: f64, high: f64| value.max(low).min(high))
            .function("parse", |text: String| text.parse::<i64>().map_err(|error| format!("{text}: {error}")))
            .aggregate("average", |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64)
            .function("thumbnail", |jpeg: Bytes| shrink(&jpeg).map(Bytes))
            .function("label", |text: String, ctx: &FunctionContext| format!("{}: {text}", ctx.rule_id()))
            .function("primes_below", |limit: u64, ctx: &FunctionContext| {
                let mut primes = Vec::new();
                for number in 2..limit {
                    if ctx.is_cancelled() {
                        return Err("nobody waits for the primes any more");
                    }
                    if is_prime(number, &primes) {
                        primes.push(number);
                    }
                }
                Ok(primes)
            })
    }
}

#[rustfmt::skip]
mod described {
    use ekuiper_sdk::prelude::*;

    fn plugin() -> Plugin {
        Plugin::new("mirror")
            .version(concat!("v", env!("CARGO_PKG_VERSION")))
            .function(
                "clamp",
                describe(|value: f64, low: f64, high: f64| value.max(low).min(high))
                    .doc("The value, or the limit that it exceeds.")
                    .arguments(["value", "low", "high"])
                    .example("clamp(temperature, -40, 85)")
                    .volatility(Volatility::Immutable)      // equal arguments have equal results
                    .parallel()                             // keeps no state: calls may go to several instances
                    .idempotent(),                          // a call may be carried out twice
            )
    }

    struct Clock;

    impl Source for Clock {
        fn describe() -> SourceDescription {
            let interval = Field::new("interval", DataType::Int).default_value(1000).doc("Milliseconds between two rows.");
            SourceDescription::new().doc("Emits the time.").datasource("A time zone.").config([interval])
        }

        fn open(&mut self, _ctx: &SourceContext) -> Result<()> {
            Ok(())
        }
    }
}

#[cfg(feature = "schemars")]
#[rustfmt::skip]
mod described_by_its_type {
    use ekuiper_sdk::description::config_of;
    use ekuiper_sdk::prelude::*;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    #[derive(Default)]
    struct Clock;

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(default)]
    struct Settings {
        /// Milliseconds between two rows.
        interval: u64,
    }

    impl Source for Clock {
        fn describe() -> SourceDescription {
            SourceDescription::new().doc("Emits the time.").config(config_of::<Settings>())
        }

        fn open(&mut self, _ctx: &SourceContext) -> Result<()> {
            Ok(())
        }
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { interval: 1000 }
        }
    }
}

mod clock {
    use std::time::{Duration, SystemTime};

    use ekuiper_sdk::prelude::*;

    fn now() -> u64 {
        SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
    }

    #[derive(serde::Deserialize)]
    #[serde(default)]
    struct Settings {
        /// In milliseconds.
        interval: u64,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { interval: 1000 }
        }
    }

    #[derive(Default)]
    pub(super) struct Clock {
        settings: Settings,
    }

    #[rustfmt::skip]
    impl Source for Clock {
        fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
            self.settings = config.parse()?;                // serde; an error names the field
            Ok(())
        }

        fn open(&mut self, ctx: &SourceContext) -> Result<()> {
            while ctx.sleep(Duration::from_millis(self.settings.interval)) {    // false once stopped
                ctx.emit(&json!({ "time": now() }))?;
            }
            Ok(())
        }
    }
}

mod file {
    use std::fs::File;
    use std::io::{BufWriter, Write};
    use std::path::PathBuf;

    use ekuiper_sdk::prelude::*;

    #[derive(Default)]
    pub(super) struct Append {
        path: PathBuf,
        /// Absent until it is opened.
        file: Option<BufWriter<File>>,
    }

    impl Sink for Append {
        fn configure(&mut self, config: &Config) -> Result<()> {
            self.path = config.field("path")?;
            Ok(())
        }

        // An error refuses the start.
        fn open(&mut self, _ctx: &SinkContext) -> Result<()> {
            let opened = File::options().create(true).append(true).open(&self.path);
            let file = opened.map_err(|error| format!("cannot open {}: {error}", self.path.display()))?;
            self.file = Some(BufWriter::new(file));
            Ok(())
        }

        fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
            let file = self.file.as_mut().ok_or("the file is not open")?;
            for row in ctx.rows::<Value>(data)? {
                writeln!(file, "{row}")?;
            }
            // What is acknowledged now is written.
            Ok(file.flush()?)
        }

        // After the last message.
        fn close(&mut self, _ctx: &SinkContext) -> Result<()> {
            let Some(file) = self.file.take() else { return Ok(()) };
            let file = file.into_inner().map_err(|error| error.into_error())?;
            Ok(file.sync_all()?)
        }
    }
}

#[rustfmt::skip]
mod supervised {
    use ekuiper_sdk::prelude::*;

    fn revert(text: String) -> String {
        text.chars().rev().collect()
    }

    fn main() -> ExitCode {
        Plugin::new("mirror")
            .function("revert", describe(revert).idempotent())
            .supervised()
            .run()
    }
}

#[cfg(test)]
mod tests {
    use ekuiper_sdk::prelude::*;

    use super::clock::Clock;
    use super::file::Append;

    fn revert(text: String) -> String {
        text.chars().rev().collect()
    }

    #[test]
    fn symbols_run_without_an_engine() -> Result<()> {
        use ekuiper_sdk::testing;

        let reversed = testing::function(revert).call::<String>(("hello",));
        assert_eq!(reversed, Ok("olleh".into()));

        let rows = testing::source(Clock::default()).config(json!({ "interval": 1 })).take(3)?;
        assert_eq!(rows.len(), 3);
        Ok(())
    }

    #[test]
    fn the_sink_writes_what_it_acknowledges_and_refuses_a_start_without_a_file() -> Result<()> {
        use ekuiper_sdk::testing;

        let folder = tempfile::tempdir()?;
        let path = folder.path().join("rows.jsonl");
        let mut sink = testing::sink(Append::default()).config(json!({ "path": path })).require_ack(true).open()?;
        sink.send(&json!([{ "a": 1 }, { "a": 2 }]))?;
        assert_eq!(std::fs::read_to_string(&path)?, "{\"a\":1}\n{\"a\":2}\n");
        sink.close()?;
        let refused = testing::sink(Append::default()).config(json!({ "path": folder.path() })).open();
        assert!(refused.err().is_some_and(|error| error.to_string().starts_with("cannot open ")));
        Ok(())
    }
}

mod ticker {
    use std::time::Duration;

    use ekuiper_sdk::prelude::*;

    #[derive(Default)]
    struct Ticker {
        interval: Duration,
    }

    impl Source for Ticker {
        fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
            self.interval = Duration::from_millis(config.field_or("interval", 1000)?);
            Ok(())
        }

        fn open(&mut self, ctx: &SourceContext) -> Result<()> {
            let mut count = 0;
            while ctx.sleep(self.interval) {
                count += 1;
                ctx.emit(&json!({ "count": count }))?;
            }
            Ok(())
        }
    }

    #[test]
    fn it_counts() {
        let rows = ekuiper_sdk::testing::source(Ticker::default()).config(json!({ "interval": 1 })).take(2).unwrap();
        assert_eq!(rows[1].message, json!({ "count": 2 }));
    }
}
