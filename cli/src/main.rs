//! The command `ekuiper-plugin`: call, read, feed and run portable plugins
//! from a shell, with no engine at hand.
//!
//! Results go to stdout as JSON, everything else to stderr. Exit codes: 0 it
//! worked, 1 it failed, 2 it was called wrongly, 130 it was interrupted.

mod args;
mod commands;
mod drain;
mod error;
mod init;
mod interrupt;
mod logging;
mod pipeline;
mod plugin_path;
mod progress;
mod session;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    #[cfg(feature = "bench")]
    if ekuiper_bench::child::is_one() {
        return ekuiper_bench::child::run();
    }
    if let Some(ended) = init::be_init() {
        return ended.unwrap_or_else(|error| {
            eprintln!("ekuiper-plugin: as process 1, it cannot start itself again: {error}");
            ExitCode::FAILURE
        });
    }
    let arguments = args::Arguments::parse();
    logging::init(arguments.common.log_level);
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ekuiper-plugin: {error}");
            ExitCode::FAILURE
        }
    }
}
