//! What a measurement can fail with.

/// The result of a measurement.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A plugin under our host.
    #[error(transparent)]
    Host(#[from] ekuiper_host::Error),
    /// The operating system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A peer did not do what it should.
    #[error("{0}")]
    Peer(String),
    /// One measurement of many.
    #[error("{subject}, {case}, {peer}: {source}")]
    Cell {
        /// What was measured.
        subject: &'static str,
        /// The subject's case.
        case: String,
        /// The peer.
        peer: String,
        /// Why not.
        source: Box<Error>,
    },
    /// [`stop`](crate::clock::stop) was called meanwhile.
    #[error("the measurement was interrupted")]
    Stopped,
    /// A name on the command line.
    #[error("there is no {kind} {name}: there are {known}")]
    Unknown {
        /// Subject or peer.
        kind: &'static str,
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
}

impl Error {
    /// For `map_err`: `Error::io("read it")`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
