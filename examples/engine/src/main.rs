//! A small engine that reads a plugin's source, calls a plugin's function for
//! every row, and writes to a plugin's sink with acknowledgements.
//!
//! ```sh
//! cargo build --release && cp target/release/mirror examples/mirror
//! cargo run --release -p engine -- examples/mirror /tmp/rows.jsonl
//! ```

use std::process::ExitCode;

use ekuiper_host::{Chain, Host, Result};
use serde_json::json;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plugin, output] = arguments.as_slice() else {
        eprintln!("usage: engine PLUGIN_FOLDER OUTPUT_FILE");
        return ExitCode::from(2);
    };
    match run(plugin, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(plugin: &str, output: &str) -> Result<()> {
    let host = Host::builder().plugin(plugin).build()?;

    let revert = host.function("revert")?;
    let source = host.source("random").rule("rule1").config(json!({ "interval": 10, "count": 10 })).open()?;
    let sink = host.sink("file").rule("rule1").config(json!({ "path": output })).require_ack(true).open()?;

    for tuple in source {
        let mut row = tuple?.message;
        let reversed: String = revert.call((&row["name"],))?;
        row["reversed"] = reversed.into();
        sink.send(&row)?;
        println!("{row}");
    }
    sink.close()
}
