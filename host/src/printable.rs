//! Text for a log line or an error: foreign text, which cannot forge a line, nor
//! control a terminal; and numbers of things.

use std::borrow::Cow;
use std::fmt::Write;

/// Formats a number of things: `1 message`, `2 messages`.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Escapes all control characters but tabs, for a single line.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, |character| character == '\t')
}

/// Escapes all control characters but tabs and line feeds.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |character| matches!(character, '\t' | '\n'))
}

fn escape(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |character: char| character.is_control() && !stays(character);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match is_escaped(character) {
            // Writing to a string does not fail.
            true => drop(write!(escaped, "{}", character.escape_default())),
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_do_nothing() {
        assert_eq!(one_line("x\nplugin fake\r\x1b[2J\u{9b}\tä"), "x\\nplugin fake\\r\\u{1b}[2J\\u{9b}\tä");
        assert_eq!(lines("one\ntwo\r"), "one\ntwo\\r");
        assert!(matches!(one_line("plain ä"), Cow::Borrowed("plain ä")));
    }
}
