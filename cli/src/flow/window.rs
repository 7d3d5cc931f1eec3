//! The open window: the values that aggregates will get. Rows themselves are
//! not kept. It has no clock: it is given the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::plan::{Argument, END, ROWS, START, WindowPlan};
use crate::pipeline::Window;

/// Reads the clock: milliseconds since 1970, UTC, which never go back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    at: u64,
}

impl Clock {
    pub(super) fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), at: milliseconds(since) }
    }

    pub(super) fn now(&self) -> u64 {
        self.at.saturating_add(milliseconds(self.started.elapsed()))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A window that is filled.
#[derive(Debug)]
pub(super) struct OpenWindow {
    kind: Window,
    rows: u64,
    /// When the first row came, and the last.
    first: u64,
    last: u64,
    /// The values of each column, as JSON text, with commas.
    columns: Vec<String>,
    /// Length of the longest constant that aggregates get once for each row.
    constant: usize,
}

/// A window that is closed.
#[derive(Debug, PartialEq)]
pub(super) struct ClosedWindow {
    pub(super) rows: u64,
    start: u64,
    end: u64,
    /// A list for each column.
    columns: Vec<String>,
}

/// The window has no room for a row.
#[derive(Debug, PartialEq)]
pub(super) struct NoRoom;

impl OpenWindow {
    pub(super) fn new(kind: Window, plan: &WindowPlan) -> Self {
        let constants = plan.steps.iter().flat_map(|step| &step.args).map(|argument| match argument {
            Argument::ConstantList(text) => text.len(),
            _ => 0,
        });
        let (columns, constant) = (vec![String::new(); plan.columns.len()], constants.max().unwrap_or(0));
        Self { kind, rows: 0, first: 0, last: 0, columns, constant }
    }

    /// Returns the time that is left until the window is over.
    pub(super) fn left(&self, now: u64) -> Option<Duration> {
        let over = self.over()?;
        (self.rows > 0).then(|| Duration::from_millis(over.saturating_sub(now)))
    }

    /// Returns when the window is over, if it has a time: windows begin at
    /// multiples of it since 1970, as eKuiper's.
    fn over(&self) -> Option<u64> {
        match self.kind {
            Window::Count(_) => None,
            Window::Time(time) => Some(self.start(time).saturating_add(milliseconds(time))),
        }
    }

    fn start(&self, time: Duration) -> u64 {
        self.first - self.first % milliseconds(time).max(1)
    }

    /// Closes the window if its time is over.
    pub(super) fn close_if_over(&mut self, now: u64) -> Option<ClosedWindow> {
        if self.over().is_some_and(|over| now >= over) { self.close() } else { None }
    }

    /// Adds a row, as its values in each column; closes the window if that was
    /// its last row.
    ///
    /// # Errors
    /// An argument would be longer than `longest`, in bytes. The row is not
    /// added.
    pub(super) fn add(&mut self, now: u64, values: &[&str], longest: usize) -> Result<Option<ClosedWindow>, NoRoom> {
        let has_room = |(column, value): (&String, &&str)| column.len() + value.len() + 2 <= longest;
        let constants = (self.rows + 1).saturating_mul(self.constant as u64 + 1);
        if !self.columns.iter().zip(values).all(has_room) || constants >= longest as u64 {
            return Err(NoRoom);
        }
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(if self.rows == 0 { '[' } else { ',' });
            column.push_str(value);
        }
        if self.rows == 0 {
            self.first = now;
        }
        self.last = now;
        self.rows += 1;
        Ok(if self.kind == Window::Count(self.rows) { self.close() } else { None })
    }

    /// Closes the window, unless it is empty.
    pub(super) fn close(&mut self) -> Option<ClosedWindow> {
        if self.rows == 0 {
            return None;
        }
        let (start, end) = match (self.kind, self.over()) {
            (Window::Time(time), Some(over)) => (self.start(time), over),
            _ => (self.first, self.last),
        };
        let columns = self.columns.iter_mut().map(|column| std::mem::take(column) + "]").collect();
        Some(ClosedWindow { rows: std::mem::take(&mut self.rows), start, end, columns })
    }
}

