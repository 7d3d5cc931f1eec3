//! The level that a line shows.
//!
//! A plugin's lines are text in the form of its logger. Ours, and most others,
//! write the level after the time; some write it first, as a field, or in JSON.
//! Words of a sentence are no level.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::LogLevel;

/// Number of words, after the time, among which the level is looked for: the
/// rest of the time, the logger's name, the thread, and dashes between them.
const WORDS: usize = 7;

/// Time after the line of an exception within which lines without a level are
/// the rest of its text: a program writes all of it at once.
const REST: Duration = Duration::from_millis(10);

/// Reads the levels of a process's lines, one after the other: a line without a
/// level may belong to the one before it.
#[derive(Debug)]
pub(super) struct LevelReader {
    last: LogLevel,
    report: Report,
}

/// A report of a failure that has several lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    None,
    /// Its last line is the first one that is not indented.
    Indented,
    /// Its last line was at this time; the rest of the exception's text follows.
    Ended(Instant),
    /// The process ends with it.
    ToTheEnd,
}

impl Default for LevelReader {
    fn default() -> Self {
        Self { last: LogLevel::Info, report: Report::None }
    }
}

impl LevelReader {
    /// Returns the level of the next line, which was read at this time.
    pub(super) fn level_of(&mut self, line: &str, now: Instant) -> LogLevel {
        let is_indented = line.starts_with([' ', '\t']) || line.is_empty();
        let (level, report) = if let Some(report) = begun_report(line) {
            (LogLevel::Error, report)
        } else if let Some(level) = shown(line) {
            (level, Report::None)
        } else {
            match self.report {
                Report::ToTheEnd => (LogLevel::Error, Report::ToTheEnd),
                Report::Indented if is_indented => (LogLevel::Error, Report::Indented),
                Report::Indented => (LogLevel::Error, Report::Ended(now)),
                Report::Ended(at) if now.saturating_duration_since(at) <= REST => (LogLevel::Error, Report::Ended(at)),
                _ if is_indented => (self.last, Report::None),
                // What Python logs of an exception that none of its code has raised.
                _ if self.last == LogLevel::Error && is_exception(line) => (LogLevel::Error, Report::Ended(now)),
                _ => (LogLevel::Info, Report::None),
            }
        };
        (self.last, self.report) = (level, report);
        level
    }
}

/// Beginnings of the last words of a process: of Go, Rust and C++.
const ENDS: [&str; 5] =
    ["panic: ", "fatal error: ", "fatal runtime error: ", "memory allocation of ", "terminate called "];

/// Returns the report of a failure that a line begins: of Python, Rust, Go or
/// C++.
fn begun_report(line: &str) -> Option<Report> {
    let in_python = [
        "Traceback (most recent call last)",
        "Exception Group Traceback (most recent call last)",
        "During handling of the above exception, another exception occurred:",
        "The above exception was the direct cause of the following exception:",
    ];
    let of_group = line.trim_start_matches([' ', '|', '+']);
    if in_python.iter().any(|begin| of_group.starts_with(begin))
        || (line.starts_with("thread '") && line.contains(" panicked at "))
    {
        Some(Report::Indented)
    } else if ENDS.iter().any(|begin| line.starts_with(begin)) {
        Some(Report::ToTheEnd)
    } else {
        None
    }
}

/// Returns whether a line is an exception of Python, `package.NameError: text`.
fn is_exception(line: &str) -> bool {
    const OTHERS: [&str; 4] = ["KeyboardInterrupt", "SystemExit", "StopIteration", "GeneratorExit"];
    let path = line.split_once(": ").map_or(line, |(path, _)| path);
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    let name = path.rsplit('.').next().unwrap_or_default();
    let is_one = name.ends_with("Error") || name.ends_with("Exception") || OTHERS.contains(&name);
    is_one && path.split('.').all(is_name)
}

