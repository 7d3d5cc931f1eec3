//! A plugin that keeps account of what it executes, for tests of calls that are
//! dropped, late, or lost.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_sdk::prelude::*;

static NOTED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
/// Numbers of the calls of `patient` that were cancelled while they ran.
static CANCELLED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
/// Number of calls of `slow`, `held` and `patient` that have begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// Number of calls of `counted_text`.
static TEXTS: AtomicU64 = AtomicU64::new(0);

fn note(number: u64) -> u64 {
    NOTED.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    number
}

/// Adds a line to a file, in one write: no process that is killed leaves half a
/// line, and no other's line intersects it.
fn add_line(path: impl AsRef<Path>, line: impl Display) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Waits until there is this file.
fn await_file(file: &str) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !std::path::Path::new(file).exists() && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Gives its number back once there is this file.
fn held(number: u64, file: String) -> u64 {
    BEGUN.fetch_add(1, Ordering::SeqCst);
    await_file(&file);
    note(number)
}

/// Gives its number back after this time, unless it is cancelled before.
fn patient(number: u64, microseconds: u64, ctx: &FunctionContext) -> Result<u64> {
    BEGUN.fetch_add(1, Ordering::SeqCst);
    let end = Instant::now() + Duration::from_micros(microseconds);
    while !ctx.is_cancelled() {
        if Instant::now() >= end {
            return Ok(note(number));
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    CANCELLED.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    Err("it was cancelled".into())
}

/// A source whose start takes until the file exists that is its topic.
struct Stuck;

impl Source for Stuck {
    fn configure(&mut self, datasource: &str, _: &Config) -> Result<()> {
        BEGUN.fetch_add(1, Ordering::SeqCst);
        await_file(datasource);
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        while ctx.sleep(Duration::from_secs(60)) {}
        Ok(())
    }
}

/// Notes the call in a file, and ends the process, unless it has done that as
/// often as it was told to.
fn crash_until(number: u64, file: String, crashes: usize) -> Result<u64> {
    add_line(&file, number)?;
    if crashes > 0 && std::fs::read_to_string(&file)?.lines().count() <= crashes {
        std::process::abort()
    }
    Ok(note(number))
}

/// Emits numbered rows with as many letters as it is told.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Letters {
    letters: usize,
    count: u64,
    /// In milliseconds, after each row.
    pause: u64,
}

impl Source for Letters {
    fn configure(&mut self, _datasource: &str, config: &Config) -> Result<()> {
        *self = config.parse()?;
        Ok(())
    }

    fn open(&mut self, ctx: &SourceContext) -> Result<()> {
        for n in 0..self.count {
            ctx.emit(&json!({ "n": n, "text": "x".repeat(self.letters) }))?;
            if self.pause > 0 && !ctx.sleep(Duration::from_millis(self.pause)) {
                return Ok(());
            }
        }
        while ctx.sleep(Duration::from_secs(1)) {}
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Row {
    n: u64,
}

/// Collects each message after a pause, and refuses odd numbers if it is told
/// to. Writes the numbers to a file, if there is one.
#[derive(Default)]
struct Late(Settings);

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Settings {
    /// In milliseconds.
    pause: u64,
    refuses_odd: bool,
    path: Option<std::path::PathBuf>,
    /// Its start creates this file, and ends when that is gone.
    starting: Option<std::path::PathBuf>,
}

impl Sink for Late {
    fn configure(&mut self, config: &Config) -> Result<()> {
        self.0 = config.parse()?;
        Ok(())
    }

    fn open(&mut self, _ctx: &SinkContext) -> Result<()> {
        if let Some(path) = &self.0.starting {
            std::fs::write(path, "")?;
            while path.exists() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        for Row { n: number } in ctx.rows::<Row>(data)? {
            std::thread::sleep(Duration::from_millis(self.0.pause));
            if let Some(path) = &self.0.path {
                add_line(path, number)?;
            }
            if self.0.refuses_odd && number % 2 == 1 {
                return Err(format!("{number} is odd").into());
            }
        }
        Ok(())
    }
}

/// The same, and tells in another file that it has begun.
fn kept(number: u64, file: String) -> Result<u64> {
    add_line(format!("{file}.begun"), number)?;
    Ok(held(number, file))
}

/// Notes the call in a file that several processes share, works for so many
/// microseconds, and gives its number back.
fn filed(number: u64, file: String, microseconds: u64) -> Result<u64> {
    let since = Instant::now();
    add_line(&file, format_args!("{number} {}", std::process::id()))?;
    while since.elapsed() < Duration::from_micros(microseconds) {
        std::hint::spin_loop();
    }
    Ok(number)
}

/// Computes until calls in so many processes compute at the same time, and
/// gives the number of its own.
fn meet(folder: String, processes: usize) -> Result<u32> {
    let own = std::process::id();
    std::fs::write(std::path::Path::new(&folder).join(own.to_string()), "")?;
    let give_up = Instant::now() + Duration::from_secs(60);
    while std::fs::read_dir(&folder)?.count() < processes {
        if Instant::now() > give_up {
            return Err("it computes alone".into());
        }
        std::thread::yield_now();
    }
    Ok(own)
}

/// Adds a line for each message: its first byte, and its rows.
#[derive(Default)]
struct Lines<const ROWS: bool> {
    path: String,
}

impl<const ROWS: bool> Sink for Lines<ROWS> {
    fn describe() -> SinkDescription {
        if ROWS { SinkDescription::new().rows() } else { SinkDescription::new() }
    }

    fn configure(&mut self, config: &Config) -> Result<()> {
        self.path = config.field("path")?;
        Ok(())
    }

    fn collect(&mut self, ctx: &SinkContext, data: &[u8]) -> Result<()> {
        let rows = Value::from(ctx.rows::<Value>(data)?);
        Ok(add_line(&self.path, format_args!("{:02x} {rows}", data[0]))?)
    }
}

fn main() -> ExitCode {
    Plugin::new("ledger")
        // No limit is too long.
        .start_timeout(Duration::MAX)
        .stop_timeout(Duration::MAX)
        .host_absence(Duration::MAX)
        .source("letters", Letters::default)
        .sink("rows", Lines::<true>::default)
        .sink("bytes", Lines::<false>::default)
        .sink("late", Late::default)
        .function("length", |text: String| text.len())
        .function("text", |letters: usize| "x".repeat(letters))
        // The same, counted.
        .function("counted_text", |letters: usize| {
            TEXTS.fetch_add(1, Ordering::SeqCst);
            "x".repeat(letters)
        })
        .function("texts", |_: u8| TEXTS.load(Ordering::SeqCst))
        // Gives its number back.
        .function("note", note)
        // The same, after so many milliseconds.
        .function("slow", |number: u64, milliseconds: u64| {
            BEGUN.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(milliseconds));
            note(number)
        })
        // The numbers in their order; another function, so that it answers
        // while the others execute.
        .function("noted", |_: u8| NOTED.lock().unwrap_or_else(PoisonError::into_inner).clone())
        .function("begun", |_: u8| BEGUN.load(Ordering::SeqCst))
        .function("held", held)
        .function("patient", patient)
        .function("cancelled", |_: u8| CANCELLED.lock().unwrap_or_else(PoisonError::into_inner).clone())
        .source("stuck", || Stuck)
        .function("kept", kept)
        .function("filed", filed)
        .function(
            "meet",
            if std::env::var_os("LEDGER_SILENT").is_some() { describe(meet) } else { describe(meet).parallel() },
        )
        // A text, or an error.
        .function("word", |number: u64| match number % 10 {
            3 => Err(format!("{number} is unlucky")),
            _ => Ok(format!("{number:04} \"ü\"")),
        })
        .function("crash_until", crash_until)
        // Ends the process.
        .function("crash", |_: u8| -> u8 { std::process::abort() })
        .run()
}
