//! `bench`: the built-in transports, side by side. The other process of each
//! measurement is this executable under another name.

use std::process::ExitCode;

use ekuiper_bench::Options;

use crate::args::Common;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

pub(super) fn run(common: &Common, options: &Options) -> Result<ExitCode> {
    let own = std::env::current_exe().map_err(Error::OwnProgram)?;
    let interrupt = Interrupt::watch(ekuiper_bench::clock::stop).map_err(Error::Signals)?;
    let (peers, skipped) = ekuiper_bench::built_in(&own);
    let mut options = options.clone();
    options.peer.extend(common.transport.clone());
    let went_well = ekuiper_bench::bench(&options, ekuiper_bench::subject::all(), peers, skipped)?;
    Ok(if went_well || interrupt.is_set() { interrupt.exit_code() } else { ExitCode::FAILURE })
}
