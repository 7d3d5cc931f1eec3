//! Reading what a process writes, line by line, to its end.

use std::io::{self, BufRead, BufReader, PipeReader};
use std::time::{Instant, SystemTime};

use ekuiper_core::printable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::levels::LevelReader;
use super::rate::RateLimit;
use super::{LogLevel, LogLine, PluginLog};

/// Maximum length of a line, in bytes; longer lines are cut.
const MAX_LINE: usize = 4096;

/// One process's part in the log.
pub(crate) struct PluginOutput {
    log: PluginLog,
    plugin: String,
    pid: u32,
    levels: LevelReader,
    limit: RateLimit,
}

impl PluginOutput {
    pub(crate) fn new(log: &PluginLog, plugin: &str, pid: u32) -> Self {
        let (log, plugin, limit) = (log.clone(), plugin.to_owned(), RateLimit::new(log.rate));
        Self { log, plugin, pid, levels: LevelReader::default(), limit }
    }

    /// Passes a line on, unless there are too many.
    fn add(&mut self, text: &str) {
        let now = Instant::now();
        let level = self.levels.level_of(text, now);
        if self.limit.pass(now) && !self.queue(level, text.to_owned()) {
            self.limit.leave_out(1);
        }
    }

    /// Tells how many lines were left out, once that is due.
    fn report(&mut self, is_due: impl FnOnce(Instant) -> bool) {
        if self.limit.report_due().is_some_and(is_due) {
            let count = self.limit.report(Instant::now());
            if !self.queue(LogLevel::Warn, left_out(count)) {
                self.limit.leave_out(count);
            }
        }
    }

    fn queue(&self, level: LogLevel, text: String) -> bool {
        self.log.add(self.line(level, text))
    }

    fn line(&self, level: LogLevel, text: String) -> LogLine {
        LogLine { plugin: self.plugin.clone(), pid: self.pid, time: SystemTime::now(), level, text }
    }
}

/// The reading end of a process's output.
pub(crate) struct OutputReader {
    reader: BufReader<PipeReader>,
    output: PluginOutput,
    line: Vec<u8>,
}

impl OutputReader {
    pub(crate) fn new(pipe: PipeReader, output: PluginOutput) -> Self {
        Self { reader: BufReader::new(pipe), output, line: Vec::new() }
    }

    /// Waits for the next line, passes it on, and returns it; `None` at the end.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        self.report_in_time();
        self.line.clear();
        let length = read_line(&mut self.reader, &mut self.line).ok().filter(|length| *length > 0);
        let Some(length) = length else {
            self.output.report(|_| true);
            return None;
        };
        let text = String::from_utf8_lossy(&self.line);
        let text = without_colours(text.trim_end());
        let mut text = printable::one_line(&text).into_owned();
        text.extend(cut_note(length, self.line.len()));
        self.output.add(&text);
        Some(text)
    }

    /// Waits, after the end, until the log takes the number of the lines that
    /// were left out. Nothing else waits for that.
    pub(crate) fn finish(mut self) {
        if self.output.limit.report_due().is_some() {
            let count = self.output.limit.report(Instant::now());
            self.output.log.add_late(self.output.line(LogLevel::Warn, left_out(count)));
        }
    }

    /// Tells of lines left out when that is due, also if no other line comes.
    fn report_in_time(&mut self) {
        while let Some(due) = self.output.limit.report_due() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.output.report(|_| true);
            } else if !self.reader.buffer().is_empty() {
                return;
            } else {
                let mut fds = [PollFd::new(self.reader.get_ref(), PollFlags::IN)];
                let timeout = Timespec::try_from(left).ok();
                match poll(&mut fds, timeout.as_ref()) {
                    Ok(0) | Err(Errno::INTR) => {}
                    _ => return,
                }
            }
        }
    }
}

/// Returns what is said of a line of this length of which less was kept; that of
/// a blank one is 1.
fn cut_note(length: usize, kept: usize) -> Option<String> {
    (length > kept.max(1)).then(|| format!("… ({} bytes)", with_commas(length as u64)))
}

fn left_out(count: u64) -> String {
    format!("{} {} left out", with_commas(count), if count == 1 { "line" } else { "lines" })
}

/// Reads a line to its end, without the line feed, and keeps at most
/// [`MAX_LINE`] bytes of it. Returns its length, with the line feed if only that
/// is there; 0 at the end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let mut total = 0;
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok(total);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(available.len());
        let keep = length.min(MAX_LINE.saturating_sub(line.len()));
        line.extend_from_slice(&available[..keep]);
        reader.consume(length + usize::from(end.is_some()));
        total += length;
        if end.is_some() {
            return Ok(total.max(1));
        }
    }
}

/// Removes the sequences that set colours.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        let is_parameter = |character: char| character.is_ascii_digit() || character == ';' || character == ':';
        let end = after.trim_start_matches(is_parameter);
        plain.push_str(before);
        match end.strip_prefix('m') {
            Some(end) => rest = end,
            None => {
                plain.push_str("\x1b[");
                rest = after;
            }
        }
    }
    plain + rest
}

/// Returns a number with a comma between thousands.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<(usize, usize)> {
        let (mut reader, mut line, mut found) = (BufReader::with_capacity(7, input), Vec::new(), Vec::new());
        loop {
            line.clear();
            match read_line(&mut reader, &mut line).unwrap() {
                0 => return found,
                length => found.push((length, line.len())),
            }
        }
    }

    #[test]
    fn a_line_is_cut_and_its_length_is_known() {
        let long = [&[b'x'; 3 * MAX_LINE][..], b"\nshort\n\nlast"].concat();
        assert_eq!(lines(&long), [(3 * MAX_LINE, MAX_LINE), (5, 5), (1, 0), (4, 4)]);
        let fits = [&[b'x'; MAX_LINE][..], b"\n"].concat();
        assert_eq!(lines(&fits), [(MAX_LINE, MAX_LINE)]);
    }

    #[test]
    fn a_line_that_was_cut_says_how_long_it_was() {
        let cut = |length| cut_note(length, MAX_LINE.min(length));
        assert_eq!([0, 1, MAX_LINE].map(cut), [None, None, None]);
        assert_eq!(cut_note(1, 0), None, "a blank line is whole");
        assert_eq!(cut(5000).as_deref(), Some("… (5,000 bytes)"));
    }

    #[test]
    fn colours_go_and_nothing_else_does() {
        assert_eq!(without_colours("\x1b[1;31mERROR\x1b[0m x\x1b[2J\x1b["), "ERROR x\x1b[2J\x1b[");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(with_commas), ["0", "999", "1,000", "1,234,567"]);
    }
}
