//! The sink `lines`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use ekuiper_sdk::description::config_of;
use ekuiper_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

/// Appends rows to a file. Each rule gets an instance of its own.
#[derive(Default)]
pub(crate) struct Lines {
    path: PathBuf,
    /// Absent until the sink is opened.
    file: Option<File>,
}

/// The fields of the rule's action.
#[derive(Deserialize, JsonSchema)]
struct Settings {
    /// The file that rows are appended to.
    path: PathBuf,
}

impl Sink for Lines {
    fn describe() -> SinkDescription {
        SinkDescription::new()
            .doc("Appends rows to a file as JSON lines.")
            .config(config_of::<Settings>())
    }

    fn configure(&mut self, config: &Config) -> Result<()> {
        self.path = config.parse::<Settings>()?.path;
        Ok(())
    }

    fn open(&mut self, _ctx: &SinkContext) -> Result<()> {
        let opened = File::options().create(true).append(true).open(&self.path);
        let failed = |error| format!("cannot open {}: {error}", self.path.display());
        self.file = Some(opened.map_err(failed)?);
        Ok(())
    }

    // The result acknowledges the message, where a rule asks for that: `Ok` once
    // the rows are safe, an error to refuse them.
    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        let mut lines = Vec::new();
        for row in ctx.rows::<Value>(data)? {
            writeln!(lines, "{row}")?;
        }
        let file = self.file.as_mut().ok_or("the file is not open")?;
        Ok(file.write_all(&lines)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_sdk::testing;

    #[test]
    fn rows_are_written_before_they_are_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let sink = testing::sink(Lines::default()).config(json!({ "path": path }));
        let mut sink = sink.require_ack(true).open().unwrap();
        sink.send(&json!([{ "a": 1 }, { "a": 2 }])).unwrap();
        assert_eq!(sink.acks(), [Ok(())]);
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written, "{\"a\":1}\n{\"a\":2}\n");
    }

    #[test]
    fn what_is_no_row_is_refused() {
        let sink = testing::sink(Lines::default()).config(json!({ "path": "/dev/null" }));
        let mut sink = sink.require_ack(true).open().unwrap();
        assert!(sink.send_bytes(b"no row").is_err());
        assert!(sink.acks()[0].is_err());
    }
}
