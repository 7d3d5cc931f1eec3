//! Many calls in one message, and their results: only between a host and a
//! plugin of this project that have agreed on it.
//!
//! The request is `{"func":"Batch","id":n,"meta":context,"arg":[row,…]}`, each
//! row an array of arguments. The reply repeats the number, and holds the
//! results in the order of the rows and the errors of the rows without a
//! result: `{"id":n,"result":[…],"errors":[[row,"text"],…]}`. If no more fits
//! into the longest message, `"rest":"text"` follows, the error of all further
//! rows, which are not executed. A batch that cannot be decoded as a whole is
//! answered like a call, with an error.

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};

use super::args::{ArgWriter, Args, Arguments};
use super::envelope::{close_array, push_array, push_key, push_map, push_open_array};
use super::function::{EncodedMeta, Outcome, decode_reply};
use crate::codec::{Array, Format, Reader};
use crate::{Error, Result};

/// The end of a batch in JSON.
const END: &[u8] = b"]}";

/// The encoder of a batch, row after row.
#[derive(Debug)]
pub struct BatchWriter {
    format: Format,
    buffer: Vec<u8>,
    /// The position of the number of rows, in MessagePack.
    place: usize,
    /// The position of the first row.
    first: usize,
    rows: u32,
}

impl BatchWriter {
    /// Begins a batch with this number; the content of `buffer` is discarded.
    pub fn new(format: Format, mut buffer: Vec<u8>, id: u64, meta: &EncodedMeta) -> Self {
        buffer.clear();
        let mut place = 0;
        match format {
            Format::Json => {
                buffer.extend_from_slice(b"{\"func\":\"Batch\",\"id\":");
                // Encoding a number cannot fail.
                let _ = format.encode(&mut buffer, &id);
                buffer.extend_from_slice(b",\"meta\":");
                buffer.extend_from_slice(meta.of(format));
                buffer.extend_from_slice(b",\"arg\":[");
            }
            Format::MessagePack => {
                push_map(&mut buffer, 4);
                push_key(&mut buffer, "func");
                push_key(&mut buffer, "Batch");
                push_key(&mut buffer, "id");
                let _ = format.encode(&mut buffer, &id);
                push_key(&mut buffer, "meta");
                buffer.extend_from_slice(meta.of(format));
                push_key(&mut buffer, "arg");
                place = push_open_array(&mut buffer);
            }
        }
        let first = buffer.len();
        Self { format, buffer, place, first, rows: 0 }
    }

    /// Gives the batch another number; `ends` is that of
    /// [`retain`](BatchWriter::retain), and is adapted.
    pub fn renumber(&mut self, id: u64, meta: &EncodedMeta, ends: &mut [usize]) {
        let mut other = Self::new(self.format, Vec::with_capacity(self.buffer.len()), id, meta);
        other.buffer.extend_from_slice(&self.buffer[self.first..]);
        ends.iter_mut().for_each(|end| *end = *end - self.first + other.first);
        *self = Self { rows: self.rows, ..other };
    }

