//! Whole rules in a stock engine, which `KUIPERD` and `KUIPER_ETC` name: plugins
//! on our SDKs and on the official ones, and what the engine does at best.
//! `cargo xtask bench rules` builds what it needs and calls this.

mod stock;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use ekuiper_bench::peer::Peer;
use ekuiper_bench::report::Described;
use ekuiper_bench::{Options, Result, bench, subject};
use ekuiper_core::Chain;
use ekuiper_interop::engine::kuiperd::Site;

use stock::{Candidate, Stock};

/// Measures rules in a stock engine.
#[derive(Debug, Parser)]
#[command(name = "rules", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// The measured plugin on our SDK
    #[arg(long, value_name = "PROGRAM", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/bench-plugin"))]
    plugin: PathBuf,
    /// A Python that has our module
    #[arg(long, value_name = "PROGRAM", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python"))]
    module: PathBuf,
    /// A Python that has the official SDK
    #[arg(long, value_name = "PROGRAM", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/python/bin/python"))]
    python: PathBuf,
    /// The plugin mirror of the official Go SDK's examples, built
    #[arg(long, value_name = "PROGRAM", env = "GO_MIRROR")]
    go: Option<PathBuf>,
}

fn main() -> ExitCode {
    // An engine starts, and a rule comes to its speed, in longer than that.
    let command = Arguments::command().mut_arg("seconds", |argument| argument.default_value("2"));
    let arguments = Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("rules: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let Err(reason) = Site::bare(|| arguments.python.clone()) {
        eprintln!("SKIPPED: rules in a stock engine: {reason}");
        return Ok(true);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin/bench.py");
    let on = |python: &Path| Candidate::Python { python: python.to_owned(), script: script.clone() };
    let mut peers = vec![
        Stock::new("uds", "our Rust SDK", Candidate::Native(arguments.plugin.clone())),
        Stock::new("python-module", "our Python module", on(&arguments.module)),
        Stock::new("python-nng", "official Python SDK, libnng", on(&arguments.python)),
    ];
    let mut skipped = Vec::new();
    match &arguments.go {
        Some(go) => peers.push(Stock::new("go", "official Go SDK", Candidate::Go(go.clone()))),
        None => skipped.push(Described { name: "go".into(), about: "set GO_MIRROR to a build of its mirror".into() }),
    }
    peers.push(Stock::new("frames", "frames made beforehand", Candidate::Frames(arguments.plugin.clone())));
    peers.push(Stock::new("engine", "the engine alone", Candidate::Engine));
    let mut there: Vec<Box<dyn Peer>> = Vec::new();
    for peer in peers {
        match peer.is_there() {
            Ok(()) => there.push(Box::new(peer)),
            Err(about) => skipped.push(Described { name: peer.name().to_owned(), about }),
        }
    }
    bench(&arguments.options, vec![subject::rules()], there, skipped)
}
