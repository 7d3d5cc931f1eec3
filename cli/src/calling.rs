//! Calling a function once for each line of stdin, on one and the same
//! instance, or on several if it is declared parallel: answers go to stdout, in
//! order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ekuiper_core::Chain;
use ekuiper_host::{ErrorDelivery, FunctionPool, PooledCall};

use crate::commands::long_integer;
use crate::console;
use crate::error::{Error, Result, excerpt};
use crate::json_text::JsonText;
use crate::lines::{Lines, Next};
use crate::output::{self, Reader};
use crate::progress::{Progress, grouped, rate};
use crate::row_arguments::RowArguments;
use crate::rows::Rows;
use crate::session::Session;

/// Maximum number of calls that are made before the first one is answered, and
/// of their lines' bytes, so that little is held in memory.
const WINDOW: usize = 64;
const WINDOW_BYTES: usize = 1 << 20;

/// A function that is called for each line of stdin.
pub(crate) struct Calling<'s> {
    session: &'s Session,
    function: FunctionPool,
    lines: Lines<'s>,
    /// Rows whose outcome was not told yet, in order.
    window: VecDeque<Row>,
    /// Length of their lines.
    bytes: usize,
    /// A row that has to wait until the window is empty.
    held: Option<Row>,
    /// Number of arguments that the function has accepted.
    accepted: Option<usize>,
    /// The plugin has failed to answer: no further calls are made until the
    /// window is empty, so that they remain in order.
    is_disturbed: bool,
    rows: Rows,
    has_no_reader: Arc<AtomicBool>,
}

/// A line of stdin.
struct Row {
    line: u64,
    content: Result<RowArguments>,
    /// `None` until the call is made.
    call: Option<PooledCall<JsonText>>,
}

impl<'s> Calling<'s> {
    pub(crate) fn new(session: &'s Session, function: FunctionPool) -> Result<Self> {
        // One call in a message: an answer is shown as soon as it is there, and
        // a crash costs the one row that was executed.
        let options = function.options().batch_rows(1);
        let function = function.with_options(options);
        let (stopper, has_no_reader) = (function.stopper(), Arc::<AtomicBool>::default());
        let gone = has_no_reader.clone();
        output::when_the_reader_has_gone(move || {
            gone.store(true, Ordering::SeqCst);
            stopper.stop();
        })?;
        let lines = Lines::of_stdin(&session.interrupt)?.end_with_the_reader_of_stdout();
        let (window, rows) = Default::default();
        Ok(Self {
            session,
            function,
            lines,
            window,
            bytes: 0,
            held: None,
            accepted: None,
            is_disturbed: false,
            rows,
            has_no_reader,
        })
    }

    /// Calls the function for all lines; returns what became of them so far,
    /// and the outcome.
    pub(crate) fn run(mut self, progress: Option<Progress>) -> (Rows, Result<()>) {
        let outcome = self.call_all(progress);
        (self.rows, outcome)
    }

    fn call_all(&mut self, mut progress: Option<Progress>) -> Result<()> {
        loop {
            self.fill()?;
            let Some(row) = self.window.pop_front() else { return Ok(()) };
            self.bytes -= row.length();
            if self.settle(row)? == Reader::HasGone || self.is_over() {
                return Ok(());
            }
            if let Some(progress) = &mut progress {
                let Rows { failed, .. } = self.rows;
                let all = self.rows.all();
                progress.update(|elapsed| {
                    let rate = grouped(rate(all, elapsed));
                    format!("called {}, failed {}, {rate}/s", grouped(all), grouped(failed))
                });
            }
        }
    }

    /// Returns whether no more answers are wanted.
    fn is_over(&self) -> bool {
        self.session.interrupt.is_set() || self.has_no_reader.load(Ordering::SeqCst)
    }

    /// Makes the calls of the lines that have arrived, as far as the window
    /// has room; waits for a line only if there is no call to wait for.
    fn fill(&mut self) -> Result<()> {
        if self.window.is_empty() {
            self.is_disturbed = false;
        } else if self.is_disturbed {
            return Ok(());
        }
        while self.window.len() < WINDOW && self.bytes < WINDOW_BYTES && !self.is_over() {
            let Some(row) = self.next_row()? else { break };
            let count = row.content.as_ref().ok().map(RowArguments::len);
            if count.is_some() && count != self.accepted && !self.window.is_empty() {
                self.held = Some(row);
                break;
            }
            self.add(row);
        }
        Ok(())
    }

