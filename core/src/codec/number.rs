//! The numbers that both codecs refuse.

use serde::ser::Error;

/// Checks that a number is finite.
///
/// # Errors
/// It is NaN or an infinity.
pub(super) fn check<E: Error>(value: f64) -> Result<(), E> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(E::custom(format_args!("{value} is not a number that a message can hold")))
    }
}

/// The error for an integer outside `i64` and `u64`.
pub(super) fn too_large<E: Error>(value: impl std::fmt::Display) -> E {
    E::custom(format_args!("{value} is not a number that a message can hold: it needs more than 64 bits"))
}
