//! The one way in which errors are shown: with their causes.

use std::error::Error;
use std::fmt;

/// Displays an error and its causes in one line, joined by `": "`.
///
/// The errors of this project display what happened, to whom, and what to do;
/// the cause is their [`source`](Error::source) alone, and not part of that
/// text. Code that shows an error to a person shows its chain. A cause whose
/// text the line already has, as with errors of other crates that display their
/// cause too, is not repeated, and neither is the plugin or symbol that the error
/// begins with.
///
/// ```
/// use ekuiper_core::Chain;
/// use ekuiper_core::manifest::Manifest;
///
/// let error = Manifest::parse("{").unwrap_err();
/// assert_eq!(error.to_string(), "the manifest is not valid");
/// let text = Chain(&error).to_string();
/// assert_eq!(text, "the manifest is not valid: EOF while parsing an object at line 1 column 1");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = with_cause(&text, &more);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

/// Joins a text and its cause as [`Chain`] does: `plugin p cannot start` and
/// `plugin p: no such file` are `plugin p cannot start: no such file`.
pub fn with_cause(text: &str, cause: &str) -> String {
    let rest = subject(text).and_then(|subject| cause.strip_prefix(subject));
    match rest {
        Some(rest) if rest.starts_with(": ") => format!("{text}{rest}"),
        Some(rest) if rest.starts_with(' ') => format!("{text}: it{rest}"),
        _ => format!("{text}: {cause}"),
    }
}

/// The plugin or symbol that a sentence begins with: `plugin p`.
fn subject(text: &str) -> Option<&str> {
    let (kind, rest) = text.split_once(' ')?;
    let name = rest.find([' ', ':']).map_or(rest, |end| &rest[..end]);
    let is_subject = matches!(kind, "plugin" | "function" | "source" | "sink") && !name.is_empty();
    is_subject.then(|| &text[..kind.len() + 1 + name.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: Middle,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the disk refused it")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn causes_follow_and_are_told_once() {
        let chain = |text| {
            let source = Middle(std::io::Error::other("no space left"));
            Chain(&Outer { text, source }).to_string()
        };
        assert_eq!(chain("cannot write"), "cannot write: the disk refused it: no space left");
        let foreign = "cannot write: the disk refused it";
        assert_eq!(chain(foreign), "cannot write: the disk refused it: no space left");
    }

    #[test]
    fn a_subject_is_named_once() {
        for (text, cause, joined) in [
            ("plugin p cannot start", "plugin p: no such file", "plugin p cannot start: no such file"),
            (
                "plugin p was not updated",
                "plugin p ended (exit code 1)",
                "plugin p was not updated: it ended (exit code 1)",
            ),
            ("source s: failed", "source s: it broke", "source s: failed: it broke"),
            ("plugin p cannot start", "plugin pq ended", "plugin p cannot start: plugin pq ended"),
            ("plugin p failed", "function p: boo", "plugin p failed: function p: boo"),
            ("plugins of p", "plugins of p ended", "plugins of p: plugins of p ended"),
            ("plugin p", "plugin p", "plugin p: plugin p"),
        ] {
            assert_eq!(with_cause(text, cause), joined);
        }
    }

    #[test]
    fn an_error_without_a_cause_is_its_text() {
        assert_eq!(Chain(&std::io::Error::other("boo")).to_string(), "boo");
    }
}