    fn next_row(&mut self) -> Result<Option<Row>> {
        if let Some(row) = self.held.take() {
            return Ok(Some(row));
        }
        let next = match self.window.is_empty() {
            true => self.lines.next().map(|line| line.map_or(Next::End, Next::Line)),
            false => self.lines.next_ready(),
        };
        let content = match next {
            Ok(Next::Line(text)) => Ok(text.to_owned()),
            Ok(Next::NotYet | Next::End) => return Ok(None),
            // The next line may be right.
            Err(error @ (Error::Line { .. } | Error::LongLine { .. })) => Err(error),
            Err(error) => return Err(error),
        };
        let line = self.lines.number();
        let content = content.and_then(|text| match long_integer(&text) {
            None => Ok(RowArguments::of_line(text)),
            Some(number) => {
                let what = format!("line {line} of stdin");
                Err(Error::LongInteger { what, number: excerpt(number.as_bytes(), 0) })
            }
        });
        Ok(Some(Row { line, content, call: None }))
    }

    /// Makes a row's call, and adds it to the window.
    fn add(&mut self, mut row: Row) {
        if let Ok(arguments) = &row.content {
            match self.accept(arguments).and_then(|()| Ok(self.function.call_async(arguments)?)) {
                Ok(call) => row.call = Some(call),
                Err(error) => row.content = Err(error),
            }
        }
        self.bytes += row.length();
        self.window.push_back(row);
    }

    /// Asks the function whether it takes so many arguments, unless it has just
    /// taken as many.
    fn accept(&mut self, arguments: &RowArguments) -> Result<()> {
        let count = arguments.len();
        while self.accepted != Some(count) {
            match self.function.validate(arguments) {
                Ok(()) => self.accepted = Some(count),
                Err(ekuiper_host::Error::Away { .. }) if !self.is_over() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for a row's outcome, and tells it.
    ///
    /// # Errors
    /// The host has given up the plugin; stdout cannot be written.
    fn settle(&mut self, row: Row) -> Result<Reader> {
        let Row { line, content, call } = row;
        let outcome = match (content, call) {
            (Ok(arguments), Some(call)) => match call.wait() {
                Err(away @ ekuiper_host::Error::Away { .. }) if !self.is_over() => {
                    return self.call_again(line, arguments, away.into());
                }
                outcome => outcome.map_err(Error::from),
            },
            (Ok(_), None) => unreachable!("a row without a call has an error"),
            (Err(error), _) => Err(error),
        };
        self.tell(line, outcome)
    }

    fn tell(&mut self, line: u64, outcome: Result<JsonText>) -> Result<Reader> {
        let error = match outcome {
            Ok(result) => {
                self.rows.delivered += 1;
                return output::line(result);
            }
            Err(error) => error,
        };
        let is_unknown = matches!(&error, Error::Host(error) if error.delivery() == ErrorDelivery::Unknown);
        if self.is_over() {
            // Nobody asks for it, or the signal is the cause. The other calls
            // of the window were not sent.
            self.rows.unknown += u64::from(is_unknown && self.session.interrupt.is_set());
            return Ok(Reader::Reads);
        }
        if error.is_final() {
            return Err(Error::Uncalled { line, source: Box::new(error) });
        }
        if is_unknown {
            self.is_disturbed = true;
            self.rows.unknown += 1;
        } else {
            self.rows.failed += 1;
        }
        match error {
            Error::Line { .. } | Error::LongLine { .. } | Error::LongInteger { .. } => console::tell(Chain(&error)),
            _ => console::tell(format_args!("line {line}: {}", Chain(&error))),
        }
        Ok(Reader::Reads)
    }

    /// Calls a row that was not sent again, and those behind it, in order: the
    /// plugin is still being restarted.
    fn call_again(&mut self, line: u64, arguments: RowArguments, away: Error) -> Result<Reader> {
        (self.is_disturbed, self.bytes) = (true, 0);
        let mut again = vec![(line, arguments, away)];
        for row in std::mem::take(&mut self.window) {
            let outcome = match (row.content, row.call) {
                (Ok(arguments), Some(call)) => match call.wait() {
                    Err(away @ ekuiper_host::Error::Away { .. }) if !self.is_over() => {
                        again.push((row.line, arguments, away.into()));
                        continue;
                    }
                    outcome => outcome.map_err(Error::from),
                },
                (Ok(_), None) => unreachable!("a row without a call has an error"),
                (Err(error), _) => Err(error),
            };
            // Calls are made in order, so those before it are not made any more.
            for (line, _, away) in again.drain(..) {
                self.tell(line, Err(away))?;
            }
            if self.tell(row.line, outcome)? == Reader::HasGone {
                return Ok(Reader::HasGone);
            }
        }
        for (line, arguments, _) in again {
            self.add(Row { line, content: Ok(arguments), call: None });
        }
        Ok(Reader::Reads)
    }
}

impl Row {
    fn length(&self) -> usize {
        self.content.as_ref().map_or(0, RowArguments::length)
    }
}
