//! JSON lines from stdin: bounded in memory, with waits that a signal ends.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result, column, excerpt};
use crate::interrupt::Interrupt;

/// Returns the maximum length of a line, in bytes: that of a message.
fn longest() -> usize {
    ekuiper_core::transport::Options::default().max_message
}

/// Size of one read, in bytes.
const PIECE: usize = 64 << 10;

/// Reader of the lines of stdin.
pub(crate) struct Lines<'i> {
    /// Unbuffered by `std`, whose buffer `poll` does not see.
    stdin: BufReader<File>,
    interrupt: &'i Interrupt,
    line: Vec<u8>,
    /// Number of the current line, from 1.
    number: u64,
}

impl<'i> Lines<'i> {
    /// # Errors
    /// No more file descriptors are available.
    pub(crate) fn of_stdin(interrupt: &'i Interrupt) -> Result<Self> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::Stdin)?;
        let stdin = BufReader::with_capacity(PIECE, File::from(stdin));
        Ok(Self { stdin, interrupt, line: Vec::new(), number: 0 })
    }

    /// Returns the number of the line that was read last, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the next non-empty line, unchanged except for a byte order mark
    /// and checked to be JSON; `None` at the end and after a signal.
    ///
    /// # Errors
    /// The line cannot be read, is too long, or is not UTF-8 or JSON.
    pub(crate) fn next(&mut self) -> Result<Option<&str>> {
        while self.read()? {
            self.number += 1;
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
            }
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            if !is_empty(&self.line) {
                return checked(&self.line, self.number).map(Some);
            }
        }
        Ok(None)
    }

    /// Reads a line with its line ending; returns whether there is one.
    fn read(&mut self) -> Result<bool> {
        self.line.clear();
        let longest = longest();
        loop {
            if self.stdin.buffer().is_empty() && !self.await_input()? {
                return Ok(false);
            }
            let available = match self.stdin.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Stdin(error)),
            };
            if available.is_empty() {
                return Ok(!self.line.is_empty());
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(available.len(), |end| end + 1);
            if self.line.len() + used > longest {
                let text = excerpt(&self.line, 0);
                return Err(Error::LongLine { line: self.number + 1, longest, text });
            }
            self.line.extend_from_slice(&available[..used]);
            self.stdin.consume(used);
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    /// Waits for input or its end; returns false after a signal.
    fn await_input(&self) -> Result<bool> {
        loop {
            let stdin = PollFd::new(self.stdin.get_ref(), PollFlags::IN);
            let mut both = [stdin, PollFd::from_borrowed_fd(self.interrupt.fd(), PollFlags::IN)];
            match poll(&mut both, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::Stdin(error.into())),
                Ok(_) if self.interrupt.is_set() => return Ok(false),
                Ok(_) if !both[0].revents().is_empty() => return Ok(true),
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
    let text = ekuiper_core::text::decode(line).map_err(|error| match error {
        ekuiper_core::text::TextError::Invalid { byte, column, .. } => {
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
