//! The program in the wheel.

use std::process::ExitCode;

fn main() -> ExitCode {
    ekuiper_guard::main()
}
