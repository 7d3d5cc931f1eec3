//! Runs files through one decoder, without the fuzzer: what it found is seen
//! again with an ordinary panic message.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((target, files)) =
        arguments.split_first().and_then(|(name, rest)| Some((ekuiper_fuzz::target(name)?, rest)))
    else {
        let names: Vec<_> = ekuiper_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: cargo run -p ekuiper-fuzz -- {} FILE…", names.join("|"));
        return ExitCode::from(2);
    };
    for file in files {
        match std::fs::read(file) {
            Ok(bytes) => target(&bytes),
            Err(error) => {
                eprintln!("cannot read {file}: {error}");
                return ExitCode::FAILURE;
            }
        }
        println!("{file}: nothing wrong");
    }
    ExitCode::SUCCESS
}
