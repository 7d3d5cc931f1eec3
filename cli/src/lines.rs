//! JSON lines from stdin: bounded in memory, with waits that a signal ends.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;

use ekuiper_core::text::{self, TextError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result, column, excerpt};
use crate::interrupt::Interrupt;

/// Returns the maximum length of a line, in bytes: that of a message.
pub(crate) fn longest() -> usize {
    ekuiper_core::transport::Options::default().max_message
}

/// Size of one read, in bytes.
const PIECE: usize = 64 << 10;

/// Maximum length of a line's end, which does not count: `\r\n`.
const END: usize = 2;

/// Maximum length of the beginning of a line that is shown, in bytes.
const SHOWN: usize = 60;

/// What stdin gives next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<L> {
    /// A non-empty line, unchanged except for a byte order mark and checked to
    /// be JSON.
    Line(L),
    /// No whole line has arrived yet.
    NotYet,
    /// The end, or a signal, or the reader of stdout has gone.
    End,
}

/// Reader of the lines of stdin.
pub(crate) struct Lines<'i> {
    /// Unbuffered by `std`, whose buffer `poll` does not see.
    stdin: BufReader<File>,
    interrupt: &'i Interrupt,
    ends_with_stdout: bool,
    /// The current line, as far as it has arrived.
    line: Vec<u8>,
    arrived: Arrived,
    /// Number of the current line, from 1.
    number: u64,
}

/// How much of the current line has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrived {
    Part,
    Whole,
    /// A part of a line that is too long, whose rest is skipped.
    TooMuch,
}

/// The outcome of a wait for input.
enum Input {
    /// There is input, or its end.
    Ready,
    NotYet,
    /// No more is wanted.
    Unwanted,
}

impl<'i> Lines<'i> {
    /// # Errors
    /// No more file descriptors are available.
    pub(crate) fn of_stdin(interrupt: &'i Interrupt) -> Result<Self> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::Stdin)?;
        let stdin = BufReader::with_capacity(PIECE, File::from(stdin));
        let (line, arrived) = (Vec::new(), Arrived::Whole);
        Ok(Self { stdin, interrupt, ends_with_stdout: false, line, arrived, number: 0 })
    }

    /// Ends a wait for input when the reader of stdout goes away, too.
    pub(crate) fn end_with_the_reader_of_stdout(mut self) -> Self {
        self.ends_with_stdout = true;
        self
    }

    /// Returns the number of the line that was read last, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the next non-empty line, waiting for it.
    ///
    /// # Errors
    /// The line cannot be read, is too long, or is not UTF-8 or JSON. The next
    /// call returns the line after it.
    pub(crate) fn next(&mut self) -> Result<Option<&str>> {
        match self.advance(true)? {
            Next::Line(line) => Ok(Some(line)),
            Next::NotYet | Next::End => Ok(None),
        }
    }

    /// Returns the next non-empty line if it has arrived.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(crate) fn next_ready(&mut self) -> Result<Next<&str>> {
        self.advance(false)
    }

    fn advance(&mut self, waits: bool) -> Result<Next<&str>> {
        loop {
            match self.read(waits)? {
                Next::Line(()) => {}
                Next::NotYet => return Ok(Next::NotYet),
                Next::End => return Ok(Next::End),
            }
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
            }
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            if self.line.len() > longest() {
                return Err(self.too_long());
            }
            if !is_empty(&self.line) {
                return checked(&self.line, self.number).map(Next::Line);
            }
        }
    }

    /// Reads a line with its line ending, as far as it has arrived.
    fn read(&mut self, waits: bool) -> Result<Next<()>> {
        if self.arrived == Arrived::Whole {
            self.line.clear();
            self.arrived = Arrived::Part;
        }
        let longest = longest();
        loop {
            if self.stdin.buffer().is_empty() {
                match self.await_input(waits)? {
                    Input::Ready => {}
                    Input::NotYet => return Ok(Next::NotYet),
                    Input::Unwanted => return Ok(Next::End),
                }
            }
            let available = match self.stdin.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Stdin(error)),
            };
            if available.is_empty() {
                if self.line.is_empty() {
                    return Ok(Next::End);
                }
                return Ok(self.complete());
            }
            let end = memchr::memchr(b'\n', available);
            let used = end.map_or(available.len(), |end| end + 1);
            let is_too_much = self.arrived == Arrived::TooMuch;
            if !is_too_much && self.line.len() + used <= longest + END {
                self.line.extend_from_slice(&available[..used]);
                self.stdin.consume(used);
                if end.is_some() {
                    return Ok(self.complete());
                }
                continue;
            }
            self.stdin.consume(used);
            self.arrived = if end.is_some() { Arrived::Part } else { Arrived::TooMuch };
            if !is_too_much {
                self.number += 1;
                return Err(self.too_long());
            }
        }
    }

    /// The error of the current line, which is not kept.
    fn too_long(&mut self) -> Error {
        let line = std::mem::take(&mut self.line);
        let text = excerpt(&line[..line.len().min(SHOWN)], 0);
        Error::LongLine { line: self.number, longest: longest(), text }
    }

    fn complete(&mut self) -> Next<()> {
        self.arrived = Arrived::Whole;
        self.number += 1;
        Next::Line(())
    }

    /// Waits for input or its end, if it is to wait.
    fn await_input(&self, waits: bool) -> Result<Input> {
        let timeout = if waits { None } else { Some(Timespec { tv_sec: 0, tv_nsec: 0 }) };
        let stdout = std::io::stdout();
        loop {
            // Of stdout no events are requested: errors and the end are
            // reported anyway.
            let mut all = [
                PollFd::new(self.stdin.get_ref(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.interrupt.fd(), PollFlags::IN),
                PollFd::new(&stdout, PollFlags::empty()),
            ];
            let watched = if self.ends_with_stdout { 3 } else { 2 };
            match poll(&mut all[..watched], timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::Stdin(error.into())),
                Ok(_) if self.interrupt.is_set() || !all[2].revents().is_empty() => return Ok(Input::Unwanted),
                Ok(_) if !all[0].revents().is_empty() => return Ok(Input::Ready),
                Ok(_) if !waits => return Ok(Input::NotYet),
                Ok(_) => {}
            }
        }
    }
}

/// Returns whether a line is empty, apart from a byte order mark.
fn is_empty(line: &[u8]) -> bool {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii().is_empty()
}

/// Returns a line's text, without a byte order mark.
fn checked(line: &[u8], number: u64) -> Result<&str> {
    let wrong = |problem: String, at: usize| Error::Line { line: number, problem, text: excerpt(line, at) };
    let decode = if number == 1 { text::decode } else { text::decode_part };
    let text = decode(line).map_err(|error| match error {
        TextError::Invalid { byte, column, .. } => {
            wrong(format!("is not UTF-8: byte 0x{byte:02x} at column {column}"), column)
        }
        error => Error::StdinText(error),
    })?;
    let mut json = serde_json::Deserializer::from_str(text);
    match Checked.deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => Ok(text),
        Err(error) => Err(wrong(format!("is not JSON: {}", column(&error)), error.column())),
    }
}

/// Parses any value as `serde_json::Value` does, and discards it.
#[derive(Clone, Copy)]
struct Checked;

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! visit {
    ($($method:ident($type:ty);)*) => {
        $(fn $method<E: serde::de::Error>(self, _: $type) -> Result<(), E> {
            Ok(())
        })*
    };
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    visit! { visit_bool(bool); visit_i64(i64); visit_u64(u64); visit_f64(f64); visit_str(&str); }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(self)?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}
