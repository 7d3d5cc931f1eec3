//! Exceptions: cases that the library behind a transport cannot pass.

use crate::Case;

/// An alternative to running a case.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    pub(crate) reason: &'static str,
    pub(crate) instead: Option<Case>,
}

impl Exception {
    /// Runs another form of the case, which shows the library's actual
    /// behaviour.
    pub const fn observed(reason: &'static str, instead: Case) -> Self {
        Self { reason, instead: Some(instead) }
    }

    /// Skips the case; the reason is printed at every run.
    pub const fn skip(reason: &'static str) -> Self {
        Self { reason, instead: None }
    }
}
