//! `man`: the manual pages of the command, and of each of its commands.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::Arguments;
use crate::error::{Error, Result};
use crate::output;

pub(super) fn run(folder: Option<&Path>) -> Result<ExitCode> {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        Man::new(Arguments::command()).render(&mut page).map_err(Error::Output)?;
        let mut stdout = std::io::stdout().lock();
        output::written(stdout.write_all(&page).and_then(|()| stdout.flush()))?;
        return Ok(ExitCode::SUCCESS);
    };
    let failed = |source| Error::Make { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), folder).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}