/// Returns the level that a line shows by itself.
fn shown(line: &str) -> Option<LogLevel> {
    let line = line.trim_start();
    if line.starts_with('{') {
        return in_json(line);
    }
    if is_field(line.split([' ', '\t']).next()?) {
        return in_fields(line);
    }
    let first = line.split_whitespace().next()?;
    if let Some(level) = before_message(first).or_else(|| as_code(first)) {
        return Some(level);
    }
    if !is_time(first) {
        return None;
    }
    // Tabs separate fields, in which any spelling is a level.
    if let Some(level) = line.split('\t').nth(1).and_then(|field| word(field.trim())) {
        return Some(level);
    }
    let mut words = line.split_whitespace().skip(1).take(WORDS);
    words.find_map(|found| as_word(found).or_else(|| before_message(found).filter(|_| found.ends_with(':'))))
}

/// `ERROR`, `ERROR:name:…`, `ERROR/name]`, `[error]`.
fn as_word(text: &str) -> Option<LogLevel> {
    if let Some(inner) = text.strip_prefix(['[', '<', '(', '|']) {
        let inner = inner.trim_end_matches([':', '-', '|']).trim_end_matches([']', '>', ')']);
        return word(inner);
    }
    let (name, rest) = text.split_at(text.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(text.len()));
    let is_loud = name.chars().all(|letter| letter.is_ascii_uppercase());
    let is_whole = rest.is_empty() || rest.starts_with([':', '/', ']', '|', ')']);
    word(name).filter(|_| is_loud && is_whole)
}

/// The same at the begin of a message, where `error:` is a level, too.
fn before_message(text: &str) -> Option<LogLevel> {
    as_word(text).or_else(|| word(text.strip_suffix(':')?))
}

/// `<3>` of syslog, `E0102` of glog.
fn as_code(text: &str) -> Option<LogLevel> {
    if let Some((number, _)) = text.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        return Some(match number {
            "0" | "1" | "2" | "3" => LogLevel::Error,
            "4" => LogLevel::Warn,
            "5" | "6" => LogLevel::Info,
            "7" => LogLevel::Debug,
            _ => return None,
        });
    }
    let (letter, date) = text.split_at_checked(1)?;
    if date.len() != 4 || !date.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(match letter {
        "E" | "F" => LogLevel::Error,
        "W" => LogLevel::Warn,
        "I" => LogLevel::Info,
        "D" => LogLevel::Debug,
        _ => return None,
    })
}

/// Returns whether a word is a date or a time of day.
fn is_time(text: &str) -> bool {
    let text = text.trim_start_matches(['[', '(']);
    let count = |wanted: char| text.matches(wanted).count();
    text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|character| character.is_ascii_digit() || "-:/.,+TZAPM])".contains(character))
        && (count(':') > 0 || count('-') > 1 || count('/') > 1 || count('.') > 1)
}

/// Returns whether a word is the first of a line of fields, as `time="…`.
fn is_field(text: &str) -> bool {
    let is_name = |name: &str| {
        name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.@".contains(letter))
            && name.starts_with(|first: char| first.is_ascii_lowercase())
    };
    text.split_once('=').is_some_and(|(name, value)| is_name(name) && !value.starts_with('='))
}

