//! Cases that a library behind a transport cannot fulfil.

use crate::Case;

/// What is done instead of a case.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    pub(crate) reason: &'static str,
    pub(crate) instead: Option<Case>,
}

impl Exception {
    /// The case is run in another form, which shows what was observed instead.
    pub const fn observed(reason: &'static str, instead: Case) -> Self {
        Self { reason, instead: Some(instead) }
    }

    /// The case is not run; the reason is printed at every run.
    pub const fn skip(reason: &'static str) -> Self {
        Self { reason, instead: None }
    }
}
