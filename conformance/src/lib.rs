//! The conformance suite: what every transport of this workspace must do.
//!
//! A transport instantiates it in one of its integration tests; every case
//! becomes one `#[test]`:
//!
//! ```ignore
//! ekuiper_conformance::sp_suite!(UdsTransport::new());
//! ```
//!
//! - [`contract`] is for any transport: the promises of
//!   `ekuiper_core::transport`, seen through that contract alone
//!   (`contract_suite!`).
//! - [`stress`] is for any transport, too, and a part of both suites: random
//!   closings, deadlines and reconnections from several threads.
//! - [`wire`] is for transports that speak SP over Unix sockets: a raw socket
//!   is the peer, and every byte counts (`sp_suite!`, which includes the
//!   contract).
//!
//! A name that begins with `case_` and a number fulfils that case of the table
//! in the guide (`docs/src/conformance.md`). A library that cannot keep a
//! promise names the case with an [`Exception`]: nothing is left out in
//! silence.
// Every function here is part of a test.
#![allow(clippy::unwrap_used)]

pub mod contract;
mod exception;
mod fixture;
mod pump;
pub mod raw;
pub mod stress;
mod suite;
pub mod wire;

pub use exception::Exception;
pub use fixture::{Fixture, Process};
pub use suite::{Case, Suite};

use std::time::{Duration, Instant};

use ekuiper_core::transport::{Deadline, Options};

/// How long anything may take that is expected to happen: long enough for the
/// busiest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A deadline for what is expected to happen.
pub fn soon() -> Deadline {
    Some(Instant::now() + PATIENCE)
}

/// A deadline for what is expected not to happen.
pub fn shortly() -> Deadline {
    Some(Instant::now() + Duration::from_millis(50))
}

/// A deadline that has passed.
pub fn past() -> Deadline {
    Some(Instant::now())
}

/// Makes a call that must return by its deadline, as far as a busy machine can
/// tell.
pub(crate) fn punctual<T>(deadline: Deadline, call: impl FnOnce(Deadline) -> T) -> T {
    let outcome = call(deadline);
    let late = Instant::now().saturating_duration_since(deadline.unwrap());
    assert!(late < Duration::from_secs(5), "{late:?} after the deadline");
    outcome
}

/// The default options, changed.
pub fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    change(&mut options);
    options
}

/// Bytes that are not all alike, so that a misplaced piece shows.
pub fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(97)) as u8).collect()
}

/// Whether `wanted` becomes true in time; asks again and again.
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
