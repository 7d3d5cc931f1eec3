//! The rows of `ekuiper-plugin source` per second, from a plugin on the same
//! computer to a pipe: over our sockets and over libnng, in one run.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::{cargo, execute, root};

/// Length of each record, in bytes of JSON.
const SIZE: usize = 128;

/// A record without the text that pads it.
const BARE: &str = r#"{"id":1000000001,"temperature":21.625,"humidity":48.25,"alarm":false,"note":""}"#;

/// Number of times that each is measured, in turn.
const ROUNDS: usize = 5;

/// How many times faster our sockets are to be.
const WANTED: f64 = 40.0;

/// A way to read the source.
struct Way {
    name: &'static str,
    options: &'static [&'static str],
    /// Number of rows: about a second's.
    rows: u64,
}

const WAYS: [Way; 3] = [
    Way { name: "uds", options: &["--transport", "uds"], rows: 3_000_000 },
    Way { name: "uds-json", options: &["--transport", "uds", "--codec", "json"], rows: 3_000_000 },
    Way { name: "nng", options: &["--transport", "nng"], rows: 50_000 },
];

/// Builds the command as it is installed, measures, and prints a table.
pub(crate) fn run() -> Result<()> {
    execute(cargo().args(["build", "--release", "--package", "ekuiper-cli", "--features", "nng"]))?;
    let command = root().join("target/release/ekuiper-plugin");
    let plugin = Plugin::make(&command)?;
    let mut rates = [const { Vec::new() }; WAYS.len()];
    for _ in 0..ROUNDS {
        for (way, rates) in WAYS.iter().zip(&mut rates) {
            let time = measure(&command, &plugin.folder, way)?;
            rates.push(way.rows as f64 / time.as_secs_f64());
        }
    }
    println!("`ekuiper-plugin source` of {SIZE} bytes a row, printed to a pipe, median of {ROUNDS} rounds:\n");
    println!("| | rows per second | lowest | highest | times nng |");
    println!("|---|---|---|---|---|");
    let median = |rates: &[f64]| rates[rates.len() / 2];
    rates.iter_mut().for_each(|rates| rates.sort_by(f64::total_cmp));
    let nng = median(&rates[WAYS.len() - 1]);
    for (way, rates) in WAYS.iter().zip(&rates) {
        let [least, most] = [rates[0], rates[rates.len() - 1]];
        println!("| {} | {:.0} | {least:.0} | {most:.0} | {:.1} |", way.name, median(rates), median(rates) / nng);
    }
    let times = median(&rates[0]) / nng;
    if times < WANTED {
        return Err(format!("uds is {times:.1} times as fast as nng, and {WANTED} times were wanted"));
    }
    Ok(())
}

/// Reads so many rows; returns the time from the command's start to its end.
fn measure(command: &Path, plugin: &Path, way: &Way) -> Result<Duration> {
    let note: String =
        "the quick brown fox jumps over the lazy dog; ".chars().cycle().take(SIZE - BARE.len()).collect();
    let mut source = Command::new(command);
    source.arg("source").arg(plugin).arg("rate_typed").args(["--log-level", "error"]).args(way.options);
    source.args(["--count", &way.rows.to_string(), "--config", &format!(r#"{{"note":"{note}"}}"#)]);
    let wrong = |error| format!("cannot run {}: {error}", command.display());
    let start = Instant::now();
    let mut source = source.stdout(Stdio::piped()).spawn().map_err(wrong)?;
    let mut bytes = 0;
    let mut stdout = source.stdout.take().ok_or("the command has no stdout")?;
    let mut piece = vec![0; 256 << 10];
    loop {
        match stdout.read(&mut piece).map_err(wrong)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    let status = source.wait().map_err(wrong)?;
    let time = start.elapsed();
    let wanted = way.rows * (SIZE as u64 + 1);
    if !status.success() || bytes != wanted {
        return Err(format!("{} over {}: {status}, {bytes} of {wanted} bytes", command.display(), way.name));
    }
    Ok(time)
}

/// The folder of a plugin that is the command itself, under the name by which
/// it is the other process of a measurement.
struct Plugin {
    parent: PathBuf,
    folder: PathBuf,
}

impl Plugin {
    fn make(command: &Path) -> Result<Self> {
        let parent = std::env::temp_dir().join(format!("ekuiper-command-rate-{}", std::process::id()));
        // Its name is the prefix of its symbols.
        let plugin = Self { folder: parent.join("rate"), parent };
        let wrong = |error| format!("cannot make {}: {error}", plugin.folder.display());
        fs::create_dir_all(&plugin.folder).map_err(wrong)?;
        let manifest = r#"{"language":"go","executable":"bench-plugin","sources":["rate_typed"]}"#;
        fs::write(plugin.folder.join("rate.json"), manifest).map_err(wrong)?;
        fs::copy(command, plugin.folder.join("bench-plugin")).map_err(wrong)?;
        Ok(plugin)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.parent);
    }
}
