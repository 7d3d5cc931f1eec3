//! The project's own tasks, each one command:
//!
//! - `cargo xtask test`: sets up what the tests need, inside the checkout, and
//!   runs them all;
//! - `cargo xtask lint`: formatting, clippy, documentation, the guide,
//!   packages, licences, each feature alone, the oldest Rust;
//! - `cargo xtask fuzz`: bytes of every kind to every decoder;
//! - `cargo xtask chaos` and `cargo xtask soak`: the proofs on real processes;
//! - `cargo xtask stress`: closings, deadlines and reconnections of each
//!   transport at random;
//! - `cargo xtask bench`: our transports and the peers side by side; rules in a
//!   stock engine; the instructions of the hot path;
//! - `cargo xtask python`: the wheel of the module for Python, installed and
//!   tested;
//! - `cargo xtask cross`: the targets of devices, built, and tested under qemu;
//! - `cargo xtask wheels`: the wheels for devices, checked;
//! - `cargo xtask release --dry-run`: what would be published, made and checked;
//! - `cargo xtask tools`: only the set-up.

mod bench;
mod chaos;
mod command_rate;
mod cross;
mod fuzz;
mod lint;
mod oldest;
mod process;
mod publish;
mod python;
mod release;
mod stress;
mod test;
mod tools;
mod wheels;

use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: cargo xtask test [CARGO TEST ARGUMENTS…]                set up and run all tests
       cargo xtask lint                                        format, clippy, docs, guide, packages, licences, features, oldest Rust
       cargo xtask fuzz [--minutes N|--seconds N] [DECODER…]   each decoder under libFuzzer for so long
       cargo xtask chaos [--minutes N|--seconds N] [--seed S]  real processes under load and faults: no promise is broken
       cargo xtask soak [--minutes N|--seconds N]              real processes: memory, descriptors and threads stay flat
       cargo xtask stress [--minutes N|--seconds N] [--seed S] [TRANSPORT…]
                                                               each transport, its sockets closed and used at random
       cargo xtask bench [--quick] [--only SUBJECT] …          our transports and their peers side by side; --help: more
       cargo xtask bench rules [--rounds N] …                  plugins in a stock eKuiper (KUIPERD, KUIPER_ETC, GO_MIRROR)
       cargo xtask bench --instructions [--accept]             what the hot path costs, against its limits
       cargo xtask bench --command                             the rows per second of `ekuiper-plugin source`
       cargo xtask python [PYTEST ARGUMENTS…]                  build, install and test the wheel for Python
       cargo xtask cross [--quick] [--measure] [TARGET…]       build for devices, and test (or measure) under qemu
       cargo xtask wheels [--quick] [TARGET…]                  the wheels for Python on devices, and their sources
       cargo xtask release --dry-run                           make and check what would be published
       cargo xtask tools                                       only the set-up, in .tools";

/// What a task comes to; the text is one sentence for people.
type Result<T, E = String> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let started = Instant::now();
    let done = match arguments.split_first() {
        Some((task, rest)) if task == "test" => test::run(rest),
        Some((task, [])) if task == "lint" => lint::run(),
        Some((task, rest)) if task == "fuzz" => fuzz::run(rest),
        Some((proof, rest)) if ["chaos", "soak"].contains(&proof.as_str()) => chaos::run(proof, rest),
        Some((task, rest)) if task == "stress" => stress::run(rest),
        Some((task, rest)) if task == "bench" => bench::run(rest),
        Some((task, rest)) if task == "python" => python::run(rest),
        Some((task, rest)) if task == "cross" => cross::run(rest),
        Some((task, rest)) if task == "wheels" => wheels::run(rest),
        Some((task, rest)) if task == "release" => release::run(rest),
        Some((task, [])) if task == "tools" => tools::set_up().map(|tools| tools.report_skipped()),
        Some((help, _)) if ["help", "--help", "-h"].contains(&help.as_str()) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => {
            eprintln!("xtask: {} done in {} s", arguments[0], started.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("xtask: {text}");
            ExitCode::FAILURE
        }
    }
}
