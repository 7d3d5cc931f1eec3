//! A plugin for tests of requests: it tells what it was given, sends without
//! end, is late, and crashes.

use std::time::Duration;

use ekuiper_manager::archive::Contents;
use ekuiper_sdk::prelude::*;

use crate::support::Bench;
use crate::support::served::Server;

/// Set where the server has started this program, which is its plugin then: the
/// plugin's argument.
pub(crate) const ARGUMENT: &str = "UNSTEADY_ARGUMENT";

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

/// Collects one row in any time.
struct Stuck;

impl Sink for Stuck {
    fn collect(&mut self, _: &SinkContext, _: &[u8]) -> Result<()> {
        loop {
            std::thread::park();
        }
    }
}

/// The symbols, for the manifest.
pub(crate) const MANIFEST: &str = r#"{
    "version": "v1", "language": "go", "executable": "run",
    "sources": ["telling", "flooding"], "sinks": ["crashing", "stuck"], "functions": ["echo", "crash", "late"]
}"#;

/// Runs the plugin, with the argument that its host gave it.
pub(crate) fn run(argument: String) -> ExitCode {
    Plugin::new("unsteady")
        .source("telling", Telling::default)
        .source("flooding", || Flooding)
        .sink("crashing", Crashing::default)
        .sink("stuck", || Stuck)
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

/// Starts a server that has the plugin.
pub(crate) fn serve(bench: &Bench, arguments: &[&str]) -> Server {
    let server = Server::start_with(bench, &[&["--listen", "127.0.0.1:0"], arguments].concat(), &[]);
    let program = std::env::current_exe().unwrap();
    let script = format!("#!/bin/sh\nexec env {ARGUMENT}=\"$1\" '{}' --exact plugin --nocapture\n", program.display());
    let mut contents = Contents::new();
    contents.add_bytes("unsteady.json", MANIFEST, false).unwrap();
    contents.add_bytes("run", script, true).unwrap();
    for source in ["telling", "flooding"] {
        contents.add_bytes(&format!("sources/{source}.yaml"), "default: {}\n", false).unwrap();
    }
    let path = bench.path().join("unsteady.zip");
    contents.write(&path).unwrap();
    let body = json!({ "name": "unsteady", "file": format!("file://{}", path.display()) }).to_string();
    let (status, said) = server.ask("POST", "/plugins/portables", &body, "");
    assert_eq!(status, 201, "{said}");
    server
}

/// The lines of a body without those of its chunks.
pub(crate) fn text(body: &str) -> Vec<&str> {
    let is_length = |line: &str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    body.lines().filter(|line| !line.is_empty() && !is_length(line)).collect()
}
