//! Command line of the proofs; `cargo xtask chaos` and `cargo xtask soak` build
//! what they need and call this.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chaos::Tools;
use chaos::plan::Plan;

const USAGE: &str = "usage: chaos chaos [--minutes N] [--seconds N] [--seed S]   faults under load
       chaos soak  [--minutes N] [--seconds N]             flat memory, descriptors and threads
       chaos plan  [--minutes N] [--seconds N] [--seed S]  only print the plan of a seed
   both: --python PROGRAM   a Python that has the official SDK (default: .tools/python/bin/python)
         --module PROGRAM   a Python that has our module (default: target/python/bin/python)
         --transport NAME   the transport of everything (default: what the host chooses by itself)
         --log LEVEL        also what the host and the plugins log, to stderr";

struct Options {
    time: Duration,
    seed: u64,
    python: PathBuf,
    module: PathBuf,
    transport: Option<String>,
    log: Option<tracing_subscriber::filter::LevelFilter>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Called by the proof itself, which runs strangers in separate processes.
    if let Some((task, rest)) = arguments.split_first()
        && task == "stranger"
    {
        return chaos::strangers::run(rest).map_or(ExitCode::from(2), |()| ExitCode::SUCCESS);
    }
    let Some((task, options)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(level) = options.log {
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    }
    match perform(task, &options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("chaos: {text}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<(&str, Options)> {
    let (task, mut rest) = arguments.split_first()?;
    let python = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/python/bin/python"));
    let module = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python"));
    let mut options = Options { time: Duration::ZERO, seed: 1, python, module, transport: None, log: None };
    while let [name, value, others @ ..] = rest {
        match name.as_str() {
            "--minutes" => options.time += Duration::from_secs_f64(value.parse::<f64>().ok()? * 60.0),
            "--seconds" => options.time += Duration::from_secs_f64(value.parse().ok()?),
            "--seed" => options.seed = value.parse().ok()?,
            "--python" => options.python = value.into(),
            "--module" => options.module = value.into(),
            "--transport" => options.transport = Some(value.clone()),
            "--log" => options.log = Some(value.parse().ok()?),
            _ => return None,
        }
        rest = others;
    }
    if options.time.is_zero() {
        options.time = Duration::from_secs(60);
    }
    (rest.is_empty() && ["chaos", "soak", "plan"].contains(&task.as_str())).then_some((task, options))
}

/// Returns whether every promise was kept.
fn perform(task: &str, options: &Options) -> Result<bool, String> {
    let plan = Plan::new(options.seed, options.time);
    if task == "plan" {
        print!("{plan}");
        return Ok(true);
    }
    let tools = tools(options)?;
    if task == "soak" {
        if !tools.module.exists() {
            return Err(format!("there is no {}: `cargo xtask python` sets it up", tools.module.display()));
        }
        let report = chaos::soak::run(&tools, options.time)?;
        print!("{report}");
        println!("{}", report.json());
        return Ok(is_kept(report.violations()));
    }
    print!("The plan of seed {}:\n{plan}\n", options.seed);
    let report = chaos::chaos::run(&tools, &plan)?;
    print!("{report}");
    let mut json = report.json();
    json["seed"] = options.seed.into();
    println!("{json}");
    Ok(is_kept(&report.violations()))
}

/// Says which promises were broken; returns whether none was.
fn is_kept(violations: &[String]) -> bool {
    violations.iter().for_each(|violation| eprintln!("chaos: violation: {violation}"));
    violations.is_empty()
}

fn tools(options: &Options) -> Result<Tools, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find this command's executable: {error}"))?;
    let plugin = own.with_file_name("chaos-plugin");
    if !plugin.exists() {
        return Err(format!("there is no {}: run this by `cargo xtask chaos`, which builds it", plugin.display()));
    }
    if !options.python.exists() {
        return Err(format!("there is no {}: `cargo xtask tools` sets it up", options.python.display()));
    }
    let (python, module, transport) = (options.python.clone(), options.module.clone(), options.transport.clone());
    Ok(Tools { plugin, python, module, transport })
}
