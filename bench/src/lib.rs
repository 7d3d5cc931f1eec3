//! Transports and peers side by side, in one run: `ekuiper-plugin bench` (the
//! built-in transports) and `cargo xtask bench` (the peers too).
//!
//! Code map: `run`, a run; `options`, the settings; `subject`, what is
//! measured; `peer`, the implementations measured; `clock`, the measuring
//! loops; `machine`, resource usage; `metric` and `statistics`, the figures;
//! `report`, `table`, `charts` and `files`, the results; `child` and `plugin`,
//! the other process; `reading`, the record; `step`, the steps of the hot path.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "charts")]
pub mod charts;
pub mod child;
pub mod clock;
mod error;
mod files;
pub mod machine;
pub mod metric;
mod options;
pub mod peer;
pub mod plugin;
pub mod reading;
pub mod report;
mod run;
pub mod statistics;
#[cfg(feature = "uds")]
pub mod step;
pub mod subject;
mod table;

use std::io::Write;
use std::path::Path;

pub use error::{Error, Result, check};
pub use options::Options;
pub use report::Report;
pub use run::run;

use peer::Peer;
use peer::ours::{Ours, WAYS};
use peer::raw::Raw;
use report::Described;
use subject::Subject;

/// Returns the raw socket, our built-in transports, and the transports that are
/// not built in. `plugin` is an executable that does what [`child::run`] does
/// when started as [`child::NAME`].
pub fn built_in(plugin: &Path) -> (Vec<Box<dyn Peer>>, Vec<Described>) {
    let plugin = || plugin.to_path_buf();
    let mut peers: Vec<Box<dyn Peer>> = vec![Box::new(Raw::simple(plugin())), Box::new(Raw::best(plugin()))];
    let mut skipped = Vec::new();
    for way in WAYS {
        match Ours::new(way, plugin()) {
            Ok(ours) => peers.push(Box::new(ours)),
            Err(about) => skipped.push(Described { name: way.0.into(), about }),
        }
    }
    (peers, skipped)
}

/// Runs the measurements of these subjects, prints the tables, and writes what
/// the options request; returns whether all went well. After [`clock::stop`],
/// prints what there is, and writes nothing.
///
/// # Errors
/// The options are wrong, or a file cannot be written; both are checked before
/// the measurements.
pub fn bench(
    options: &Options,
    subjects: Vec<Subject>,
    peers: Vec<Box<dyn Peer>>,
    skipped: Vec<Described>,
) -> Result<bool> {
    if options.charts.is_some() && cfg!(not(feature = "charts")) {
        return Err(Error::Peer("charts are not built in: build with the feature charts".into()));
    }
    let json = options.json.as_deref().map(files::Output::open).transpose()?;
    #[cfg(feature = "charts")]
    if let Some(folder) = &options.charts {
        files::make_folder(folder)?;
    }
    let report = run(options, subjects, peers, skipped)?;
    if clock::is_stopped() {
        if !report.subjects.is_empty() {
            print(&report)?;
        }
        tell(format_args!("interrupted: what was measured until then is above, and nothing is written to files"));
        return Ok(false);
    }
    let printed = print(&report);
    if let Some(file) = json {
        file.write(&format!("{:#}\n", report.json()))?;
    }
    #[cfg(feature = "charts")]
    if let Some(folder) = &options.charts {
        charts::draw_all(&report, folder)?;
    }
    printed?;
    Ok(report.failures.is_empty())
}

/// Prints a report. A reader that has gone away is not an error.
fn print(report: &Report) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match write!(stdout, "{report}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write the result to stdout")(error))
        }
        _ => Ok(()),
    }
}

/// Reports the progress on stderr, if that is open.
pub(crate) fn tell(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a file.
#[cfg(feature = "charts")]
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}
