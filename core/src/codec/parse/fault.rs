//! Errors, with the words and the places of `serde_json`.

use std::fmt::{self, Display};

use serde::de::{
    Deserialize, Deserializer, Error as _, Expected, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::super::Error;
use super::Parser;
use super::number::Number;

#[cfg(test)]
thread_local! {
    /// The number of errors of syntax so far. Each costs as much as reading the
    /// document twice, so a document has one.
    pub(super) static FAULTS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Parser<'_> {
    /// An error because of the next byte.
    #[cold]
    #[inline(never)]
    pub(super) fn fault(&self, what: &'static str) -> Error {
        self.syntax(what, self.bytes.len().min(self.at + 1))
    }

    /// An error because of the last byte that was read.
    #[cold]
    #[inline(never)]
    pub(super) fn fault_behind(&self, what: &'static str) -> Error {
        self.syntax(what, self.at)
    }

    /// An error because of the byte before this place.
    fn syntax(&self, what: &'static str, at: usize) -> Error {
        #[cfg(test)]
        FAULTS.set(FAULTS.get() + 1);
        let error = placed(what, &self.bytes[..at]);
        // As `serde_json`'s own, if it comes to the same, the error is known to
        // be one of syntax.
        let text = error.to_string();
        let others =
            [serde_json::from_slice::<IgnoredAny>(self.bytes).err(), serde_json::from_slice::<All>(self.bytes).err()];
        others.into_iter().flatten().find(|other| other.to_string() == text).unwrap_or(error)
    }

    /// The error of a visitor, with a place.
    #[cold]
    #[inline(never)]
    pub(super) fn placed(&self, error: Error) -> Error {
        if error.line() == 0 { placed(error, &self.bytes[..self.at]) } else { error }
    }

    /// The error for a word that is not there.
    #[cold]
    #[inline(never)]
    pub(super) fn no_word(&mut self, word: &str) -> Error {
        let same = self.bytes[self.at..].iter().zip(word.bytes()).take_while(|(found, byte)| *found == byte).count();
        self.at += same;
        match self.peek() {
            None => self.fault_behind("EOF while parsing a value"),
            Some(_) => self.fault("expected ident"),
        }
    }

    /// The error for text that is not UTF-8, from this place on.
    #[cold]
    #[inline(never)]
    pub(super) fn not_utf8(&self, from: usize) -> Error {
        not_utf8(self.bytes, from)
    }

    /// The error for a value of another type than the one expected.
    #[cold]
    #[inline(never)]
    pub(super) fn wrong(&mut self, expected: &dyn Expected) -> Error {
        self.found(expected).unwrap_or_else(|error| error)
    }

    fn found(&mut self, expected: &dyn Expected) -> Result<Error, Error> {
        let found = match self.value()? {
            b'n' => self.word("null").map(|()| Unexpected::Unit)?,
            b't' => self.word("true").map(|()| Unexpected::Bool(true))?,
            b'f' => self.word("false").map(|()| Unexpected::Bool(false))?,
            b'-' | b'0'..=b'9' => match self.number(false)? {
                Number::Float(number) => Unexpected::Float(number),
                Number::Unsigned(number) => Unexpected::Unsigned(number),
                Number::Signed(number) => Unexpected::Signed(number),
            },
            b'"' => Unexpected::Str(match self.characters::<false>()? {
                Some(text) => text,
                None => self.unescaped()?,
            }),
            b'[' => Unexpected::Seq,
            b'{' => Unexpected::Map,
            _ => return Err(self.fault("expected value")),
        };
        let error = Error::invalid_type(found, expected);
        Ok(self.placed(error))
    }
}

/// The error for bytes that are not UTF-8, from this place on.
#[cold]
pub(in super::super) fn not_utf8(bytes: &[u8], from: usize) -> Error {
    let valid = std::str::from_utf8(&bytes[from..]).map_or_else(|error| error.valid_up_to(), str::len);
    placed("invalid unicode code point", &bytes[..bytes.len().min(from + valid + 1)])
}

/// The error with the place behind `before`, which `serde_json` finds in the
/// text.
fn placed(error: impl Display, before: &[u8]) -> Error {
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count();
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    Error::custom(format_args!("{error} at line {line} column {column}"))
}

/// Any value, all of which is read and nothing kept.
struct All;

impl<'de> Deserialize<'de> for All {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for All {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self, A::Error> {
        while let Some(Self) = values.next_element()? {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while let Some((Self, Self)) = entries.next_entry()? {}
        Ok(self)
    }
}
