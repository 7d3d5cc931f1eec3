//! The commands, one file each.

#[cfg(feature = "bench")]
mod bench;
mod call;
mod run;
mod sink;
mod source;

use std::process::ExitCode;

use serde_json::Value;

use crate::args::{Arguments, Command};
use crate::error::{Error, Result, excerpt};

/// Carries out the command.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let common = &arguments.common;
    match &arguments.command {
        Command::Call(call) => call::run(common, call),
        Command::Source(source) => source::run(common, source),
        Command::Sink(sink) => sink::run(common, sink),
        Command::Run(run) => run::run(common, run),
        #[cfg(feature = "bench")]
        Command::Bench(options) => bench::run(common, options),
    }
}

/// JSON from the command line; the error tells the place. A byte order mark may
/// come from a file: `--config "$(cat config.json)"`.
fn json(what: impl Into<String>, text: &str) -> Result<Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text).map_err(|source| {
        let text = excerpt(text.as_bytes(), if source.line() > 1 { 0 } else { source.column() });
        Error::Argument { what: what.into(), text, source }
    })
}

/// A JSON object from the command line.
fn object(what: &'static str, text: &str) -> Result<Value> {
    match json(what, text)? {
        value @ Value::Object(_) => Ok(value),
        _ => Err(Error::NotAnObject { what, text: excerpt(text.as_bytes(), 0) }),
    }
}
