//! The errors of a plugin, and their texts for the engine.

use ekuiper_core::Chain;
use serde_json::error::Category;

/// Any error: `?` in an author's method converts every error type into it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of an author's method.
pub type Result<T, E = BoxError> = std::result::Result<T, E>;

/// An error that the SDK itself reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The symbol has been stopped; `open` should return.
    #[error("the symbol is stopped")]
    Stopped,
    /// A field of the configuration is missing or has another type.
    #[error("invalid config{}", field_text(field))]
    Config {
        /// The field's path, such as `server.port` or `brokers[2]`; empty for
        /// the configuration as a whole.
        field: String,
        /// The actual and the expected type.
        source: serde_json::Error,
    },
    /// A function was called with a wrong number of arguments.
    #[error("takes {expected} argument{}, got {got}", if *expected == 1 { "" } else { "s" })]
    ArgumentCount {
        /// The number of arguments that the function takes.
        expected: usize,
        /// The number of arguments in the call.
        got: usize,
    },
    /// An argument has another type than the function takes.
    #[error("invalid argument {position}{}", field_text(field))]
    Argument {
        /// The argument's position, from 1.
        position: usize,
        /// The path within the argument; empty for the argument as a whole.
        field: String,
        /// The actual and the expected type.
        source: serde_json::Error,
    },
    /// A sink's message is not JSON rows.
    #[error("invalid message{}", field_text(field))]
    Rows {
        /// The path of the wrong value, such as `[3].name`; empty for the
        /// message as a whole.
        field: String,
        /// The reason, with the position in the text.
        source: serde_json::Error,
    },
    /// A message cannot be read or written: it violates the protocol, or it
    /// holds a value that JSON lacks, such as NaN.
    #[error(transparent)]
    Message(#[from] ekuiper_core::Error),
    /// A channel failed: it cannot be opened, or the message is longer than
    /// [`Plugin::max_message`](crate::Plugin::max_message).
    #[error("{what}")]
    Transport {
        /// The channel or the operation, and that it failed.
        what: String,
        /// The transport's error.
        source: ekuiper_core::transport::TransportError,
    },
    /// A symbol panicked.
    #[error("panicked: {0}")]
    Panic(String),
}

fn field_text(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(" field {field}") }
}

/// The error without its line and column where these say nothing: a single
/// value has one line.
pub(crate) fn without_useless_place(error: serde_json::Error) -> serde_json::Error {
    match error.classify() {
        Category::Data => serde::de::Error::custom(without_place(&error.to_string())),
        _ => error,
    }
}

fn without_place(text: &str) -> &str {
    match text.rsplit_once(" at line ") {
        Some((before, place)) if place.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b' ') => {
            before
        }
        _ => text,
    }
}

/// A serde error and its path; the path of a missing field ends with the
/// field's name.
pub(crate) fn located(error: serde_path_to_error::Error<serde_json::Error>) -> (String, serde_json::Error) {
    let mut path = error.path().to_string();
    if path == "." {
        path.clear();
    }
    let source = error.into_inner();
    let text = source.to_string();
    let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    if let Some(missing) = missing {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(missing);
    }
    (path, source)
}

/// The longest error text that is sent, in bytes: an error may quote the data
/// that it concerns, and stock hosts drop messages over 1 MiB.
const MAX_TEXT: usize = 16 << 10;

/// The text of an error for the engine: with its causes, at most [`MAX_TEXT`]
/// bytes, never empty.
pub(crate) fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    shortened(Chain(error).to_string())
}

/// An error text with the limits of [`text_of`].
pub(crate) fn shortened(mut text: String) -> String {
    if text.trim().is_empty() {
        return "an error without a text".into();
    }
    if text.len() > MAX_TEXT {
        let length = text.len();
        let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(&format!("… ({length} bytes in all)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the row")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once() {
        let io = || std::io::Error::other("disk full");
        assert_eq!(text_of(&Outer(io())), "cannot write the row: disk full");
        let unsent = Error::Transport {
            what: "the tuple was not sent".into(),
            source: ekuiper_core::transport::TransportError::Timeout,
        };
        assert_eq!(text_of(&unsent), "the tuple was not sent: timed out");
        let source = without_useless_place(serde_json::from_str::<String>("7").unwrap_err());
        let argument = Error::Argument { position: 1, field: String::new(), source };
        assert_eq!(text_of(&argument), "invalid argument 1: invalid type: integer `7`, expected a string");
    }

    #[test]
    fn a_text_is_neither_endless_nor_empty() {
        let long = shortened("é".repeat(1 << 20));
        assert!(long.len() < MAX_TEXT + 40 && long.ends_with("… (2097152 bytes in all)"));
        assert_eq!(shortened(" ".into()), "an error without a text");
    }
}
