//! Repeated errors, reported with a count.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ekuiper_core::Chain;

use crate::console;
use crate::error::{Error, Result};

/// Minimum time between two reports of the same error.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of lines in a burst, after which there is one line per
/// [`INTERVAL`].
const BURST: u32 = 10;

/// Maximum number of errors that are told apart.
const KINDS: usize = 16;

/// Errors that concern one record each: they are reported folded, and too many
/// consecutive ones are fatal.
#[derive(Debug)]
pub(crate) struct RecordErrors {
    folded: Folded,
    in_a_row: u64,
    /// Maximum number of consecutive errors; 0 disables the limit.
    limit: u64,
}

impl RecordErrors {
    pub(crate) fn new(limit: u64) -> Self {
        Self { folded: Folded::new(Instant::now()), in_a_row: 0, limit }
    }

    /// Adds an error.
    ///
    /// # Errors
    /// The limit of consecutive errors is reached.
    pub(crate) fn add(&mut self, error: &Error) -> Result<()> {
        self.add_text("", Chain(error).to_string())
    }

    /// Adds an error of a line of stdin. Errors of different lines are the same
    /// error if their texts are equal.
    ///
    /// # Errors
    /// As [`RecordErrors::add`].
    pub(crate) fn add_at(&mut self, line: u64, error: &Error) -> Result<()> {
        self.add_text(&format!("line {line}: "), Chain(error).to_string())
    }

    fn add_text(&mut self, place: &str, text: String) -> Result<()> {
        self.in_a_row += 1;
        tell(self.folded.add(Instant::now(), place, &text));
        if self.limit > 0 && self.in_a_row >= self.limit {
            tell(self.folded.rest());
            return Err(Error::TooManyErrors { count: self.in_a_row, last: text });
        }
        Ok(())
    }

    /// Resets the consecutive errors, after a record that succeeded.
    pub(crate) fn reset(&mut self) {
        self.in_a_row = 0;
    }

    /// Returns the number of errors since the last record.
    pub(crate) fn in_a_row(&self) -> u64 {
        self.in_a_row
    }

    /// Reports what is due, and returns when to call again.
    pub(crate) fn tell_due(&mut self) -> Option<Duration> {
        tell(self.folded.due(Instant::now()));
        self.folded.is_pending().then_some(INTERVAL)
    }
}

impl Drop for RecordErrors {
    fn drop(&mut self) {
        tell(self.folded.rest());
    }
}

fn tell(lines: impl IntoIterator<Item = String>) {
    lines.into_iter().for_each(console::tell);
}

/// Decides which lines are written, and when. The time is passed in.
#[derive(Debug)]
struct Folded {
    /// Number of lines that may be written now.
    lines: u32,
    counted: Instant,
    kinds: VecDeque<Kind>,
    /// Number of errors for which no line was left.
    others: u64,
    last_other: String,
}

/// An error that was reported.
#[derive(Debug)]
struct Kind {
    /// Place of the latest occurrence.
    place: String,
    text: String,
    told: Instant,
    /// Number of occurrences since the last report.
    again: u64,
}

impl Kind {
    /// Returns a line for the latest occurrence, with the number of those that
    /// were not reported before it.
    fn line(&mut self) -> String {
        match std::mem::take(&mut self.again) {
            0 | 1 => self.whole(),
            again => format!("{} ({} more like this)", self.whole(), again - 1),
        }
    }

    fn whole(&self) -> String {
        format!("{}{}", self.place, self.text)
    }
}

impl Folded {
    fn new(now: Instant) -> Self {
        Self { lines: BURST, counted: now, kinds: VecDeque::new(), others: 0, last_other: String::new() }
    }

