//! Texts: found a word at a time, long ones a block at a time, and copied only if
//! they have escapes.

use memchr::memchr2;

use super::super::Error;
use super::super::plain::{has_controls, plain_end};
use super::super::utf8::{short_ascii, utf8};
use super::Parser;

/// Length from which on SIMD pays.
const LONG: usize = 64;

/// What a byte behind a backslash stands for; 0 if it is no escape, or begins one
/// by number.
const ESCAPED: [u8; 256] = {
    let mut escaped = [0; 256];
    let pairs = [b"\"\"", b"\\\\", b"//", b"b\x08", b"f\x0c", b"n\n", b"r\r", b"t\t"];
    let mut index = 0;
    while index < pairs.len() {
        let [byte, stands_for] = *pairs[index];
        escaped[byte as usize] = stands_for;
        index += 1;
    }
    escaped
};

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
        // It is long, or is not ASCII, or has an escape.
        self.skip_long();
        if self.peek() != Some(b'"') {
            self.unescape(start)?;
            return Ok(None);
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
    fn unescape(&mut self, start: usize) -> Result<(), Error> {
        let mut text = std::mem::take(&mut self.unescaped);
        text.clear();
        self.unescape_into(&mut text, start)?;
        self.unescaped = text;
        Ok(())
    }

    /// The last text that had escapes, without them.
    pub(super) fn unescaped(&self) -> Result<&str, Error> {
        // Escapes are whole characters: it is UTF-8 if what is between them is.
        utf8(&self.unescaped).ok_or_else(|| self.not_utf8(0))
    }

    fn unescape_into(&mut self, text: &mut Vec<u8>, mut start: usize) -> Result<(), Error> {
        let (bytes, mut end) = (self.bytes, self.at);
        loop {
            text.extend_from_slice(&bytes[start..end]);
            let plain = match bytes.get(end..).unwrap_or_default() {
                [b'"', ..] => {
                    self.at = end + 1;
                    return Ok(());
                }
                [b'\\', byte, ..] => ESCAPED[usize::from(*byte)],
                _ => 0,
            };
            if plain != 0 {
                text.push(plain);
                start = end + 2;
            } else {
                self.at = end;
                let character = self.rare_escape()?;
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                start = self.at;
            }
            // What is between escapes is rarely long.
            end = plain_end(bytes, start);
        }
    }

    /// Reads an escape by number, or says what is wrong.
    #[inline(never)]
    fn rare_escape(&mut self) -> Result<char, Error> {
        match self.next()? {
            b'\\' => match self.escape()? {
                Escape::Byte(byte) => Ok(byte.into()),
                Escape::Unit(unit) => self.character(unit),
            },
            _ => Err(self.control()),
        }
    }

    /// Reads an escape behind its backslash.
    #[inline]
    fn escape(&mut self) -> Result<Escape, Error> {
        match self.next()? {
            b'u' => self.unit().map(Escape::Unit),
            byte => match ESCAPED[usize::from(byte)] {
                0 => Err(self.fault_behind("invalid escape")),
                plain => Ok(Escape::Byte(plain)),
            },
        }
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
    /// A character of ASCII.
    Byte(u8),
    /// A unit of UTF-16.
    Unit(u16),
}
