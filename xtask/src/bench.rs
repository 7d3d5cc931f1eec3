//! The benchmark: our transports and the peers side by side, rules in a stock
//! engine, and the instructions of the hot path.

use std::path::PathBuf;
use std::process::Command;

use crate::Result;
use crate::command_rate;
use crate::process::{cargo, execute, exists, output, root};
use crate::python;
use crate::tools::{self, Tools};

/// What the steps of the hot path may cost, in instructions.
const LIMITS: &str = "bench/instructions.txt";

/// How much more than its limit a step may cost: compilers and processors
/// differ a little.
const MARGIN: f64 = 1.10;

/// And so many more: what a compiler puts in line, or not, where another crate
/// has changed, is much of a small step.
const GRACE: f64 = 64.0;

/// Below this part of its limit a step has become so much cheaper that the
/// limit guards nothing.
const SLACK: f64 = 0.75;

/// How often a step is taken. Two runs, so that what surrounds it cancels out.
const COUNTS: [u64; 2] = [500, 2500];

/// Builds all that is measured, and measures.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    match arguments {
        [first, rest @ ..] if first == "--instructions" => return instructions(rest),
        [only] if only == "--command" => return command_rate::run(),
        [first, rest @ ..] if first == "rules" => return rules(rest),
        _ => {}
    }
    let mut tools = tools::set_up()?;
    tools.mangos_bench()?;
    tools.iceoryx2_bench()?;
    python::install(&tools)?;
    // There is no wheel of pyarrow for each machine.
    let pyarrow =
        execute(&mut python::in_environment(&["-m", "pip", "install", "--quiet", "-r", "bench/requirements.txt"]));
    pyarrow.or_else(|error| tools.skip(format!("pyarrow in the benchmark: {error}")))?;
    // By itself: as its author would ship it, with no feature that another
    // crate asks for.
    execute(cargo().args(["build", "--release", "--package", "mirror"]))?;
    let package = ["--release", "--package", "ekuiper-bench", "--all-features"];
    execute(tools.for_command(cargo().arg("build").args(package).arg("--bins")))?;
    let measured = execute(tools.for_command(
        cargo().args(["run", "--quiet"]).args(package).args(["--bin", "ekuiper-bench", "--"]).args(arguments),
    ));
    tools.report_skipped();
    measured
}

/// Builds the plugins that are measured in a stock engine, and measures them
/// there.
fn rules(arguments: &[String]) -> Result<()> {
    let mut tools = tools::set_up()?;
    for (name, what) in [("KUIPERD", "a kuiperd binary"), ("KUIPER_ETC", "its etc folder")] {
        if std::env::var_os(name).is_none() {
            tools.note(format!("rules in a stock engine: set {name} to {what}"));
            tools.report_skipped();
            return Ok(());
        }
    }
    python::install(&tools)?;
    // As an author builds a plugin; what asks the engine need not be fast.
    execute(cargo().args(["build", "--release", "--package", "ekuiper-bench", "--bin", "bench-plugin"]))?;
    let package = ["--package", "ekuiper-bench", "--all-features", "--example", "rules", "--"];
    let measured = execute(tools.for_command(cargo().args(["run", "--quiet"]).args(package).args(arguments)));
    tools.report_skipped();
    measured
}

