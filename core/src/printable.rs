//! Text of others made safe for a log line, an error's text or a terminal: it
//! can neither forge a line nor control the terminal.

use std::borrow::Cow;

/// Escapes all unprintable characters but tabs, for a single line.
///
/// ```
/// use ekuiper_core::printable::one_line;
///
/// assert_eq!(one_line("row\nforged \x1b[2J"), "row\\nforged \\u{1b}[2J");
/// ```
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, |character| character == '\t')
}

/// Escapes all unprintable characters but tabs and line feeds.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |character| matches!(character, '\t' | '\n'))
}

/// Escapes all unprintable characters.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// Maximum length of a [`short`] text, in characters.
const SHORT: usize = 120;

/// Returns the beginning of a text that may be of any length, with all
/// unprintable characters escaped.
///
/// ```
/// use ekuiper_core::printable::short;
///
/// assert_eq!(short("a\n"), "a\\n");
/// assert!(short(&"x".repeat(1000)).ends_with("x… (1000 bytes)"));
/// ```
pub fn short(text: &str) -> String {
    match text.char_indices().nth(SHORT) {
        Some((end, _)) => format!("{}… ({} bytes)", excerpt(&text[..end]), text.len()),
        None => excerpt(text).into_owned(),
    }
}

/// Names the first of some, at most so many, and how many more there are. All
/// unprintable characters are escaped.
///
/// ```
/// use ekuiper_core::printable::some_of;
///
/// assert_eq!(some_of(&["a", "b\n"], 2), "a, b\\n");
/// assert_eq!(some_of(&["a", "b", "c"], 2), "a, b and 1 more");
/// ```
pub fn some_of(names: &[impl AsRef<str>], most: usize) -> String {
    let shown: Vec<_> = names.iter().take(most).map(|name| excerpt(name.as_ref())).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Returns whether a character does something else than to be printed: control
/// characters, those that change the direction of what follows, and the
/// separators of lines and paragraphs.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

fn escape(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |character: char| is_unprintable(character) && !stays(character);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match is_escaped(character) {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unprintable_characters_are_shown_and_do_nothing() {
        assert_eq!(one_line("x\nplugin fake\r\x1b[2J\u{9b}\tä"), "x\\nplugin fake\\r\\u{1b}[2J\\u{9b}\tä");
        assert_eq!(lines("one\ntwo\r"), "one\ntwo\\r");
        assert_eq!(excerpt("a\tb"), "a\\tb");
        // Text that reads backwards, or on another line.
        assert_eq!(one_line("\u{202e}txt.exe\u{2069}\u{2028}ו"), "\\u{202e}txt.exe\\u{2069}\\u{2028}ו");
        assert!(matches!(one_line("plain ä 中 👍🏽"), Cow::Borrowed(_)));
    }
}