    /// Adds an error. Its `place` is reported, but does not distinguish errors.
    fn add(&mut self, now: Instant, place: &str, text: &str) -> Vec<String> {
        let mut due = self.due(now);
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.text == text) {
            kind.again += 1;
            place.clone_into(&mut kind.place);
        } else if self.lines == 0 {
            self.others += 1;
            self.last_other = format!("{place}{text}");
        } else {
            self.lines -= 1;
            if self.kinds.len() == KINDS {
                due.extend(self.kinds.pop_front().filter(|kind| kind.again > 0).map(|mut kind| kind.line()));
            }
            self.kinds.push_back(Kind { place: place.to_owned(), text: text.to_owned(), told: now, again: 0 });
            due.push(format!("{place}{text}"));
        }
        due
    }

    fn due(&mut self, now: Instant) -> Vec<String> {
        while self.lines < BURST && now.duration_since(self.counted) >= INTERVAL {
            self.lines += 1;
            self.counted += INTERVAL;
        }
        if self.lines == BURST {
            self.counted = now;
        }
        // An error that has not recurred for a while is reported at once when
        // it does.
        self.kinds.retain(|kind| kind.again > 0 || now.duration_since(kind.told) < INTERVAL);
        let mut lines = Vec::new();
        for kind in &mut self.kinds {
            if self.lines > 0 && kind.again > 0 && now.duration_since(kind.told) >= INTERVAL {
                self.lines -= 1;
                kind.told = now;
                lines.push(kind.line());
            }
        }
        if self.lines > 0 && self.others > 0 {
            self.lines -= 1;
            lines.push(self.others_line());
        }
        lines
    }

    fn others_line(&mut self) -> String {
        let (others, last) = (std::mem::take(&mut self.others), std::mem::take(&mut self.last_other));
        if others == 1 { last } else { format!("{others} other errors, the last one: {last}") }
    }

    fn is_pending(&self) -> bool {
        self.others > 0 || self.kinds.iter().any(|kind| kind.again > 0)
    }

    /// Returns everything not yet reported, in one line.
    fn rest(&mut self) -> Option<String> {
        let untold: Vec<usize> = (0..self.kinds.len()).filter(|at| self.kinds[*at].again > 0).collect();
        match untold[..] {
            [] if self.others == 0 => None,
            [] => Some(self.others_line()),
            [only] if self.others == 0 => Some(self.kinds[only].line()),
            _ => {
                let last = self.kinds.iter().rfind(|kind| kind.again > 0).map(Kind::whole).unwrap_or_default();
                if self.others == 0 {
                    self.last_other = last;
                }
                self.others += self.kinds.iter_mut().map(|kind| std::mem::take(&mut kind.again)).sum::<u64>();
                Some(self.others_line())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_micros(10);

    #[test]
    fn one_error_without_end_is_a_line_a_second_with_a_count() {
        let start = Instant::now();
        let mut folded = Folded::new(start);
        let mut lines = Vec::new();
        for count in 0..350_000 {
            lines.extend(folded.add(start + MOMENT * count, "", "null"));
        }
        lines.extend(folded.rest());
        let times = [
            "",
            " (99998 more like this)",
            " (99999 more like this)",
            " (99999 more like this)",
            " (49999 more like this)",
        ];
        assert_eq!(lines, times.map(|times| format!("null{times}")));
        assert!(folded.rest().is_none() && !folded.is_pending());
    }

    #[test]
    fn different_errors_without_end_are_a_line_a_second_too() {
        let start = Instant::now();
        let mut folded = Folded::new(start);
        let mut told = Vec::new();
        for count in 0..350_000 {
            told.extend(folded.add(start + MOMENT * count, "", &format!("row {count}")));
        }
        assert_eq!(told[..2], ["row 0", "row 1"]);
        assert!(told.len() <= 13, "{told:?}");
        told.extend(folded.rest());
        assert!(told.last().is_some_and(|last| last.ends_with("the last one: row 349999")), "{told:?}");
        // Each was counted.
        let counted: u64 = told
            .iter()
            .map(|line| line.split_once(" other errors").map_or(1, |(count, _)| count.parse::<u64>().unwrap()))
            .sum();
        assert_eq!(counted, 350_000);
    }

    #[test]
    fn a_few_errors_are_told_one_by_one() {
        let start = Instant::now();
        let mut folded = Folded::new(start);
        for number in 0..5 {
            assert_eq!(folded.add(start, "", &number.to_string()), [number.to_string()]);
        }
        // Later the same is told again at once.
        assert_eq!(folded.add(start + INTERVAL * 3, "", "0"), ["0"]);
        assert!(folded.add(start + INTERVAL * 3, "", "0").is_empty());
        assert!(folded.due(start + INTERVAL * 3).is_empty());
        assert_eq!(folded.due(start + INTERVAL * 4), ["0"]);
    }

    #[test]
    fn the_place_makes_no_other_error_and_the_rest_is_one_line() {
        let start = Instant::now();
        let mut folded = Folded::new(start);
        assert_eq!(folded.add(start, "line 1: ", "full"), ["line 1: full"]);
        assert!(folded.add(start, "line 2: ", "full").is_empty());
        assert_eq!(folded.rest().as_deref(), Some("line 2: full"));
        for number in 0..30 {
            folded.add(start, "", &number.to_string());
            folded.add(start, "", &number.to_string());
        }
        // 9 were told, each came again, and 21 came twice.
        assert_eq!(folded.rest().as_deref(), Some("51 other errors, the last one: 29"));
        assert!(!folded.is_pending() && folded.rest().is_none());
    }
}
