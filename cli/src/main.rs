//! The command `ekuiper-plugin`: call, read, feed and run portable plugins from
//! a shell, without an engine.
//!
//! Results go to stdout as JSON, everything else to stderr. Exit codes: 0
//! success, 1 failure, 2 wrong invocation, 130 interrupted.

mod args;
mod attachment;
mod calling;
mod check;
mod commands;
mod console;
mod describing;
mod drain;
mod engine;
mod error;
mod feeding;
mod figures;
mod flow;
mod folded;
mod http_server;
mod init;
mod interrupt;
mod json_text;
mod lines;
mod logging;
mod output;
mod pipeline;
mod plugin_name;
mod plugin_options;
mod plugin_path;
mod process_state;
mod program_output;
mod progress;
mod project;
mod reading;
mod row_arguments;
mod rows;
mod session;
mod target;
mod template;
mod test_server;
mod token;
mod view;
mod watching;

use std::process::ExitCode;

use clap::Parser;
use ekuiper_core::Chain;
use ekuiper_host::python_advice;

fn main() -> ExitCode {
    #[cfg(feature = "bench")]
    if ekuiper_bench::child::is_one() {
        return ekuiper_bench::child::run();
    }
    init::hear_of_children();
    if let Some(ended) = init::be_init() {
        return ended.unwrap_or_else(|error| {
            console::tell(format_args!("as process 1, the command cannot start its child process: {error}"));
            ExitCode::FAILURE
        });
    }
    let arguments = match args::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => return tell(&answer),
    };
    logging::init(arguments.common.log_level, matches!(arguments.command, args::Command::Serve(_)));
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            let said = Chain(&error).to_string();
            let advice = python_advice(&said).filter(|advice| !said.contains(advice.as_str()));
            let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
            console::tell(format_args!("{said}{advice}"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints help and version to stdout, and errors of the command line to stderr.
fn tell(answer: &clap::Error) -> ExitCode {
    let is_plain =
        |argument: std::ffi::OsString| !argument.to_string_lossy().contains(ekuiper_core::printable::is_unprintable);
    let printed = if answer.use_stderr() && !std::env::args_os().all(is_plain) {
        // The text may quote control characters.
        console::line(format_args!("{}", answer.render().to_string().trim_end()));
        Ok(output::Reader::Reads)
    } else {
        output::written(answer.print())
    };
    match printed {
        Err(error) if !answer.use_stderr() => {
            console::tell(Chain(&error));
            ExitCode::from(error.exit_code())
        }
        _ => ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2)),
    }
}
