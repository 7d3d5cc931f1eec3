//! The whole benchmark, with the peers of others; `cargo xtask bench` builds
//! what it needs and calls this.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use ekuiper_bench::peer::Peer;
use ekuiper_bench::peer::flight::FlightPeer;
use ekuiper_bench::peer::grpc::GrpcPeer;
use ekuiper_bench::peer::ours::Mirror;
use ekuiper_bench::peer::pipe::PipePeer;
use ekuiper_bench::peer::program::Program;
use ekuiper_bench::peer::python::Python;
use ekuiper_bench::report::Described;
use ekuiper_bench::{Error, Options, Result, bench, built_in, child, subject};
use ekuiper_core::Chain;

/// Measures our transports, and what else there is, side by side.
#[derive(Debug, Parser)]
#[command(name = "ekuiper-bench", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// A Python that has the official SDK
    #[arg(long, value_name = "PROGRAM", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/python/bin/python"))]
    python: PathBuf,
    /// A Python that has our module, NumPy and pyarrow
    #[arg(long, value_name = "PROGRAM", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python"))]
    module: PathBuf,
    /// The Go program of bench/peers/mangos
    #[arg(long, value_name = "PROGRAM", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/mangos-bench"))]
    mangos: PathBuf,
    /// The program of bench/peers/iceoryx2
    #[arg(long, value_name = "PROGRAM", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/peers/release/iceoryx2-bench"))]
    iceoryx2: PathBuf,
    /// The plugin examples/mirror [default: beside this program]
    #[arg(long, value_name = "PROGRAM")]
    mirror: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ekuiper-bench: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let own = std::env::current_exe().map_err(|source| Error::Io { what: "find this program".into(), source })?;
    let plugin = own.with_file_name(child::NAME);
    if !plugin.exists() {
        return Err(Error::Peer(format!("there is no {}: `cargo xtask bench` builds it", plugin.display())));
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut peers, mut skipped) = built_in(&plugin);
    let mut add = |name: &str, peer: Result<Box<dyn Peer>, String>| match peer {
        Ok(peer) => peers.push(peer),
        Err(about) => skipped.push(Described { name: name.to_owned(), about }),
    };
    let mirror = arguments.mirror.clone().unwrap_or_else(|| own.with_file_name("mirror"));
    let manifest = sources.join("../examples/mirror/mirror.json");
    let mirror = Mirror::new(&mirror, &manifest)
        .map_err(|error| format!("{}: `cargo build --release -p mirror`", Chain(&error)));
    add("mirror", mirror.map(|mirror| Box::new(mirror) as _));
    add("mangos", Program::mangos(&arguments.mangos).map(|mangos| Box::new(mangos) as _));
    add("iceoryx2", Program::iceoryx2(&arguments.iceoryx2).map(|iceoryx2| Box::new(iceoryx2) as _));
    let script = sources.join("plugin/bench.py");
    for (name, transport) in [("python-module", "uds"), ("python-module-shm", "shm")] {
        let classes = Python::classes(name, transport, &arguments.module, script.clone());
        add(name, classes.map(|module| Box::new(module) as _));
    }
    let functions = Python::functions("python-functions", &arguments.module, sources.join("plugin/decorated.py"));
    add("python-functions", functions.map(|module| Box::new(module) as _));
    for (name, transport) in [("python-uds", "uds"), ("python-nng", "nng")] {
        let python = Python::official(name, transport, &arguments.python, script.clone());
        add(name, python.map(|python| Box::new(python) as _));
    }
    let pipe = PipePeer::new(&arguments.module, sources.join("plugin/pipe.py"));
    add("pipe", pipe.map(|pipe| Box::new(pipe) as _));
    add("flight", Ok(Box::new(FlightPeer::new(plugin.clone()))));
    add("grpc", Ok(Box::new(GrpcPeer::new(plugin))));
    bench(&arguments.options, subject::all(), peers, skipped)
}
