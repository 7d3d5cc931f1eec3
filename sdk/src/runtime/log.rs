//! The plugin's log: lines on stderr, which a host collects.

use std::io::{self, Write};

use tracing::level_filters::LevelFilter;

/// Installs a subscriber that writes to stderr, unless the author has set one.
pub(super) fn init(level: Option<&str>) {
    let known = level.and_then(|level| level.parse().ok());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(known.unwrap_or(LevelFilter::INFO))
        .with_ansi(false)
        .with_writer(|| Stderr);
    let _ = subscriber.try_init();
    if let (Some(level), None) = (level, known) {
        tracing::warn!("log level {level:?} is not known: use error, warn, info, debug, trace or off");
    }
    if cfg!(panic = "abort") {
        tracing::warn!("built with panic = \"abort\": a panic in one symbol ends the whole plugin");
    }
}

/// Writes a line for a user who started the plugin by hand.
pub(super) fn tell(text: &str) {
    let _ = writeln!(Stderr, "{text}");
}

/// A writer to stderr that never fails: once the host has ended nothing reads
/// the log, and a failure would panic in the middle of an orderly shutdown.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
