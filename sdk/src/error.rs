//! What can go wrong in a plugin, and how it is told to the engine.

use serde_json::error::Category;

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
    #[error("config{}: {}", field_text(field), reason(source))]
    Config {
        /// The field's path, such as `server.port` or `brokers[2]`; empty when
        /// it is the configuration as a whole.
        field: String,
        /// What is wrong with it: the type that it has and the one it should
        /// have.
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
    #[error("argument {position}{}: {}", field_text(field), reason(source))]
    Argument {
        /// Its position, from 1.
        position: usize,
        /// The path within it; empty when it is the argument as a whole.
        field: String,
        /// The type that it has and the one it should have.
        source: serde_json::Error,
    },
    /// A sink's message is not JSON rows.
    #[error("the message{}: {source}", field_text(field))]
    Rows {
        /// The path of what is wrong, such as `[3].name`; empty when it is the
        /// message as a whole.
        field: String,
        /// What is wrong with it, with the place in the text.
        source: serde_json::Error,
    },
    /// A message cannot be read or written: it is not of the protocol's form,
    /// or a value cannot be JSON, such as NaN.
    #[error(transparent)]
    Message(#[from] ekuiper_core::Error),
    /// A channel failed: it cannot be opened, or the message is longer than
    /// [`Plugin::max_message`](crate::Plugin::max_message).
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

fn field_text(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(" field {field}") }
}

/// Without its place where that says nothing: single values have one line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match error.classify() {
        Category::Data => without_place(&text).to_owned(),
        _ => text,
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

/// A serde error and the path at which it arose, with the name of a field that
/// is missing at its end.
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
/// that it is about, and stock hosts drop messages over 1 MiB.
const MAX_TEXT: usize = 16 << 10;

/// An error as it is told to the engine: with its causes, at most
/// [`MAX_TEXT`] long, never empty.
pub(crate) fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many an error's text ends with its cause's already.
        if !text.contains(without_place(&more)) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    shortened(text)
}

/// As [`text_of`], for an error that is a text already.
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
        let quoting = Error::Transport {
            what: "the tuple was not sent".into(),
            source: ekuiper_core::transport::TransportError::Timeout,
        };
        assert_eq!(text_of(&quoting), "the tuple was not sent: timed out");
        let source = serde_json::from_str::<String>("7").unwrap_err();
        let argument = Error::Argument { position: 1, field: String::new(), source };
        assert_eq!(text_of(&argument), "argument 1: invalid type: integer `7`, expected a string");
    }

    #[test]
    fn a_text_is_neither_endless_nor_empty() {
        let long = shortened("é".repeat(1 << 20));
        assert!(long.len() < MAX_TEXT + 40 && long.ends_with("… (2097152 bytes in all)"));
        assert_eq!(shortened(" ".into()), "an error without a text");
    }
}
