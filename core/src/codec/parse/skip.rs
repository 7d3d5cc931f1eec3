//! Values that nothing is read of.

use super::super::Error;
use super::super::utf8::utf8;
use super::Parser;

impl<'de> Parser<'de> {
    /// Skips a value, and returns its JSON.
    #[inline]
    pub(in super::super) fn raw(&mut self) -> Result<&'de str, Error> {
        let start = self.at;
        self.skip()?;
        utf8(&self.bytes[start..self.at]).ok_or_else(|| self.not_utf8(start))
    }

    /// Skips a value. Values may be in each other as deep as they like: they
    /// need no stack.
    fn skip(&mut self) -> Result<(), Error> {
        // What the value is in, by brackets and braces: the innermost by itself.
        let mut outer = Vec::new();
        let mut inner = None;
        loop {
            let mut is_first = false;
            match self.value()? {
                b'"' => self.skip_text()?,
                b'-' | b'0'..=b'9' => self.skip_number()?,
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                kind @ (b'[' | b'{') => {
                    self.at += 1;
                    outer.extend(inner.replace(kind));
                    is_first = true;
                }
                _ => return Err(self.fault("expected value")),
            }
            loop {
                let Some(kind) = inner else { return Ok(()) };
                match (self.token(), kind) {
                    (Some(b']'), b'[') | (Some(b'}'), b'{') => self.at += 1,
                    (Some(b','), _) if !is_first => {
                        self.at += 1;
                        break;
                    }
                    (Some(_), _) if is_first => break,
                    (Some(_), b'[') => return Err(self.fault("expected `,` or `]`")),
                    (Some(_), _) => return Err(self.fault("expected `,` or `}`")),
                    (None, b'[') => return Err(self.fault("EOF while parsing a list")),
                    (None, _) => return Err(self.fault("EOF while parsing an object")),
                }
                inner = outer.pop();
                is_first = false;
            }
            if inner == Some(b'{') {
                match self.token() {
                    Some(b'"') => self.skip_text()?,
                    Some(_) => return Err(self.fault("key must be a string")),
                    None => return Err(self.fault("EOF while parsing an object")),
                }
                self.colon()?;
            }
        }
    }
}
