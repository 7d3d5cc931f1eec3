//! A plugin that keeps account of what it executes, for tests of calls that are
//! dropped, late, or lost.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ekuiper_sdk::prelude::*;

static NOTED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
/// Number of calls of `slow` and `held` that have begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

fn note(number: u64) -> u64 {
    NOTED.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    number
}

/// Gives its number back once there is this file.
fn held(number: u64, file: String) -> u64 {
    BEGUN.fetch_add(1, Ordering::SeqCst);
    let give_up = Instant::now() + Duration::from_secs(60);
    while !std::path::Path::new(&file).exists() && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(2));
    }
    note(number)
}

/// Notes the call in a file, and ends the process, unless it has done that as
/// often as it was told to.
fn crash_until(number: u64, file: String, crashes: usize) -> Result<u64> {
    let mut open = std::fs::OpenOptions::new().create(true).append(true).open(&file)?;
    writeln!(open, "{number}")?;
    if crashes > 0 && std::fs::read_to_string(&file)?.lines().count() <= crashes {
        std::process::abort()
    }
    Ok(note(number))
}

fn main() -> ExitCode {
    Plugin::new("ledger")
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
