//! The one way in which errors are shown: with their causes.

use std::error::Error;
use std::fmt;

/// Displays an error and its causes in one line, joined by `": "`.
///
/// The errors of this project display what happened, to whom, and what to do;
/// the cause is their [`source`](Error::source) alone, and not part of that
/// text. Code that shows an error to a person shows its chain. A cause whose
/// text the line already has, as with errors of other crates that display their
/// cause too, is not repeated.
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
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
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
    fn an_error_without_a_cause_is_its_text() {
        assert_eq!(Chain(&std::io::Error::other("boo")).to_string(), "boo");
    }
}
