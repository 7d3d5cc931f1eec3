//! Sinks that misbehave.

use ekuiper_sdk::prelude::*;

use crate::Settings;

pub(crate) fn add(plugin: Plugin) -> Plugin {
    plugin
        .sink("journal", || Journal::new(AckMode::Automatic))
        .sink("manual", || Journal::new(AckMode::Manual))
        .sink("unmakable", || -> Journal { panic!("boom in make") })
}

/// A sink that records each row's `n`. A row may also have `pause` (a number of
/// milliseconds), `panic`, `fail`, `abort`, and `ack` (texts to acknowledge with
/// by hand).
struct Journal {
    settings: Settings,
    mode: AckMode,
}

impl Journal {
    fn new(mode: AckMode) -> Self {
        Self { settings: Settings::default(), mode }
    }
}

impl Sink for Journal {
    fn configure(&mut self, config: &Config) -> Result<()> {
        self.settings = config.parse()?;
        self.settings.enter("configure")
    }

    fn open(&mut self, _ctx: &SinkContext) -> Result<()> {
        self.settings.enter("open")
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        for row in ctx.rows::<Value>(data)? {
            self.settings.enter(&format!("row {}", row["n"]))?;
            if let Some(pause) = row["pause"].as_u64() {
                std::thread::sleep(std::time::Duration::from_millis(pause));
            }
            if row["abort"] == true {
                std::process::abort();
            }
            for ack in row["ack"].as_array().into_iter().flatten() {
                match ack.as_str() {
                    Some("") | None => ctx.ack_ok()?,
                    Some(text) => ctx.ack_error(text)?,
                }
            }
            if let Some(text) = row["fail"].as_str() {
                return Err(text.into());
            }
            if let Some(text) = row["panic"].as_str() {
                panic!("{text}");
            }
        }
        Ok(())
    }

    fn close(&mut self, _ctx: &SinkContext) -> Result<()> {
        self.settings.enter("close")
    }

    fn ack_mode(&self) -> AckMode {
        self.mode
    }
}