    /// Removes the rows that are not to be kept. `ends` has the
    /// [length](BatchWriter::length) of the batch after each of its rows, also
    /// afterwards: a removed row has no length.
    pub fn retain(&mut self, ends: &mut [usize], mut keep: impl FnMut(usize) -> bool) {
        let (mut start, mut end_kept) = (self.first, self.first);
        self.rows = 0;
        for (row, end) in ends.iter_mut().enumerate() {
            if *end > start && keep(row) {
                // The first row has no comma before it.
                let comma = self.format == Format::Json && self.rows == 0 && start > self.first;
                let from = start + usize::from(comma);
                self.buffer.copy_within(from..*end, end_kept);
                end_kept += *end - from;
                self.rows += 1;
            }
            start = *end;
            *end = end_kept;
        }
        self.buffer.truncate(end_kept);
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Encode`] when an argument cannot be encoded; the batch is then
    /// unchanged.
    #[inline]
    pub fn row(&mut self, args: &(impl Arguments + ?Sized)) -> Result<()> {
        let before = self.buffer.len();
        match self.format {
            Format::Json => self.buffer.extend_from_slice(if self.rows > 0 { b",[" } else { b"[" }),
            Format::MessagePack => push_array(&mut self.buffer, args.count()),
        }
        let written = args.write(&mut ArgWriter::new(self.format, &mut self.buffer));
        if let Err(source) = written {
            self.buffer.truncate(before);
            return Err(Error::Encode { what: "the function's arguments", source });
        }
        if self.format == Format::Json {
            self.buffer.push(b']');
        }
        self.rows += 1;
        Ok(())
    }

    /// Adds a row, unless the message would be longer than `max` bytes: then the
    /// batch is unchanged, and the result is the length that it would have.
    ///
    /// # Errors
    /// As [`row`](BatchWriter::row).
    #[inline]
    pub fn row_within(&mut self, args: &(impl Arguments + ?Sized), max: usize) -> Result<Result<(), usize>> {
        let before = self.buffer.len();
        self.row(args)?;
        let length = self.buffer.len() + END.len();
        if length <= max {
            return Ok(Ok(()));
        }
        self.buffer.truncate(before);
        self.rows -= 1;
        Ok(Err(length))
    }

    /// The number of rows.
    #[inline]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The encoded length so far, in bytes.
    #[inline]
    pub fn length(&self) -> usize {
        self.buffer.len()
    }

    /// Returns the encoded message.
    pub fn finish(mut self) -> Vec<u8> {
        self.lend()
    }

    /// Returns the encoded message, to be [taken back](BatchWriter::take_back)
    /// if it cannot be sent.
    pub fn lend(&mut self) -> Vec<u8> {
        match self.format {
            Format::Json => self.buffer.extend_from_slice(END),
            Format::MessagePack => close_array(&mut self.buffer, self.place, self.rows),
        }
        std::mem::take(&mut self.buffer)
    }

    /// Takes back the message that it has [lent](BatchWriter::lend): rows can
    /// be added and removed again.
    pub fn take_back(&mut self, message: Vec<u8>) {
        self.buffer = message;
        if self.format == Format::Json {
            self.buffer.truncate(self.buffer.len() - END.len());
        }
    }
}

/// The decoder of a batch's rows, one after the other.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    reader: Reader<'a>,
    array: Array,
}

impl<'a> Rows<'a> {
    /// The rows in a batch's arguments.
    ///
    /// # Errors
    /// [`Error::Message`] when the arguments are not an array.
    pub fn new(batch: &Args<'a>) -> Result<Self> {
        let (reader, array) = batch.clone().into_parts();
        Ok(Self { reader, array })
    }

    /// Returns the next row's arguments, which must then be passed to
    /// [`go_on`](Rows::go_on). `None` after the last row.
    ///
    /// # Errors
    /// [`Error::Message`] when the row is not an array: the batch cannot be
    /// read further.
    #[inline]
    pub fn next_row(&mut self) -> Result<Option<Args<'a>>> {
        if !self.reader.has_next(&mut self.array).map_err(wrong)? {
            return Ok(None);
        }
        Args::enter(self.reader.clone()).map(Some).map_err(wrong)
    }

    /// Continues behind the row that was returned last, whether it was read or
    /// not.
    ///
    /// # Errors
    /// [`Error::Message`] when the row is malformed: the batch cannot be read
    /// further.
    #[inline]
    pub fn go_on(&mut self, row: Args<'a>) -> Result<()> {
        match row.behind() {
            Some(reader) => self.reader = reader,
            None => drop(self.reader.raw().map_err(wrong)?),
        }
        Ok(())
    }
}

fn wrong(source: serde_json::Error) -> Error {
    Error::Message { what: "the batch", source }
}

/// The encoder of a batch's reply, row after row.
#[derive(Debug)]
pub struct BatchReply<'b> {
    format: Format,
    buffer: &'b mut Vec<u8>,
    place: usize,
    /// The number of rows with a result. `errors` holds the others.
    results: u32,
    errors: Vec<(u32, String)>,
    /// The error of all further rows.
    rest: Option<String>,
    start: usize,
    /// The maximum length of the reply, and that of the encoded errors.
    limit: usize,
    error_bytes: usize,
}

/// What a reply needs apart from its results and errors, in bytes, with the
/// error of the rows that do not fit.
const FRAME: usize = 192;

/// An upper bound of the encoded length of an error.
fn error_length(text: &str) -> usize {
    let length = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    16 + text.bytes().map(length).sum::<usize>()
}

impl<'b> BatchReply<'b> {
    /// Begins the reply to the batch with this number.
    pub fn new(format: Format, buffer: &'b mut Vec<u8>, id: u64) -> Self {
        let (start, mut place) = (buffer.len(), 0);
        match format {
            Format::Json => {
                buffer.extend_from_slice(b"{\"id\":");
                let _ = format.encode(buffer, &id);
                buffer.extend_from_slice(b",\"result\":[");
            }
            Format::MessagePack => {
                push_map(buffer, 3);
                push_key(buffer, "id");
                let _ = format.encode(buffer, &id);
                push_key(buffer, "result");
                place = push_open_array(buffer);
            }
        }
        let (results, errors, rest, limit, error_bytes) = (0, Vec::new(), None, usize::MAX, 0);
        Self { format, buffer, place, results, errors, rest, start, limit, error_bytes }
    }

    /// Sets the maximum length of the reply, in bytes: results beyond it are
    /// refused.
    #[must_use]
    pub fn within(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// [`FRAME`], or less where a message is very short.
    #[inline]
    fn frame(&self) -> usize {
        FRAME.min(self.limit / 4)
    }

    /// The number of bytes that are left for results and errors.
    #[inline]
    fn left(&self) -> usize {
        let used = self.buffer.len() - self.start + self.error_bytes + self.frame();
        self.limit.saturating_sub(used)
    }

    /// Whether there may be no room for another row's outcome: the row must not
    /// be executed, and [`refuse_rest`](BatchReply::refuse_rest) follows.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.left() < self.frame() && self.rows() > 0
    }

    /// Gives all further rows the error that they were not executed.
    pub fn refuse_rest(&mut self) {
        let limit = self.limit;
        self.rest =
            Some(format!("not executed: with its result the answer to its batch may be longer than {limit} bytes"));
    }

    /// Adds the next row's result.
    ///
    /// # Errors
    /// [`Error::Encode`] when the result cannot be encoded, or the reply would
    /// be too long with it: the row is then still without an outcome.
    #[inline]
    pub fn result(&mut self, result: &(impl Serialize + ?Sized)) -> Result<()> {
        let before = self.buffer.len();
        if self.results > 0 && self.format == Format::Json {
            self.buffer.push(b',');
        }
        if let Err(source) = self.format.encode(self.buffer, result) {
            self.buffer.truncate(before);
            return Err(Error::Encode { what: "the function's result", source });
        }
        let length = self.buffer.len() - self.start + self.error_bytes + self.frame();
        if length > self.limit {
            let (result, limit) = (self.buffer.len() - before, self.limit);
            self.buffer.truncate(before);
            let text = format!("the result of {result} bytes is longer than what is left of the limit of {limit}");
            return Err(Error::Encode { what: "the function's result", source: serde_json::Error::custom(text) });
        }
        self.results += 1;
        Ok(())
    }

    /// Returns the current position, for [`reset`](BatchReply::reset).
    #[inline]
    pub fn mark(&self) -> Mark {
        let (results, error_bytes) = (self.results, self.error_bytes);
        Mark { length: self.buffer.len(), results, errors: self.errors.len(), error_bytes }
    }

    /// Removes everything that was added since the mark.
    pub fn reset(&mut self, mark: Mark) {
        self.buffer.truncate(mark.length);
        self.results = mark.results;
        self.errors.truncate(mark.errors);
        self.error_bytes = mark.error_bytes;
    }

    /// Adds an error as the next row's outcome. What does not fit of its text is
    /// cut off.
    pub fn error(&mut self, mut text: String) {
        while !text.is_empty() && error_length(&text) > self.left().max(self.frame()) {
            let half = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(half.unwrap_or(0));
        }
        self.error_bytes += error_length(&text);
        self.errors.push((self.rows(), text));
    }

    /// The number of rows with a result or an error.
    #[inline]
    pub fn rows(&self) -> u32 {
        self.results + self.errors.len() as u32
    }

    /// Ends the reply.
    pub fn finish(self) {
        let Self { format, buffer, place, results, errors, rest, start, .. } = self;
        match format {
            Format::Json => buffer.extend_from_slice(b"],\"errors\":"),
            Format::MessagePack => {
                close_array(buffer, place, results);
                push_key(buffer, "errors");
            }
        }
        // Encoding numbers and text cannot fail.
        let _ = format.encode(buffer, &errors);
        if let Some(rest) = rest {
            match format {
                Format::Json => buffer.extend_from_slice(b",\"rest\":"),
                Format::MessagePack => {
                    // One entry more than announced.
                    buffer[start] += 1;
                    push_key(buffer, "rest");
                }
            }
            let _ = format.encode(buffer, &rest);
        }
        if format == Format::Json {
            buffer.push(b'}');
        }
    }
}

/// A position in a [`BatchReply`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    length: usize,
    results: u32,
    errors: usize,
    error_bytes: usize,
}

/// Decodes the reply to the batch with this number and this many rows: one
/// outcome per row, in order.
///
/// # Errors
/// [`Error::Message`] when the reply has another form, belongs to another
/// batch, or a result has another type.
pub fn decode_batch_reply<R: DeserializeOwned>(
    format: Format,
    bytes: &[u8],
    id: u64,
    rows: u32,
) -> Result<Outcome<Vec<Outcome<R>>>> {
    read_batch_reply(format, bytes, id, rows, |reader| reader.value())
}

/// Decodes a batch's reply like [`decode_batch_reply`], but leaves the results
/// encoded.
///
/// # Errors
/// [`Error::Message`] when the reply has another form or belongs to another
/// batch.
pub fn split_batch_reply(format: Format, bytes: &[u8], id: u64, rows: u32) -> Result<Outcome<Vec<Outcome<&[u8]>>>> {
    read_batch_reply(format, bytes, id, rows, |reader| reader.raw())
}

fn read_batch_reply<'a, R>(
    format: Format,
    bytes: &'a [u8],
    id: u64,
    rows: u32,
    read: impl FnMut(&mut Reader<'a>) -> Result<R, serde_json::Error>,
) -> Result<Outcome<Vec<Outcome<R>>>> {
    let wrong = |source| Error::Message { what: "the reply to a batch", source };
    if !is_batch_reply(format, bytes) {
        // The batch as a whole failed.
        return match decode_reply::<serde::de::IgnoredAny>(format, bytes)? {
            Err(text) => Ok(Err(text)),
            Ok(_) => Err(wrong(serde_json::Error::custom("it has one result for all rows"))),
        };
    }
    read_reply(format, bytes, id, rows, read).map(Ok).map_err(wrong)
}

fn is_batch_reply(format: Format, bytes: &[u8]) -> bool {
    match format {
        Format::Json => bytes.starts_with(b"{\"id\":"),
        Format::MessagePack => bytes.starts_with(b"\x83\xa2id") || bytes.starts_with(b"\x84\xa2id"),
    }
}

fn read_reply<'a, R>(
    format: Format,
    bytes: &'a [u8],
    id: u64,
    rows: u32,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<R, serde_json::Error>,
) -> Result<Vec<Outcome<R>>, serde_json::Error> {
    let mut reader = Reader::new(format, bytes);
    // The number of entries is known by what follows.
    if !reader.pass(b"\x84\xa2id") {
        expect(&mut reader, b"{\"id\":", b"\x83\xa2id")?;
    }
    let theirs: u64 = reader.value()?;
    if theirs != id {
        return Err(serde_json::Error::custom(format_args!("it belongs to batch {theirs}, not to {id}")));
    }
    expect(&mut reader, b",\"result\":", b"\xa6result")?;
    let mut outcomes = Vec::with_capacity(rows as usize);
    let mut array = reader.array()?;
    while reader.has_next(&mut array)? {
        outcomes.push(Ok(read(&mut reader)?));
        if outcomes.len() > rows as usize {
            return Err(serde_json::Error::custom("it has more results than there were rows"));
        }
    }
    expect(&mut reader, b",\"errors\":", b"\xa6errors")?;
    let mut errors: Vec<(u32, String)> = reader.value()?;
    if reader.pass(if format == Format::Json { &b",\"rest\":"[..] } else { b"\xa4rest" }) {
        let text: String = reader.value()?;
        let first = (outcomes.len() + errors.len()).min(rows as usize) as u32;
        errors.extend((first..rows).map(|row| (row, text.clone())));
    }
    let rest = reader.rest();
    if rest != (if format == Format::Json { &b"}"[..] } else { b"" }) {
        return Err(serde_json::Error::custom("trailing bytes"));
    }
    if outcomes.len() + errors.len() != rows as usize {
        let got = outcomes.len() + errors.len();
        return Err(serde_json::Error::custom(format_args!("it answers {got} of {rows} rows")));
    }
    if errors.is_empty() { Ok(outcomes) } else { merged(outcomes, errors, rows) }
}

/// Skips a key in the exact form in which our own plugins write it.
fn expect(reader: &mut Reader<'_>, json: &[u8], messagepack: &[u8]) -> Result<(), serde_json::Error> {
    let key = if reader.format() == Format::Json { json } else { messagepack };
    if reader.pass(key) { Ok(()) } else { Err(serde_json::Error::custom("it does not have the agreed form")) }
}

/// Merges the errors into the results, by row.
fn merged<R>(
    results: Vec<Outcome<R>>,
    errors: Vec<(u32, String)>,
    rows: u32,
) -> Result<Vec<Outcome<R>>, serde_json::Error> {
    let mut results = results.into_iter();
    let mut errors = errors.into_iter().peekable();
    let merged = (0..rows).map_while(|row| match errors.next_if(|(at, _)| *at == row) {
        Some((_, text)) => Some(Err(text)),
        None => results.next(),
    });
    let merged: Vec<_> = merged.collect();
    match errors.next() {
        None => Ok(merged),
        Some((row, _)) => Err(serde_json::Error::custom(format_args!("the error of row {row} is out of order"))),
    }
}

#[cfg(test)]
mod tests;