/// Finds the field `level`, outside of quoted values.
fn in_fields(line: &str) -> Option<LogLevel> {
    let (mut is_quoted, mut is_escaped, mut start) = (false, false, 0);
    let mut fields = Vec::new();
    for (at, character) in line.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ' ' | '\t' if !is_quoted => {
                fields.push(&line[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.push(&line[start..]);
    fields.into_iter().find_map(|field| {
        let (name, value) = field.split_once('=')?;
        word(value.trim_matches('"')).filter(|_| ["level", "lvl", "severity"].contains(&name))
    })
}

/// The level of a line in JSON, under its usual names.
#[derive(Deserialize)]
struct Fields {
    #[serde(
        alias = "lvl",
        alias = "severity",
        alias = "levelname",
        alias = "log.level",
        alias = "@level",
        alias = "L"
    )]
    level: Value,
}

fn in_json(line: &str) -> Option<LogLevel> {
    let level = match serde_json::from_str::<Fields>(line) {
        Ok(fields) => fields.level,
        // It may have been cut.
        Err(error) if error.is_eof() || line.contains("… (") => {
            let (_, rest) = line.split_once("\"level\":")?;
            return word(rest.trim_start().strip_prefix('"')?.split('"').next()?);
        }
        Err(_) => return None,
    };
    match &level {
        Value::String(name) => word(name),
        // The loggers bunyan and pino write levels as these numbers.
        Value::Number(number) => Some(match number.as_u64()? {
            50.. => LogLevel::Error,
            40.. => LogLevel::Warn,
            30.. => LogLevel::Info,
            20.. => LogLevel::Debug,
            10.. => LogLevel::Trace,
            _ => return None,
        }),
        _ => None,
    }
}

fn word(text: &str) -> Option<LogLevel> {
    // No other name is as long.
    if text.len() > "EMERGENCY".len() {
        return None;
    }
    Some(match text.to_ascii_uppercase().as_str() {
        "ERROR" | "ERR" | "ERRO" | "CRITICAL" | "CRIT" | "FATAL" | "FATA" | "PANIC" | "DPANIC" | "ALERT" | "EMERG"
        | "EMERGENCY" | "SEVERE" => LogLevel::Error,
        "WARN" | "WARNING" | "WRN" => LogLevel::Warn,
        "INFO" | "INF" | "NOTICE" => LogLevel::Info,
        "DEBUG" | "DEBU" | "DBG" => LogLevel::Debug,
        "TRACE" | "TRC" => LogLevel::Trace,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::LogLevel::{Debug, Error, Info, Trace, Warn};
    use super::*;

    #[test]
    fn a_line_has_the_level_that_its_logger_wrote() {
        for (line, level) in [
            // Our SDK in Rust, our module in Python.
            ("2026-11-27T00:33:01.123456Z ERROR mirror: x", Error),
            ("2026-11-27T00:33:01.123456Z  INFO mirror: no ERROR", Info),
            ("2026-11-27T00:33:01.123456Z DEBUG mirror: x", Debug),
            ("2026-11-27T00:33:01.123456Z TRACE mirror: x", Trace),
            ("2026-11-27 00:33:01,123 WARNING pyfile main.py:12: x", Warn),
            // `logging` as it is, and as people set it up.
            ("ERROR:root:x", Error),
            ("WARNING:werkzeug:x", Warn),
            ("CRITICAL:root:x", Error),
            ("[ERROR] x", Error),
            ("[warn] x", Warn),
            ("2026-01-02 12:00:00,123 - my.logger - ERROR - x", Error),
            ("2026-01-02 12:00:00.123 | DEBUG    | m:f:1 - x", Debug),
            ("[2026-01-02 12:00:00,123: WARNING/MainProcess] x", Warn),
            ("INFO:     Started", Info),
            // The official SDK in Go, zap, zerolog, glog.
            (r#"time="2026-01-02 12:00:00" level=error msg="level=info" file="a.go:1""#, Error),
            (r#"time="2026-01-02 12:00:00" level=warning msg="x""#, Warn),
            (r#"level=debug msg=x"#, Debug),
            (r#"{"level":"error","ts":1.5,"msg":"x"}"#, Error),
            (r#"{"time":"x","level":"WARN","msg":"x"}"#, Warn),
            (r#"{"severity":"CRITICAL","message":"x"}"#, Error),
            (r#"{"level":40,"msg":"x"}"#, Warn),
            (r#"{"level":"error","msg":"xxx… (5,000 bytes)"#, Error),
            ("2026-01-02T12:00:00.000Z\terror\tpkg/a.go:12\tx", Error),
            ("12:00PM ERR x", Error),
            ("E0102 12:00:00.000000 1 a.go:1] x", Error),
            ("2026/01/02 12:00:00 warning: x", Warn),
            // Others.
            ("[2026-01-02T12:00:00Z ERROR demo] x", Error),
            ("12:00:00.123 [main] ERROR demo - x", Error),
            ("error: x", Error),
            ("Error: x", Error),
            ("<4>x", Warn),
            // None.
            ("x", Info),
            ("", Info),
            ("an ERROR in the middle", Info),
            ("errors: 5", Info),
            ("5 ERROR lines", Info),
            ("0 errors, 3 warnings", Info),
            ("Information", Info),
            ("INFORMATION", Info),
            (r#"{"message":{"level":"error"}}"#, Info),
            (r#"{"level":null}"#, Info),
            ("{not json", Info),
            ("a == b", Info),
            ("1.5 ERROR", Info),
        ] {
            assert_eq!(LevelReader::default().level_of(line, Instant::now()), level, "{line}");
        }
    }

    #[test]
    fn a_report_has_the_level_of_an_error_to_its_end() {
        for (lines, levels) in [
            (
                &[
                    "Traceback (most recent call last):",
                    "  File \"a.py\"",
                    "    f()",
                    "ValueError: x",
                    "its second line",
                ][..],
                &[Error, Error, Error, Error, Error][..],
            ),
            (
                &["thread 'main' (7) panicked at a.rs:1:2:", "no", "note: run with `RUST_BACKTRACE=1`"],
                &[Error, Error, Error],
            ),
            (&["memory allocation of 7 bytes failed", "note: x"], &[Error; 2]),
            (&["fatal runtime error: stack overflow, aborting"], &[Error]),
            (&["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  x"], &[Error; 2]),
            (&["panic: x", "", "goroutine 1 [running]:", "main.main()"], &[Error; 4]),
            (&["2026-01-02 12:00:00 WARN x", "  more of it", "another"], &[Warn, Warn, Info]),
            (&["Traceback (most recent call last):", "2026-01-02 12:00:00 INFO x", "y"], &[Error, Info, Info]),
            (
                &["Traceback (most recent call last):", "ValueError: x", "2026-01-02 12:00:00 INFO x", "y"],
                &[Error, Error, Info, Info],
            ),
            // An exception that no code in Python has raised has no traceback.
            (&["2026-01-02 12:00:00 ERROR x failed", "a._b.ArgumentError: x", "y"], &[Error; 3]),
            (&["2026-01-02 12:00:00 ERROR x failed", "KeyboardInterrupt"], &[Error, Error]),
            (&["2026-01-02 12:00:00 WARN x", "ValueError: y"], &[Warn, Info]),
            (&["2026-01-02 12:00:00 ERROR x", "Errors: y", "no.Error of it: y"], &[Error, Info, Info]),
            (
                &[
                    "Traceback (most recent call last):",
                    "KeyError: x",
                    "",
                    "During handling of the above exception, another exception occurred:",
                    "",
                    "Traceback (most recent call last):",
                    "ValueError: x",
                    "",
                    "The above exception was the direct cause of the following exception:",
                    "",
                ],
                &[Error; 10],
            ),
            (&["  + Exception Group Traceback (most recent call last):", "  |   File \"a.py\"", "x"], &[Error; 3]),
        ] {
            let (mut reader, now) = (LevelReader::default(), Instant::now());
            let found: Vec<_> = lines.iter().map(|line| reader.level_of(line, now)).collect();
            assert_eq!(found, levels, "{lines:?}");
        }
    }

    #[test]
    fn what_comes_later_is_not_the_text_of_an_exception() {
        let (mut reader, now) = (LevelReader::default(), Instant::now());
        let lines = [("Traceback (most recent call last):", 0), ("ValueError: x", 0), ("its rest", 9), ("y", 18)];
        let found = lines.map(|(line, after)| reader.level_of(line, now + Duration::from_millis(after)));
        assert_eq!(found, [Error, Error, Error, Info]);
    }
}
