//! A plugin whose symbols misbehave on request, built as the example `unruly`.
//! The tests start it as a real process.

mod described;
mod functions;
mod sinks;
mod sources;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ekuiper_sdk::prelude::*;
use serde::Deserialize;

fn main() -> ExitCode {
    let is_worker = std::env::var_os("EKUIPER_SDK_WORKER").is_some();
    if is_worker && let Some(code) = std::env::var("UNRULY_STILLBORN").ok().and_then(|text| text.parse::<u8>().ok()) {
        return ExitCode::from(code);
    }
    if is_worker && let Some(file) = std::env::var_os("UNRULY_HOLD") {
        // Held back while the file is there.
        wait(|| !Path::new(&file).exists());
    }
    let mut plugin = Plugin::new("unruly");
    if let Some(timeout) = milliseconds("UNRULY_START") {
        plugin = plugin.start_timeout(timeout);
    }
    if let Some(timeout) = milliseconds("UNRULY_STOP") {
        plugin = plugin.stop_timeout(timeout);
    }
    if let Some(absence) = milliseconds("UNRULY_ABSENCE") {
        plugin = plugin.host_absence(absence);
    }
    if let Some(bytes) = std::env::var("UNRULY_MAX").ok().and_then(|text| text.parse().ok()) {
        plugin = plugin.max_message(bytes);
    }
    if std::env::var_os("UNRULY_SUPERVISED").is_some() {
        plugin = plugin.supervised();
    }
    described::add(functions::add(sinks::add(sources::add(plugin)))).run()
}

fn milliseconds(variable: &str) -> Option<Duration> {
    std::env::var(variable).ok()?.parse().ok().map(Duration::from_millis)
}

/// The configuration by which tests make a symbol misbehave.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Settings {
    /// The file in which the symbol records its calls, one word per line.
    journal: Option<PathBuf>,
    /// The method that panics.
    panic_in: String,
    /// The method that fails.
    fail_in: String,
    /// The error's text; by default the method's name.
    fail_text: Option<String>,
    /// The method that ends the whole process, once `release` exists if there
    /// is such a name.
    abort_in: String,
    /// The method that hangs, until `release` exists.
    hang_in: String,
    release: Option<PathBuf>,
    /// The symbol's name in the journal.
    name: String,
}

impl Settings {
    /// Executes the first step of every method.
    fn enter(&self, method: &str) -> Result<()> {
        self.note(method)?;
        if self.panic_in == method {
            panic!("boom in {method}");
        }
        if self.abort_in == method && self.release.as_ref().is_none_or(|release| release.exists()) {
            std::process::abort();
        }
        if self.hang_in == method {
            let release = self.release.as_deref().ok_or("hangs without a release")?;
            wait_for(release);
        }
        if self.fail_in != method {
            return Ok(());
        }
        Err(self.fail_text.clone().unwrap_or_else(|| format!("{method} failed")).into())
    }

    fn note(&self, word: &str) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut file = File::options().create(true).append(true).open(journal)?;
        let name = if self.name.is_empty() { String::new() } else { format!("{} ", self.name) };
        Ok(file.write_all(format!("{name}{word}\n").as_bytes())?)
    }
}

/// Hangs until the file exists, ignoring stops.
fn wait_for(file: &Path) {
    wait(|| file.exists());
}

fn wait(done: impl Fn() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(2));
    }
}
