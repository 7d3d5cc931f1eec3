//! The other process of the measurements, started by an engine or the
//! benchmark.

use std::process::ExitCode;

fn main() -> ExitCode {
    ekuiper_bench::child::run()
}
