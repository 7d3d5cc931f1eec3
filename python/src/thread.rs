//! The interpreter's state of a thread that Rust has made.
//!
//! Left alone, each call into Python would make one and throw it away: slow,
//! and `threading.local` would forget everything between two calls.

#![allow(unsafe_code, reason = "keeps a thread's state in the interpreter")]

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

thread_local! {
    /// Whether this thread keeps its state.
    static KEPT: Cell<bool> = const { Cell::new(false) };
}

/// How many threads run Python code of a symbol's at the moment.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread as busy until it is dropped.
pub(crate) struct Busy(());

impl Busy {
    pub(crate) fn new() -> Self {
        BUSY.fetch_add(1, Ordering::AcqRel);
        Self(())
    }

    /// How many there are.
    pub(crate) fn count() -> usize {
        BUSY.load(Ordering::Acquire)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs a symbol's Python code on this thread, which belongs to that symbol.
pub(crate) fn attach<R>(symbol: &str, code: impl FnOnce(Python<'_>) -> R) -> R {
    let _busy = Busy::new();
    if !KEPT.get() && keep() {
        Python::attach(|py| name(py, symbol));
    }
    Python::attach(code)
}

/// Keeps this thread's state from here on; false where it has one already: then
/// the thread is not one that Rust has made.
fn keep() -> bool {
    // SAFETY: symbols run within `start` or a test, which the interpreter has
    // called, so it is initialised; that is all that is asked for.
    if !unsafe { pyo3::ffi::PyGILState_GetThisThreadState() }.is_null() {
        return false;
    }
    // SAFETY: the same; a thread without a state is not attached. The second
    // call undoes the attachment and leaves the state that the first has made
    // and counted; all later `PyGILState_Ensure` find it.
    unsafe {
        pyo3::ffi::PyGILState_Ensure();
        pyo3::ffi::PyEval_SaveThread();
    }
    KEPT.set(true);
    true
}

/// This thread's symbol is over: gives its state back.
pub(crate) fn release() {
    if KEPT.take() {
        Python::attach(|_| {
            // SAFETY: this thread is attached by the line above, so its state
            // is counted at least twice: by that, and by `keep`, whose count
            // this takes back. "Locked" leaves the thread attached; the state
            // is deleted when the line above lets go.
            unsafe { pyo3::ffi::PyGILState_Release(pyo3::ffi::PyGILState_STATE::PyGILState_LOCKED) }
        });
    }
}

/// Gives the thread its symbol's name, in `threading` and in the log.
fn name(py: Python<'_>, symbol: &str) {
    static NAME: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let named = NAME.import(py, "ekuiper._serve", "name_thread").and_then(|name| name.call1((symbol,)));
    if let Err(error) = named {
        error.write_unraisable(py, None);
    }
}
