//! The stress of the transports, by hand: `cargo xtask stress`.

use crate::Result;
use crate::process::{cargo, execute};
use crate::tools;

/// Whose suites there are.
const TRANSPORTS: [&str; 4] = ["uds", "nng", "zeromq", "shm"];

const USAGE: &str =
    "cargo xtask stress takes [--minutes N|--seconds N] [--seed S] and names of transports: uds, nng, zeromq, shm";

/// Runs the stress cases of the named transports, or of all, each for so long.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (mut seconds, mut seed) = (0.0, None);
    let mut named = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number = || rest.next().and_then(|value| value.parse::<f64>().ok()).ok_or(USAGE);
        match argument.as_str() {
            "--minutes" => seconds += number()? * 60.0,
            "--seconds" => seconds += number()?,
            "--seed" => seed = Some(rest.next().filter(|seed| seed.parse::<u64>().is_ok()).ok_or(USAGE)?),
            name if TRANSPORTS.contains(&name) => named.push(name),
            _ => return Err(USAGE.into()),
        }
    }
    if named.is_empty() {
        named.extend(TRANSPORTS);
    }
    if seconds == 0.0 {
        seconds = 60.0;
    }
    let tools = tools::set_up()?;
    for transport in named {
        let mut command = cargo();
        command.args(["test", "--package", &format!("ekuiper-transport-{transport}"), "--test", "conformance"]);
        command.args(["--", "stress_", "--nocapture"]);
        command.env("EKUIPER_STRESS_SECONDS", (seconds.ceil() as u64).to_string());
        command.envs(seed.map(|seed| ("EKUIPER_STRESS_SEED", seed)));
        execute(tools.for_command(&mut command))?;
    }
    Ok(())
}