/// Counts what each step of the hot path costs, and compares that with its
/// limit; `--accept` makes what was counted the limits.
fn instructions(arguments: &[String]) -> Result<()> {
    let accept = match arguments {
        [] => false,
        [accept] if accept == "--accept" => true,
        _ => return Err("--instructions takes nothing, or --accept".into()),
    };
    if !exists("valgrind") {
        let mut tools = Tools::default();
        tools.skip("the instructions of the hot path: valgrind was not found (Debian: valgrind)".into())?;
        tools.report_skipped();
        return Ok(());
    }
    let program = hotpath()?;
    let names = output(Command::new(&program).arg("--list"))?;
    let mut counted = Vec::new();
    for name in names.lines() {
        let [few, many] = COUNTS.map(|count| callgrind(&program, name, count));
        let per_step = many?.saturating_sub(few?) as f64 / (COUNTS[1] - COUNTS[0]) as f64;
        counted.push((name.to_owned(), per_step.round() as u64));
    }
    let path = root().join(LIMITS);
    if accept {
        let lines = counted.iter().map(|(name, count)| format!("{name} {count}\n"));
        let text = HEAD.to_owned() + &lines.collect::<String>();
        return std::fs::write(&path, text).map_err(|error| format!("cannot write {LIMITS}: {error}"));
    }
    let limits = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {LIMITS}: {error}"))?;
    let verdict = judge(&counted, &limits);
    print!("{}", verdict.table);
    if verdict.broken.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\nxtask: if that is meant, `cargo xtask bench --instructions --accept` makes it the limits",
        verdict.broken.join("\nxtask: ")
    ))
}

const HEAD: &str = "# Instructions of each step of the hot path (bench/src/step.rs), counted by callgrind.\n\
    # `cargo xtask bench --instructions` fails when one costs a tenth and 64 more;\n\
    # `cargo xtask bench --instructions --accept` writes this file.\n";

/// Builds the program that takes the steps.
fn hotpath() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--release", "--package", "ekuiper-bench", "--bin", "hotpath"]);
    execute(&mut build)?;
    // Where cargo has put it, whatever its settings are.
    let messages = output(build.args(["--quiet", "--message-format=json"]))?;
    let path = messages.lines().find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        rest.split_once('"').map(|(path, _)| path)
    });
    path.map(PathBuf::from).ok_or_else(|| "cargo does not say where it has put hotpath".into())
}

/// The instructions of a run that takes a step so many times.
fn callgrind(program: &PathBuf, step: &str, count: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).args([step, &count.to_string()]);
    let run = command.output().map_err(|error| format!("cannot run valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&run.stderr);
    match collected(&text) {
        Some(instructions) if run.status.success() => Ok(instructions),
        _ => Err(format!("valgrind cannot run the step {step}:\n{text}")),
    }
}

/// `==123== Collected : 4567` says how many.
fn collected(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once("Collected :")?.1.split_whitespace().next()?.parse().ok())
}

/// What the counts come to.
struct Verdict {
    table: String,
    broken: Vec<String>,
}

fn judge(counted: &[(String, u64)], limits: &str) -> Verdict {
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse::<u64>().ok())
    };
    let mut verdict = Verdict { table: format!("{:<34} instructions     limit\n", "step"), broken: Vec::new() };
    for (name, count) in counted {
        let Some(limit) = limit(name) else {
            verdict.broken.push(format!("{name} has no limit in {LIMITS}"));
            continue;
        };
        let factor = *count as f64 / limit.max(1) as f64;
        let note = if factor < SLACK { "  far below its limit: accept it" } else { "" };
        verdict.table += &format!("{name:<34} {count:>12} {limit:>9} {:>+5.0} %{note}\n", (factor - 1.0) * 100.0);
        if *count as f64 > limit as f64 * MARGIN + GRACE {
            verdict.broken.push(format!("{name} costs {count} instructions, {limit} were enough"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valgrinds_count_is_read() {
        let text = "==7== Callgrind\n==7== Events    : Ir\n==7== Collected : 263421\n==7== \n";
        assert_eq!(collected(text), Some(263421));
        assert_eq!(collected("==7== killed"), None);
    }

    #[test]
    fn a_tenth_more_is_too_much_and_a_step_without_a_limit_too() {
        let counted = |count| vec![("sp/chunk".to_owned(), count)];
        let limits = "# a comment\nsp/chunk 1000\nsp/chunk2 5\n";
        assert!(judge(&counted(1164), limits).broken.is_empty());
        assert_eq!(judge(&counted(1165), limits).broken, ["sp/chunk costs 1165 instructions, 1000 were enough"]);
        assert!(judge(&counted(700), limits).table.contains("far below"));
        assert_eq!(judge(&counted(1), "").broken.len(), 1);
    }
}
