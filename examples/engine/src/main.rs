//! A small engine: it reads a plugin's source, calls a plugin's function on
//! every row, and writes to a plugin's sink, with acknowledgements.
//!
//! `cargo run -p engine -- PLUGIN_FOLDER OUTPUT_FILE`

use ekuiper_host::{Error, Host};
use serde_json::json;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let (Some(plugin), Some(output)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: engine PLUGIN_FOLDER OUTPUT_FILE");
        std::process::exit(2);
    };
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
