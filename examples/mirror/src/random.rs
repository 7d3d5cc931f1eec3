//! The source `random`: numbered rows with a pseudo-random word and value.

use std::time::Duration;

use ekuiper_sdk::description::config_of;
use ekuiper_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A source that emits a row every `interval`, `count` rows or without end.
#[derive(Default)]
pub(crate) struct RandomSource {
    settings: Settings,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default)]
struct Settings {
    /// Milliseconds between two rows.
    interval: u64,
    /// The number of rows; absent for no end.
    count: Option<u64>,
    /// The seed: equal seeds give equal rows.
    seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: 100, count: None, seed: 1 }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    count: u64,
    name: &'a str,
    value: u64,
}

impl Source for RandomSource {
    fn describe() -> SourceDescription {
        SourceDescription::new()
            .doc("Emits numbered rows with a pseudo-random word and value.")
            .config(config_of::<Settings>())
    }

    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        self.settings = config.parse()?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        let interval = Duration::from_millis(self.settings.interval);
        let mut state = self.settings.seed | 1;
        for count in 1..=self.settings.count.unwrap_or(u64::MAX) {
            let name = word(&mut state);
            ctx.emit(&Row { count, name: &name, value: next(&mut state) % 1000 })?;
            if !ctx.sleep(interval) {
                break;
            }
        }
        Ok(())
    }
}

/// A xorshift generator: repeatable, and good enough for an example.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn word(state: &mut u64) -> String {
    (0..6).map(|_| char::from(b'a' + (next(state) % 26) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_sdk::{Chain, testing};

    #[test]
    fn rows_are_numbered_and_end() {
        let source = testing::source(RandomSource::default()).config(json!({ "interval": 0, "count": 3 }));
        let rows = source.take(10).unwrap();
        let counts: Vec<_> = rows.iter().map(|row| row.message["count"].as_u64().unwrap()).collect();
        assert_eq!(counts, [1, 2, 3]);
        assert_eq!(rows[0].message["name"].as_str().unwrap().len(), 6);
    }

    #[test]
    fn a_wrong_config_is_named() {
        let source = testing::source(RandomSource::default()).config(json!({ "interval": "soon" }));
        let error = Chain(&*source.take(1).unwrap_err()).to_string();
        assert!(error.starts_with("invalid config field interval:"), "{error}");
    }
}
