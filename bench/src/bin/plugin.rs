//! The other process of the measurements; an engine, or the benchmark, starts
//! it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ekuiper_bench::child::run()
}
