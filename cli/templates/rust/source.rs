//! The source `ticks`.

use std::time::Duration;

use ekuiper_sdk::description::config_of;
use ekuiper_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Emits numbered rows. Each rule gets an instance of its own.
#[derive(Default)]
pub(crate) struct Ticks {
    settings: Settings,
}

/// The fields that a stream's configuration may have.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(default)]
struct Settings {
    /// Milliseconds between two rows.
    pause: u64,
    /// The number of rows; absent for no end.
    count: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pause: 1000,
            count: None,
        }
    }
}

#[derive(Serialize)]
struct Row {
    number: u64,
}

impl Source for Ticks {
    fn describe() -> SourceDescription {
        SourceDescription::new()
            .doc("Emits numbered rows.")
            .config(config_of::<Settings>())
    }

    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        // An error refuses the start, and names the field.
        self.settings = config.parse()?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        for number in 1..=self.settings.count.unwrap_or(u64::MAX) {
            ctx.emit(&Row { number })?;
            // False once the source is stopped.
            if !ctx.sleep(Duration::from_millis(self.settings.pause)) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_sdk::testing;

    #[test]
    fn rows_are_numbered_and_end() {
        let source = testing::source(Ticks::default()).config(json!({ "pause": 0, "count": 3 }));
        let rows = source.take(10).unwrap();
        let numbers: Vec<_> = rows.iter().map(|row| &row.message["number"]).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let source = testing::source(Ticks::default()).config(json!({ "pause": "long" }));
        let error = Chain(&*source.take(1).unwrap_err()).to_string();
        assert!(error.starts_with("invalid config field pause:"), "{error}");
    }
}
