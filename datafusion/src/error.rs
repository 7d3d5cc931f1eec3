//! Errors, and how they pass through DataFusion.

use datafusion::error::DataFusionError;

/// Why plugins cannot be used from SQL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host, or a plugin, failed.
    #[error(transparent)]
    Host(#[from] ekuiper_host::Error),
    /// A query, a table or a function cannot be as it is declared; the text
    /// says what to write instead.
    #[error("{0}")]
    Plan(String),
    /// DataFusion refused.
    #[error(transparent)]
    DataFusion(#[from] DataFusionError),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        match error {
            Error::DataFusion(error) => error,
            Error::Plan(text) => Self::Plan(text),
            Error::Host(error) => Self::External(Box::new(error)),
        }
    }
}

/// Passes an error of the host on.
pub(crate) fn external(error: ekuiper_host::Error) -> DataFusionError {
    Error::Host(error).into()
}
