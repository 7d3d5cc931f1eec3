//! Calls with every kind of deadline, and their assertions.

use std::time::{Duration, Instant};

use ekuiper_core::transport::{Deadline, Result, TransportError};

use super::Rng;
use crate::{PATIENCE, punctual};

/// The deadline of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// No deadline: only closing ends the wait.
    Endless,
    /// Long enough for any expected event.
    Patient,
    /// A number of microseconds; zero: a non-blocking attempt.
    Brief(u64),
}

impl Wait {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        match rng.between(0, 9) {
            0..=1 => Self::Endless,
            2..=4 => Self::Patient,
            5..=6 => Self::Brief(0),
            _ => Self::Brief(rng.between(1, 10_000)),
        }
    }

    /// Draws a deadline that certainly passes.
    pub(super) fn draw_brief(rng: &mut Rng) -> Self {
        Self::Brief(if rng.chance(30) { 0 } else { rng.between(1, 10_000) })
    }

    fn deadline(self) -> Deadline {
        match self {
            Self::Endless => None,
            Self::Patient => Some(Instant::now() + PATIENCE),
            Self::Brief(micros) => Some(Instant::now() + Duration::from_micros(micros)),
        }
    }

    /// Makes a call that has a peer: it must return by its deadline, and may
    /// time out only if the deadline is brief.
    pub(super) fn make<T>(self, what: &str, call: impl FnOnce(Deadline) -> Result<T>) -> Result<T> {
        let deadline = self.deadline();
        let outcome = if deadline.is_some() { punctual(deadline, call) } else { call(None) };
        let in_vain = matches!(outcome, Err(TransportError::Timeout)) && !matches!(self, Self::Brief(_));
        assert!(!in_vain, "{what} has waited in vain: {self:?}");
        outcome
    }
}
