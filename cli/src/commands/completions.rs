//! `completions`: what a shell completes after `ekuiper-plugin`.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Arguments;
use crate::error::Result;
use crate::output;

pub(super) fn run(shell: Shell) -> Result<ExitCode> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let mut stdout = std::io::stdout().lock();
    output::written(stdout.write_all(&script).and_then(|()| stdout.flush()))?;
    Ok(ExitCode::SUCCESS)
}
