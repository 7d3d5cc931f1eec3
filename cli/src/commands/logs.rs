//! `logs`: what the plugins of a running `serve` have written.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, IsTerminal};
use std::process::ExitCode;

use ekuiper_core::printable;
use serde_json::Value;

use crate::args::Logs;
use crate::console;
use crate::engine::{Engine, Peer, encoded};
use crate::error::{Error, Result};
use crate::interrupt::{INTERRUPTED, Interrupt};
use crate::output::{self, Reader};

pub(super) fn run(logs: &Logs) -> Result<ExitCode> {
    // Nothing is open that would have to be closed.
    Interrupt::watch(|| std::process::exit(INTERRUPTED.into())).map_err(Error::Signals)?;
    output::when_the_reader_has_gone(|| std::process::exit(0))?;
    let engine = Engine::unasked(Peer::Serve, &logs.url, logs.token.get()?)?;
    let mut path = format!("/logs?lines={}&level={}", logs.lines, logs.level.name());
    if let Some(name) = &logs.name {
        path += &format!("&plugin={}", encoded(name));
    }
    if logs.follow {
        path += "&follow=1";
    }
    let log = engine.stream("read the log", &path)?;
    let log = log.ok_or_else(|| Error::NoLog { url: engine.url().to_owned() })?;
    let has_colours = std::io::stdout().is_terminal() && !console::is_dumb() && std::env::var_os("NO_COLOR").is_none();
    for line in BufReader::new(log).lines() {
        let line = line.map_err(|source| Error::LogEnded { url: engine.url().to_owned(), source })?;
        let text = if logs.json { line } else { readable(&line, has_colours) };
        if output::line(text)? == Reader::HasGone {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns a line for people: `2026-11-27T12:00:00.123Z WARN  mirror: …`.
fn readable(json: &str, has_colours: bool) -> String {
    let Ok(line) = serde_json::from_str::<Value>(json) else { return printable::one_line(json).into_owned() };
    let text = |field: &str| printable::one_line(line[field].as_str().unwrap_or_default()).into_owned();
    let level = text("level").to_uppercase();
    let mut shown = line["unix_seconds"].as_f64().map_or_else(String::new, |seconds| date(seconds) + " ");
    let colour = match level.as_str() {
        "ERROR" => "31",
        "WARN" => "33",
        "INFO" => "32",
        _ => "2",
    };
    // Writing to a `String` does not fail.
    let _ = match has_colours {
        true => write!(shown, "\x1b[{colour}m{level:5}\x1b[0m"),
        false => write!(shown, "{level:5}"),
    };
    if line["plugin"].is_string() {
        let _ = write!(shown, " {}:", text("plugin"));
    }
    shown + " " + &text("line")
}

/// Returns a time since 1970 as a date and a time of day, in UTC.
fn date(seconds: f64) -> String {
    let milliseconds = (seconds * 1000.0).round().max(0.0) as u64;
    let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// Returns the year, month and day of a day since 1970. Years begin in March
/// here, so that a leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    // Since the 1st of March of the year 0, in eras of 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let in_month = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * era + year + later, month, in_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, text) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (951_782_399.999, "2000-02-28T23:59:59.999Z"),
            (951_782_400.0, "2000-02-29T00:00:00.000Z"),
            (951_868_800.0, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599.5, "2024-12-31T23:59:59.500Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn a_line_is_readable_and_forges_nothing() {
        let json = r#"{"unix_seconds":0.5,"plugin":"mirror","pid":1,"level":"warn","line":"a\u001b[2J"}"#;
        assert_eq!(readable(json, false), "1970-01-01T00:00:00.500Z WARN  mirror: a\\u{1b}[2J");
        assert!(readable(json, true).contains("\x1b[33mWARN \x1b[0m mirror: "));
        let all = r#"{"unix_seconds":0,"plugin":null,"pid":null,"level":"warn","line":"7 lines left out"}"#;
        assert_eq!(readable(all, false), "1970-01-01T00:00:00.000Z WARN  7 lines left out");
        assert_eq!(readable("\x1b", false), "\\u{1b}");
    }
}
