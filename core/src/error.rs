//! The errors of this crate: an invalid message, name, manifest or address.
//! [`Chain`](crate::Chain) shows one with its cause.

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An invalid message, name, manifest, address or launch option.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A message does not have the form that the protocol prescribes.
    #[error("{what} is not valid")]
    Message {
        /// The kind of message.
        what: &'static str,
        /// The position and reason of the decoding failure.
        source: serde_json::Error,
    },
    /// A value cannot be encoded as part of a message.
    #[error("cannot encode {what}")]
    Encode {
        /// The kind of message.
        what: &'static str,
        /// The serialiser's reason.
        source: serde_json::Error,
    },
    /// A command names a codec that this plugin does not support.
    #[error("this plugin does not support the codec {name}: use one that its hello lists")]
    UnknownCodec {
        /// The codec's name.
        name: String,
    },
    /// The last argument of an `Exec` is not a function's context.
    #[error(
        "the function call has no context: its last argument must be a JSON string that holds ruleId, opId, instanceId and funcId"
    )]
    MissingContext,
    /// A plugin's, symbol's or rule's name cannot be part of a socket's path.
    #[error("{kind} name {name:?} cannot be part of a socket's path: {reason}")]
    Name {
        /// The kind of name: plugin, symbol, rule or operator.
        kind: &'static str,
        /// The name.
        name: String,
        /// The reason.
        reason: &'static str,
    },
    /// A socket's path is longer than the operating system supports.
    #[error(
        "socket path {path} has {length} bytes, the system allows at most {max}: choose a shorter socket folder (TMPDIR, or --ipc-dir) or shorter names"
    )]
    PathTooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
        /// Maximum length of a Unix socket's path, in bytes.
        max: usize,
    },
    /// Two channels would share one socket.
    #[error("{wanted} and {owner} would both use {address}: rename one of them, or give the rules different ids")]
    Collision {
        /// The address of both channels.
        address: String,
        /// The current owner.
        owner: String,
        /// The owner that asked for it.
        wanted: String,
    },
    /// The manifest is not JSON, or a field has the wrong type.
    #[error("the manifest is not valid")]
    ManifestSyntax(#[source] serde_json::Error),
    /// The manifest describes a plugin that no host can run.
    #[error("the manifest is not valid: {0}")]
    Manifest(String),
    /// The launch options, the plugin's one argument, are not a JSON object.
    #[error(
        "the launch options are not a JSON object (a host passes them as the plugin's only argument, for example '{{\"sendTimeout\":1000}}'; got {text:?})"
    )]
    LaunchOptions {
        /// The argument that was passed.
        text: String,
        /// The position and reason of the decoding failure.
        source: serde_json::Error,
    },
}