impl ClosedWindow {
    /// Returns the row of the window, without results.
    pub(super) fn row(&self) -> String {
        let Self { rows, start, end, .. } = self;
        format!("{{\"{ROWS}\":{rows},\"{START}\":{start},\"{END}\":{end}}}")
    }

    /// Returns the list of a column's values.
    pub(super) fn column(&self, column: usize) -> &str {
        &self.columns[column]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 1 << 20;

    fn open(kind: Window, columns: usize) -> OpenWindow {
        OpenWindow::new(kind, &WindowPlan { columns: (0..columns).collect(), ..WindowPlan::default() })
    }

    #[test]
    fn a_count_closes_a_window() {
        let mut window = open(Window::Count(2), 2);
        assert_eq!(window.close(), None);
        assert_eq!(window.add(10, &["1.0", "\"a\""], LONGEST), Ok(None));
        assert_eq!((window.rows, window.left(99), window.close_if_over(u64::MAX)), (1, None, None));
        let closed = window.add(12, &["2", "null"], LONGEST).unwrap().unwrap();
        assert_eq!(closed.row(), r#"{"rows":2,"start":10,"end":12}"#);
        assert_eq!([closed.column(0), closed.column(1)], ["[1.0,2]", "[\"a\",null]"]);
        assert_eq!(window.add(20, &["3", "4"], LONGEST), Ok(None));
        let closed = window.close().unwrap();
        assert_eq!((closed.row().as_str(), closed.column(0)), (r#"{"rows":1,"start":20,"end":20}"#, "[3]"));
        assert_eq!((window.rows, window.close()), (0, None));
    }

    #[test]
    fn a_time_closes_a_window_and_an_empty_one_is_none() {
        let mut window = open(Window::Time(Duration::from_millis(100)), 1);
        assert_eq!((window.close_if_over(u64::MAX), window.left(5)), (None, None));
        assert_eq!(window.add(1250, &["1"], LONGEST), Ok(None));
        assert_eq!(window.left(1260), Some(Duration::from_millis(40)));
        assert_eq!((window.close_if_over(1299), window.add(1299, &["2"], LONGEST)), (None, Ok(None)));
        let closed = window.close_if_over(1300).unwrap();
        assert_eq!((closed.row().as_str(), closed.column(0)), (r#"{"rows":2,"start":1200,"end":1300}"#, "[1,2]"));
        // Some windows later.
        assert_eq!((window.close_if_over(1900), window.add(1900, &["3"], LONGEST)), (None, Ok(None)));
        assert_eq!(window.close().unwrap().row(), r#"{"rows":1,"start":1900,"end":2000}"#);
        // Times beyond the clock's.
        let mut window = open(Window::Time(Duration::from_millis(u64::MAX)), 0);
        assert_eq!((window.add(7, &[], LONGEST), window.close_if_over(u64::MAX - 1)), (Ok(None), None));
        assert_eq!(window.close().unwrap().row(), format!(r#"{{"rows":1,"start":0,"end":{}}}"#, u64::MAX));
    }

    #[test]
    fn a_window_that_is_full_takes_no_row() {
        let mut window = open(Window::Count(9), 1);
        assert_eq!(window.add(1, &["12345"], 11), Ok(None));
        assert_eq!((window.add(1, &["678"], 11), window.rows), (Ok(None), 1 + 1));
        assert_eq!((window.add(1, &["9"], 11), window.rows), (Err(NoRoom), 2));
        assert_eq!(window.close().unwrap().column(0), "[12345,678]");
        // Constants that are repeated.
        let mut window = OpenWindow { constant: 4, ..open(Window::Count(9), 0) };
        let added: Vec<bool> = (0..3).map(|_| window.add(1, &[], 11).is_ok()).collect();
        assert_eq!(added, [true, true, false]);
    }
}
