//! What can be wrong with a message, a name, a manifest or an address.

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that this crate refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A message does not have the form that the protocol gives it.
    #[error("{what} is not valid: {source}")]
    Message {
        /// Which message.
        what: &'static str,
        /// Where and why decoding stopped.
        source: serde_json::Error,
    },
    /// A value cannot be part of a message.
    #[error("{what} cannot be written: {source}")]
    Encode {
        /// Which message.
        what: &'static str,
        /// The serialiser's reason.
        source: serde_json::Error,
    },
    /// A symbol is to speak a codec that this plugin does not know.
    #[error("this plugin knows no codec {name}: it offers those of its hello")]
    UnknownCodec {
        /// The codec's name.
        name: String,
    },
    /// The last argument of `Exec` is not a function's context.
    #[error(
        "the call of a function carries no context: its last argument must be a JSON string that holds ruleId, opId, instanceId and funcId"
    )]
    MissingContext,
    /// A plugin's, symbol's or rule's name cannot be part of a socket's path.
    #[error("{kind} name {name:?} cannot be part of a socket's path: {reason}")]
    Name {
        /// What the name names: plugin, symbol, rule or operator.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A socket's path is longer than the operating system takes.
    #[error(
        "socket path {path} has {length} bytes, the system takes at most {max}: choose a shorter socket folder or shorter names"
    )]
    PathTooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
        /// The most that a Unix socket's address holds.
        max: usize,
    },
    /// Two channels would share one socket.
    #[error("{wanted} and {owner} would both use {address}: rename one of them, or give the rules different ids")]
    Collision {
        /// The address that both come to.
        address: String,
        /// Who has it already.
        owner: String,
        /// Who wants it now.
        wanted: String,
    },
    /// The manifest is not JSON, or a field has the wrong type.
    #[error("the manifest is not valid: {0}")]
    ManifestSyntax(#[source] serde_json::Error),
    /// The manifest says something that no host can carry out.
    #[error("the manifest is not valid: {0}")]
    Manifest(String),
    /// The launch options, the plugin's one argument, are not a JSON object.
    #[error(
        "the launch options are not a JSON object: {source} (a host passes them as the plugin's only argument, for example '{{\"sendTimeout\":1000}}'; got {text:?})"
    )]
    LaunchOptions {
        /// What was passed.
        text: String,
        /// Where and why decoding stopped.
        source: serde_json::Error,
    },
}
