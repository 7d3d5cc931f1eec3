//! What the command itself can fail with.

use std::path::PathBuf;

/// The result of a command.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Host(#[from] ekuiper_host::Error),
    #[error("{what} is not JSON: {source} in {text}")]
    Json { what: String, text: String, source: serde_json::Error },
    #[error("{what} must be a JSON object, for example {{\"interval\":10}}; it is {text}")]
    NotAnObject { what: &'static str, text: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Pipeline { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{}: {text}", path.display())]
    PipelineField { path: PathBuf, text: String },
    #[error("cannot read stdin: {0}")]
    Stdin(std::io::Error),
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
    #[error("cannot run cargo to build {}: {source}", path.display())]
    Cargo { path: PathBuf, source: std::io::Error },
    #[error("{} does not build: cargo's messages are above", path.display())]
    Build { path: PathBuf },
    #[error("{} builds no program named {wanted}, which its manifest names as executable", path.display())]
    NoArtifact { path: PathBuf, wanted: String },
    #[error("row {row} has no field {field}, which function {function} takes")]
    MissingField { row: u64, field: String, function: String },
    #[cfg(feature = "bench")]
    #[error(transparent)]
    Bench(#[from] ekuiper_bench::Error),
    #[cfg(feature = "bench")]
    #[error("cannot find this program: {0}")]
    OwnProgram(std::io::Error),
    #[error("cannot prepare for Ctrl-C: {0}")]
    Signals(std::io::Error),
}
