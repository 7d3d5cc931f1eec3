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
use crate::error::{Error, Result};

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

/// JSON from the command line; the error tells the place.
fn json(what: impl Into<String>, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|source| Error::Json { what: what.into(), text: text.to_owned(), source })
}

/// A JSON object from the command line.
fn object(what: &'static str, text: &str) -> Result<Value> {
    match json(what, text)? {
        value @ Value::Object(_) => Ok(value),
        _ => Err(Error::NotAnObject { what, text: text.to_owned() }),
    }
}
