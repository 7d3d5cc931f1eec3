//! A source that reads lines from a TCP server, and reconnects whenever the
//! server closes the connection.

use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use ekuiper_sdk::prelude::*;

fn main() -> ExitCode {
    Plugin::new("lines").source("lines", Lines::default).run()
}

// [guide]
#[derive(serde::Deserialize)]
#[serde(default)]
struct Lines {
    address: String,
    /// The pause before it connects again, in milliseconds.
    pause: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { address: String::new(), pause: 1000 }
    }
}

impl Source for Lines {
    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        *self = config.parse()?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        loop {
            if let Err(error) = self.read(ctx)
                && !ctx.is_stopped()
            {
                ctx.emit_error(&Chain(&*error).to_string())?;
            }
            if !ctx.sleep(Duration::from_millis(self.pause)) {
                return Ok(());
            }
        }
    }
}

impl Lines {
    /// Reads one connection to its end.
    fn read(&self, ctx: &SourceContext) -> Result<()> {
        let stream = TcpStream::connect(&self.address)?;
        let closing = stream.try_clone()?;
        // Ends the wait for a line. Dropping the `StopHook` when this function
        // returns unregisters the hook: no former connection is kept.
        let _hook = ctx.on_stop(move || {
            let _ = closing.shutdown(Shutdown::Both);
        });
        for line in BufReader::new(stream).lines() {
            ctx.emit(&json!({ "line": line? }))?;
        }
        Ok(())
    }
}
// [guide]

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "only tests are here")]

    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::mpsc;

    use ekuiper_sdk::testing;

    use super::*;

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn it_connects_again_keeps_no_connection_and_can_be_stopped() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = json!({ "address": server.local_addr().unwrap().to_string(), "pause": 0 });
        let (counts, counted) = mpsc::channel();
        std::thread::spawn(move || {
            // The last one stays open, without a line.
            let mut held = None;
            for (number, stream) in server.incoming().enumerate() {
                let mut stream = stream.unwrap();
                if number == 50 {
                    held = Some(stream);
                } else {
                    counts.send(descriptors()).unwrap();
                    writeln!(stream, "{number}").unwrap();
                }
            }
            drop(held);
        });
        let mut source = testing::source(Lines::default()).config(config).open().unwrap();
        for number in 0..50 {
            let row = source.next().unwrap().unwrap();
            assert_eq!(row.message, json!({ "line": number.to_string() }));
        }
        let counts: Vec<_> = counted.iter().take(50).collect();
        assert!(counts[49] <= counts[0] + 4, "descriptors at each connection: {counts:?}");
        source.stop().unwrap();
    }

    #[test]
    fn the_guide_shows_this_source() {
        let code = include_str!("lines.rs").split("// [guide]\n").nth(1).unwrap();
        let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/write-a-plugin.md");
        assert!(std::fs::read_to_string(guide).unwrap().contains(code), "the guide shows another source");
    }
}
