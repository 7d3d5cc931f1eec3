//! A plugin that keeps account of what it executes, for tests of calls that are
//! dropped, late, or lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ekuiper_sdk::prelude::*;

static NOTED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
/// Number of calls of `slow` that have begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

fn note(number: u64) -> u64 {
    NOTED.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    number
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
        // Ends the process.
        .function("crash", |_: u8| -> u8 { std::process::abort() })
        .run()
}
