//! The conformance suite: what every transport of this workspace must do.
//!
//! A transport instantiates the suite in one of its integration tests; every
//! case becomes one `#[test]`:
//!
//! ```ignore
//! ekuiper_conformance::sp_suite!(UdsTransport::new());
//! ```
//!
//! - [`contract`] is for any transport: the promises of
//!   `ekuiper_core::transport`, tested through that contract alone
//!   (`contract_suite!`).
//! - [`stress`] is for any transport, and part of both suites: random closing,
//!   deadlines and reconnects from several threads.
//! - [`wire`] is for transports that speak SP over Unix sockets: the peer is a
//!   raw socket, and every byte is checked (`sp_suite!`, which includes the
//!   contract).
//!
//! A function whose name begins with `case_` and a number implements that case
//! of the table in the guide (`docs/src/conformance.md`). A transport whose
//! library cannot keep a promise lists the case with an [`Exception`]: no case
//! is left out silently.
// Every function here is part of a test.
#![allow(clippy::unwrap_used)]

pub mod contract;
mod exception;
mod fixture;
mod pump;
pub mod raw;
pub mod stress;
mod suite;
pub mod support;
pub mod wire;

pub use exception::Exception;
pub use fixture::{Fixture, Process};
pub use suite::{Case, Suite};

use std::time::{Duration, Instant};

use ekuiper_core::transport::{Deadline, Options};

/// Maximum time for expected events: long enough for the busiest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A deadline for expected events.
pub fn soon() -> Deadline {
    Some(Instant::now() + PATIENCE)
}

/// A deadline for events that should not happen.
pub fn shortly() -> Deadline {
    Some(Instant::now() + Duration::from_millis(50))
}

/// A deadline that has passed.
pub fn past() -> Deadline {
    Some(Instant::now())
}

/// Makes a call and asserts that it returns by its deadline, as precisely as a
/// busy machine allows.
pub(crate) fn punctual<T>(deadline: Deadline, call: impl FnOnce(Deadline) -> T) -> T {
    let outcome = call(deadline);
    let late = Instant::now().saturating_duration_since(deadline.unwrap());
    assert!(late < Duration::from_secs(5), "{late:?} after the deadline");
    outcome
}

/// Returns the default options with a change.
pub fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    change(&mut options);
    options
}

/// Returns varied bytes, so that a misplaced piece is detected.
pub fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(97)) as u8).collect()
}

/// Polls `wanted`; returns whether it became true in time.
pub fn eventually(mut wanted: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + PATIENCE;
    while !wanted() {
        if Instant::now() > give_up {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Maximum time that a test waits for an effect of another thread or process.
const EFFECT: Duration = Duration::from_secs(60);

/// Polls until `look` finds something that no event reports.
///
/// # Panics
/// Nothing was found within a minute.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + EFFECT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "not within {EFFECT:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Polls until `done`, like [`wait_for`].
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    wait_for(what, || done().then_some(()));
}

/// Asserts that `$result` is an error of this shape.
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(, $($what:tt)+)?) => {
        match $result {
            Err($pattern) => {}
            other => panic!(
                "expected {}, got {:?} {}",
                stringify!($pattern), other.map(|_| "success"), String::new() $(+ &format!($($what)+))?
            ),
        }
    };
}
pub(crate) use assert_error;
