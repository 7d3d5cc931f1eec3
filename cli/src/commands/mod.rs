//! The commands, one file each.

mod attach;
#[cfg(feature = "bench")]
mod bench;
mod call;
mod check;
mod completions;
mod deploy;
mod logs;
mod man;
mod new;
mod package;
mod run;
mod serve;
mod sink;
mod source;
mod watch;

use std::process::ExitCode;

use serde_json::Value;

use crate::args::{Arguments, Command};
use crate::error::{EXCERPT, Error, Result, excerpt};
use crate::session::Session;

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let common = &arguments.common;
    match &arguments.command {
        Command::New(new) => new::run(new),
        Command::Call(call) => call::run(|| Session::open(common, &call.build, &[&call.path]), &call.call),
        Command::Source(source) => {
            source::run(|| Session::open(common, &source.build, &[&source.path]), &source.reading)
        }
        Command::Sink(sink) => sink::run(|| Session::open(common, &sink.build, &[&sink.path]), &sink.feeding),
        Command::Run(run) => run::run(common, run),
        Command::Check(arguments) => check::run(common, arguments),
        Command::Package(arguments) => package::run(common, arguments),
        Command::Attach(attach) => attach::run(common, attach),
        Command::Serve(serve) => serve::run(common, serve),
        Command::Watch(watch) => watch::run(common, watch),
        Command::Logs(logs) => logs::run(logs),
        Command::Deploy(arguments) => deploy::deploy(common, arguments),
        Command::Remove(arguments) => deploy::remove(arguments),
        #[cfg(feature = "bench")]
        Command::Bench(options) => bench::run(common, options),
        Command::Completions { shell } => completions::run(*shell),
        Command::Man { folder } => man::run(folder.as_deref()),
    }
}

/// Parses a call's argument, JSON from the command line; the error names the
/// place.
fn argument(number: usize, text: &str) -> Result<Value> {
    json(format!("argument {number}"), text, text_hint)
}

/// Parses a JSON object from the command line.
pub(crate) fn object(what: &'static str, text: &str) -> Result<Value> {
    match json(what.to_owned(), text, |_| String::new())? {
        value @ Value::Object(_) => Ok(value),
        _ => Err(Error::NotAnObject { what, text: excerpt(text.as_bytes(), 0) }),
    }
}

/// Parses JSON, which may begin with a byte order mark if it comes from a file:
/// `--config "$(cat config.json)"`.
fn json(what: String, text: &str, hint: impl FnOnce(&str) -> String) -> Result<Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value = serde_json::from_str(text).map_err(|problem| {
        let hint = if lost_its_quotes(text) {
            r#"; the shell removed the double quotes: put single quotes around the value, as in '{"a":1}'"#.into()
        } else {
            hint(text.trim())
        };
        let text = excerpt(text.as_bytes(), if problem.line() > 1 { 0 } else { problem.column() });
        Error::Argument { what: what.clone(), problem, text, hint }
    })?;
    match long_integer(text) {
        Some(number) => Err(Error::LongInteger { what, number: excerpt(number.as_bytes(), 0) }),
        None => Ok(value),
    }
}

/// Returns whether a text looks like `{a:b}`, which is left of `{"a":"b"}`
/// where the shell removed the quotes.
fn lost_its_quotes(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && !text.contains('"')
}

/// Returns a hint how to write a bare word as JSON in a shell.
fn text_hint(text: &str) -> String {
    let is_number = text.parse::<f64>().is_ok();
    if is_number || text.starts_with(['"', '{', '[']) {
        return String::new();
    }
    let quoted = if text.len() <= EXCERPT { Value::from(text).to_string() } else { r#""text""#.into() };
    format!("; text needs quotes: '{}'", quoted.replace('\'', r"'\''"))
}

/// Returns the first integer of this JSON that does not fit into 64 bits: it
/// would be read as a float and lose digits.
pub(crate) fn long_integer(json: &str) -> Option<&str> {
    let mut rest = json;
    while let Some(at) = rest.find(|character: char| matches!(character, '"' | '-' | '0'..='9')) {
        rest = &rest[at..];
        let is_text = rest.starts_with('"');
        let length = if is_text { text_length(rest) } else { number_length(rest) };
        let (token, after) = rest.split_at(length);
        let is_integer = !is_text && !token.contains(['.', 'e', 'E']);
        if is_integer && token.parse::<i64>().is_err() && token.parse::<u64>().is_err() {
            return Some(token);
        }
        rest = after;
    }
    None
}

/// Returns the length of the string that this JSON begins with, in bytes.
fn text_length(json: &str) -> usize {
    let mut is_escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.map_or(json.len(), |end| end + 2)
}

/// Returns the length of the number that this JSON begins with, in bytes.
fn number_length(json: &str) -> usize {
    json.find(|character: char| !matches!(character, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(json.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_more_than_64_bits_are_found_wherever_they_are() {
        for (json, found) in [
            ("18446744073709551615", None),
            ("18446744073709551616", Some("18446744073709551616")),
            ("-9223372036854775808", None),
            (r#"{"a":[1,{"b":-9223372036854775809}]}"#, Some("-9223372036854775809")),
            (r#"["18446744073709551616", 18446744073709551616.0, 1e30, 18446744073709551616e0]"#, None),
            (
                r#"{"99999999999999999999":"\\\"99999999999999999999\\", "b" : 99999999999999999999 }"#,
                Some("99999999999999999999"),
            ),
            (r#""\\" "#, None),
            ("-0", None),
        ] {
            assert!(serde_json::from_str::<Value>(json).is_ok(), "{json}");
            assert_eq!(long_integer(json), found, "{json}");
        }
    }

    #[test]
    fn a_text_is_quoted_for_json_and_for_the_shell() {
        assert_eq!(text_hint("hello"), r#"; text needs quotes: '"hello"'"#);
        assert_eq!(text_hint("it's"), r#"; text needs quotes: '"it'\''s"'"#);
        assert_eq!(text_hint(&"x".repeat(200)), r#"; text needs quotes: '"text"'"#);
        for no_text in ["01", ".5", "NaN", "\"open", "{\"a\"", "[1"] {
            assert_eq!(text_hint(no_text), "", "{no_text}");
        }
    }
}
