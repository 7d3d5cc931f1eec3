//! The sink `file`, also named `lines`, which appends rows to a file as JSON
//! lines.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use ekuiper_sdk::description::config_of;
use ekuiper_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

/// A sink that appends to the file at `path`. A message is acknowledged once it
/// is written.
#[derive(Default)]
pub(crate) struct FileSink {
    path: PathBuf,
    file: Option<File>,
}

#[derive(Deserialize, JsonSchema)]
struct Settings {
    /// The file that rows are appended to.
    path: PathBuf,
}

impl Sink for FileSink {
    fn describe() -> SinkDescription {
        SinkDescription::new().doc("Appends rows to a file as JSON lines.").rows().config(config_of::<Settings>())
    }

    fn configure(&mut self, config: &Config) -> Result<()> {
        self.path = config.parse::<Settings>()?.path;
        Ok(())
    }

    fn open(&mut self, _ctx: &SinkContext) -> Result<()> {
        let opened = File::options().create(true).append(true).open(&self.path);
        self.file = Some(opened.map_err(|error| format!("cannot open {}: {error}", self.path.display()))?);
        tracing::info!(path = %self.path.display(), "writing");
        Ok(())
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        let mut lines = Vec::new();
        for row in ctx.rows::<Value>(data)? {
            writeln!(lines, "{row}")?;
        }
        let file = self.file.as_mut().ok_or("the file is not open")?;
        // One write for all rows of a message.
        Ok(file.write_all(&lines)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_sdk::testing;

    #[test]
    fn rows_become_lines_and_are_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let sink = testing::sink(FileSink::default()).config(json!({ "path": path })).require_ack(true);
        let mut sink = sink.open().unwrap();
        sink.send(&json!({ "a": 1 })).unwrap();
        sink.send(&json!([{ "a": 2 }, { "a": 3 }])).unwrap();
        assert!(sink.send_bytes(b"no rows").is_err());
        let acks = sink.acks();
        assert_eq!(acks[..2], [Ok(()), Ok(())]);
        assert!(acks[2].is_err());
        sink.close().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    }

    #[test]
    fn a_folder_that_does_not_exist_refuses_the_start() {
        let sink = testing::sink(FileSink::default()).config(json!({ "path": "/no/such/folder/x" }));
        let error = sink.open().err().unwrap().to_string();
        assert!(error.starts_with("cannot open /no/such/folder/x"), "{error}");
    }
}
