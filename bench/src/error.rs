//! Errors of a measurement.

/// Result of a measurement.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of our host or a plugin under it.
    #[error(transparent)]
    Host(#[from] ekuiper_host::Error),
    /// A failed system call.
    #[error("cannot {what}")]
    Io {
        /// The attempted operation.
        what: String,
        /// Reason.
        source: std::io::Error,
    },
    /// A peer that did not behave as required.
    #[error("{0}")]
    Peer(String),
    /// A failure of one measurement of many.
    #[error("{subject}, {case}, {peer} failed")]
    Cell {
        /// The subject.
        subject: &'static str,
        /// The subject's case.
        case: String,
        /// The peer.
        peer: String,
        /// Reason.
        source: Box<Error>,
    },
    /// An end by [`stop`](crate::clock::stop).
    #[error("the measurement was interrupted")]
    Stopped,
    /// An unknown name on the command line.
    #[error("there is no {kind} {name}: there are {known}")]
    Unknown {
        /// Kind of the name: subject or peer.
        kind: &'static str,
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
}

impl Error {
    /// Returns a function for `map_err`: `Error::io("read it")`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Checks a result: measured operations must be correct, too.
///
/// # Errors
/// It is not right.
pub fn check(is_right: bool, otherwise: impl Into<String>) -> Result<()> {
    if is_right { Ok(()) } else { Err(Error::Peer(otherwise.into())) }
}
