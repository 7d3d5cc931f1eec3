//! Texts: found a word at a time, long ones a block at a time, and copied only if
//! they have escapes.

use memchr::memchr2;

use super::super::Error;
use super::super::plain::{has_controls, plain_end};
use super::super::utf8::{short_ascii, utf8};
use super::Parser;

/// Length from which on SIMD pays.
const LONG: usize = 64;

impl<'de> Parser<'de> {
    /// Reads the text whose quote follows; `None` if it had escapes, and is
    /// [`unescaped`](Self::unescaped).
    #[inline]
    pub(super) fn characters<const KEY: bool>(&mut self) -> Result<Option<&'de str>, Error> {
        if let Some(text) = short_ascii::<KEY>(self.bytes, self.at + 1) {
            self.at += text.len() + 2;
            return Ok(Some(text));
        }
        self.other_characters()
    }

    #[inline(never)]
    fn other_characters(&mut self) -> Result<Option<&'de str>, Error> {
        self.at += 1;
        let start = self.at;
        self.skip_plain();
        if self.peek() != Some(b'"') {
            return self.unescape(start).map(|()| None);
        }
        self.at += 1;
        match utf8(&self.bytes[start..self.at - 1]) {
            Some(text) => Ok(Some(text)),
            None => Err(self.not_utf8(start)),
        }
    }

    /// Skips the text whose quote follows.
    #[inline]
    pub(super) fn skip_text(&mut self) -> Result<(), Error> {
        if let Some(text) = short_ascii::<false>(self.bytes, self.at + 1) {
            self.at += text.len() + 2;
            return Ok(());
        }
        self.skip_other_text()
    }

    #[inline(never)]
    fn skip_other_text(&mut self) -> Result<(), Error> {
        self.at += 1;
        loop {
            self.skip_plain();
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => {
                    self.escape()?;
                }
                _ => {
                    self.at -= 1;
                    return Err(self.control());
                }
            }
        }
    }

    /// Skips bytes up to the next that is a quote, a backslash or a control
    /// character.
    #[inline]
    fn skip_plain(&mut self) {
        let limit = self.bytes.len().min(self.at + LONG);
        let end = plain_end(&self.bytes[..limit], self.at);
        let is_long = end == self.at + LONG;
        self.at = end;
        if is_long {
            self.skip_long();
        }
    }

    fn skip_long(&mut self) {
        let rest = &self.bytes[self.at..];
        let length = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        self.at = match has_controls(&rest[..length]) {
            true => plain_end(self.bytes, self.at),
            false => self.at + length,
        };
    }

    #[cold]
    fn control(&self) -> Error {
        self.fault_behind("control character (\\u0000-\\u001F) found while parsing a string")
    }

    /// Reads a text that begins at `start`, and whose first escape or wrong
    /// character follows.
    #[inline(never)]
    fn unescape(&mut self, mut start: usize) -> Result<(), Error> {
        self.unescaped.clear();
        loop {
            let plain = utf8(&self.bytes[start..self.at]).ok_or_else(|| self.not_utf8(start))?;
            self.unescaped.push_str(plain);
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => {
                    let character = match self.escape()? {
                        Escape::Character(character) => character,
                        Escape::Unit(unit) => self.character(unit)?,
                    };
                    self.unescaped.push(character);
                }
                _ => return Err(self.control()),
            }
            start = self.at;
            // What is between escapes is rarely long.
            self.at = plain_end(self.bytes, self.at);
        }
    }

    /// Reads an escape behind its backslash.
    #[inline]
    fn escape(&mut self) -> Result<Escape, Error> {
        let byte = self.next()?;
        Ok(Escape::Character(match byte {
            b'"' | b'\\' | b'/' => byte.into(),
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unit().map(Escape::Unit),
            _ => return Err(self.fault_behind("invalid escape")),
        }))
    }

    /// The character that begins with this unit of UTF-16; the other unit
    /// follows, if there is one.
    fn character(&mut self, unit: u16) -> Result<char, Error> {
        let mut units = [unit, 0];
        if matches!(unit, 0xd800..=0xdbff) {
            for expected in [b'\\', b'u'] {
                if self.next()? != expected {
                    return Err(self.fault_behind("unexpected end of hex escape"));
                }
            }
            units[1] = self.unit()?;
        }
        match char::decode_utf16(units).next() {
            Some(Ok(character)) => Ok(character),
            _ => Err(self.fault_behind("lone leading surrogate in hex escape")),
        }
    }

    /// Reads the four digits of a unit.
    fn unit(&mut self) -> Result<u16, Error> {
        let Some(digits) = self.bytes[self.at..].first_chunk::<4>() else {
            self.at = self.bytes.len();
            return Err(self.fault_behind("EOF while parsing a string"));
        };
        self.at += digits.len();
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let unit = digits.iter().try_fold(0, |unit, byte| Some(unit << 4 | digit(byte)?));
        unit.and_then(|unit| u16::try_from(unit).ok()).ok_or_else(|| self.fault_behind("invalid escape"))
    }

    /// Reads the next byte of a text.
    fn next(&mut self) -> Result<u8, Error> {
        let byte = self.peek().ok_or_else(|| self.fault_behind("EOF while parsing a string"))?;
        self.at += 1;
        Ok(byte)
    }
}

/// What an escape stands for.
enum Escape {
    Character(char),
    /// A unit of UTF-16.
    Unit(u16),
}
