//! The sink `file`: appends rows to a file as JSON lines.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use ekuiper_sdk::prelude::*;
use serde::Deserialize;

/// Appends to the file at `path`; a message is acknowledged once it is
/// written.
#[derive(Default)]
pub(crate) struct FileSink {
    path: PathBuf,
    file: Option<File>,
}

#[derive(Deserialize)]
struct Settings {
    path: PathBuf,
}

impl Sink for FileSink {
    fn configure(&mut self, config: &Config) -> Result<()> {
        self.path = config.parse::<Settings>()?.path;
        Ok(())
    }

    fn open(&mut self, _ctx: &SinkContext) -> Result<()> {
        let opened = File::options().create(true).append(true).open(&self.path);
        self.file = Some(opened.map_err(|error| format!("cannot open {}: {error}", self.path.display()))?);
        Ok(())
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        let mut lines = Vec::new();
        for row in ctx.rows::<Value>(data)? {
            writeln!(lines, "{row}")?;
        }
        match &mut self.file {
            Some(file) => Ok(file.write_all(&lines)?),
            None => Err("the file is not open".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_sdk::testing;

    #[test]
    fn rows_become_lines_and_are_acknowledged() {
        let folder = std::env::temp_dir().join(format!("mirror-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("rows.jsonl");
        let sink = testing::sink(FileSink::default()).config(json!({ "path": path })).require_ack(true);
        let mut sink = sink.open().unwrap();
        sink.send(&json!({ "a": 1 })).unwrap();
        sink.send(&json!([{ "a": 2 }, { "a": 3 }])).unwrap();
        assert!(sink.send(&json!("{")).is_ok());
        assert_eq!(sink.acks(), [Ok(()), Ok(()), Ok(())]);
        sink.close().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n\"{\"\n");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_does_not_exist_refuses_the_start() {
        let sink = testing::sink(FileSink::default()).config(json!({ "path": "/no/such/folder/x" }));
        let error = sink.open().err().unwrap().to_string();
        assert!(error.starts_with("cannot open /no/such/folder/x"), "{error}");
    }
}
