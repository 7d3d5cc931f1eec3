//! Numbers: integers of up to 64 bits as such, all others as the nearest float.

use serde::de::Visitor;

use super::super::Error;
use super::Parser;

/// A number, as `serde_json` tells a visitor of it.
pub(super) enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl Number {
    #[inline]
    pub(super) fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Unsigned(number) => visitor.visit_u64(number),
            Self::Signed(number) => visitor.visit_i64(number),
            Self::Float(number) => visitor.visit_f64(number),
        }
    }
}

/// What stands in a number.
struct Decimal {
    is_negative: bool,
    /// All digits but the exponent's; has no meaning if they are more than
    /// [`MAX_DIGITS`].
    digits: u64,
    count: usize,
    /// How many of the digits are behind the point.
    fraction: usize,
    has_exponent: bool,
}

/// The number of digits that fit into 64 bits, whatever they are.
const MAX_DIGITS: usize = 19;

/// The powers of ten that are floats.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The greatest power of ten that is an `f32`.
const MAX_SINGLE: usize = 10;

impl<'de> Parser<'de> {
    /// Reads the number whose first character follows; floats with the
    /// precision of an `f32` if `is_single`.
    #[inline]
    pub(super) fn number(&mut self, is_single: bool) -> Result<Number, Error> {
        let start = self.at;
        let decimal = self.decimal("EOF while parsing a value")?;
        let Decimal { is_negative, digits, count, fraction, has_exponent } = decimal;
        if count > MAX_DIGITS || has_exponent {
            return self.rare(start, is_single);
        }
        if fraction == 0 {
            return Ok(integer(is_negative, digits));
        }
        // The digits and the power are exact, and so the quotient is the nearest
        // float.
        let float = match TENS.get(fraction) {
            Some(power) if !is_single && digits <= 1 << f64::MANTISSA_DIGITS => digits as f64 / power,
            Some(power) if is_single && digits <= 1 << f32::MANTISSA_DIGITS && fraction <= MAX_SINGLE => {
                f64::from(digits as f32 / *power as f32)
            }
            _ => return self.rare(start, is_single),
        };
        Ok(Number::Float(if is_negative { -float } else { float }))
    }

    /// Skips the number whose first character follows.
    #[inline]
    pub(super) fn skip_number(&mut self) -> Result<(), Error> {
        self.decimal("invalid number").map(|_| ())
    }

    /// Reads the number whose first character follows; `at_end` is the error if
    /// the bytes end within.
    #[inline]
    fn decimal(&mut self, at_end: &'static str) -> Result<Decimal, Error> {
        let bytes = self.bytes;
        let is_negative = self.peek() == Some(b'-');
        let first = self.at + usize::from(is_negative);
        let (mut digits, mut at) = digits(bytes, first, 0);
        let mut count = at - first;
        if count == 0 || (count > 1 && bytes[first] == b'0') {
            return Err(self.no_integer(first, at_end));
        }
        let mut fraction = 0;
        if bytes.get(at) == Some(&b'.') {
            let point = at + 1;
            (digits, at) = self::digits(bytes, point, digits);
            fraction = at - point;
            count += fraction;
            if fraction == 0 {
                self.at = at;
                return Err(self.fault(if at == bytes.len() { at_end } else { "invalid number" }));
            }
        }
        self.at = at;
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.skip_exponent(at_end)?;
        }
        Ok(Decimal { is_negative, digits, count, fraction, has_exponent })
    }

    /// The error for an integer that begins at `first`, and has no digit, or a
    /// zero before others.
    #[cold]
    fn no_integer(&mut self, first: usize, at_end: &'static str) -> Error {
        self.at = first + 1;
        match self.bytes.get(first) {
            None => {
                self.at = first;
                self.fault_behind(at_end)
            }
            Some(b'0') => self.fault("invalid number"),
            Some(_) => self.fault_behind("invalid number"),
        }
    }

    fn skip_exponent(&mut self, at_end: &'static str) -> Result<(), Error> {
        self.at += 1;
        self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
        let first = self.at;
        (_, self.at) = digits(self.bytes, first, 0);
        if self.at > first {
            return Ok(());
        }
        match self.peek() {
            None => Err(self.fault_behind(at_end)),
            Some(_) => Err(self.fault("invalid number")),
        }
    }

    /// The value of the number from `start` to here.
    #[inline(never)]
    fn rare(&mut self, start: usize, is_single: bool) -> Result<Number, Error> {
        let text = self.ascii(start);
        if let Ok(digits) = text.trim_start_matches('-').parse() {
            return Ok(integer(text.starts_with('-'), digits));
        }
        if let Some((digits, exponent)) = text.split_once(['e', 'E'])
            && digits.contains(|digit| matches!(digit, '1'..='9'))
        {
            self.check_exponent(exponent)?;
        }
        let float = if is_single { text.parse::<f32>().map(f64::from) } else { text.parse() };
        match float {
            Ok(float) if float.is_finite() => Ok(Number::Float(float)),
            _ => Err(self.fault_behind("number out of range")),
        }
    }

    /// Checks that an exponent fits into 31 bits if it is positive: the error for
    /// a number with a greater one is at the digit that is too many.
    fn check_exponent(&mut self, exponent: &str) -> Result<(), Error> {
        let mut value = 0i32;
        for (index, digit) in exponent.bytes().enumerate().skip_while(|(_, byte)| *byte == b'+') {
            if digit == b'-' {
                return Ok(());
            }
            match value.checked_mul(10).and_then(|tens| tens.checked_add((digit - b'0').into())) {
                Some(more) => value = more,
                None => {
                    self.at -= exponent.len() - index - 1;
                    return Err(self.fault_behind("number out of range"));
                }
            }
        }
        Ok(())
    }

    /// Reads an integer of up to 128 bits.
    pub(super) fn wide(&mut self, is_signed: bool) -> Result<&'de str, Error> {
        let start = match self.value()? {
            b'-' if !is_signed => return Err(self.fault("number out of range")),
            byte => {
                let start = self.at;
                self.at += usize::from(byte == b'-');
                start
            }
        };
        let first = self.at;
        (_, self.at) = digits(self.bytes, first, 0);
        if self.at == first || (self.at > first + 1 && self.bytes[first] == b'0') {
            return Err(self.no_integer(first, "invalid number"));
        }
        Ok(self.ascii(start))
    }

    /// What was read from `start` on, which is ASCII.
    fn ascii(&self, start: usize) -> &'de str {
        std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default()
    }
}

/// Appends the digits from `at` on to others; returns the place behind them as
/// well.
#[inline]
fn digits(bytes: &[u8], mut at: usize, mut digits: u64) -> (u64, usize) {
    while let Some(digit @ 0..=9) = bytes.get(at).map(|byte| u64::from(*byte).wrapping_sub(b'0'.into())) {
        digits = digits.wrapping_mul(10).wrapping_add(digit);
        at += 1;
    }
    (digits, at)
}

#[inline]
fn integer(is_negative: bool, digits: u64) -> Number {
    if !is_negative {
        return Number::Unsigned(digits);
    }
    match 0i64.checked_sub_unsigned(digits) {
        // JSON's -0 is the float.
        Some(number @ ..0) => Number::Signed(number),
        _ => Number::Float(-(digits as f64)),
    }
}
