//! What can go wrong in a plugin.

/// Any error: an author's `?` takes every error type there is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of an author's methods.
pub type Result<T, E = BoxError> = std::result::Result<T, E>;

/// What the SDK itself reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The symbol has been stopped: return from `open`.
    #[error("the symbol is stopped")]
    Stopped,
    /// A field of the configuration is missing or has another type.
    #[error("config field {field}: {source}")]
    Config {
        /// The field's path, such as `server.port`.
        field: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A function was called with a wrong number of arguments.
    #[error("takes {expected} argument{}, got {got}", if *expected == 1 { "" } else { "s" })]
    ArgumentCount {
        /// How many it takes.
        expected: usize,
        /// How many there were.
        got: usize,
    },
    /// An argument has another type than the function takes.
    #[error("argument {position}: {source}")]
    Argument {
        /// Its position, from 1.
        position: usize,
        /// Both types.
        source: serde_json::Error,
    },
    /// A message cannot be read or written.
    #[error(transparent)]
    Message(#[from] ekuiper_core::Error),
    /// A channel failed.
    #[error("{what}: {source}")]
    Transport {
        /// Which.
        what: String,
        /// Why.
        source: ekuiper_core::transport::TransportError,
    },
    /// A symbol panicked.
    #[error("panicked: {0}")]
    Panic(String),
}
