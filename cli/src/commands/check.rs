//! `check`: what is wrong with a plugin, before it is shipped.

use std::process::ExitCode;

use crate::args::{CheckArguments, Common};
use crate::check::check;
use crate::check::report::Report;
use crate::error::Result;

pub(super) fn run(common: &Common, arguments: &CheckArguments) -> Result<ExitCode> {
    // A wrong invocation is told before anything is built.
    arguments.configs()?;
    let mut report = Report::of(&arguments.path);
    check(common, arguments, &mut report)?;
    let code = if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    report.print(arguments.json)?;
    Ok(code)
}
