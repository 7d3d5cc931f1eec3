//! Runs one step of the hot path a given number of times: `cargo xtask bench
//! --instructions` counts its instructions.

use std::process::ExitCode;

use ekuiper_bench::step;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--list"] => {
            step::names().iter().for_each(|name| println!("{name}"));
            ExitCode::SUCCESS
        }
        [name, count] => match (step::by_name(name), count.parse::<u64>()) {
            (Some(mut step), Ok(count)) => {
                (0..count).for_each(|_| (step.take)());
                ExitCode::SUCCESS
            }
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: hotpath --list | hotpath STEP COUNT");
    ExitCode::from(2)
}
