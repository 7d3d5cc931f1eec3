//! The arguments of a call: written by the caller, read by the function, each
//! as its own type.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeSeed};

use crate::codec::{Array, Error, Format, Reader};

/// The arguments of a call: a tuple of up to twelve values, or a list of
/// values.
pub trait Arguments {
    /// The number of arguments.
    fn count(&self) -> usize;

    /// Writes each argument to `to`, in order.
    ///
    /// # Errors
    /// An argument that cannot be encoded.
    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error>;
}

/// The encoder of a call's arguments.
#[derive(Debug)]
pub struct ArgWriter<'b> {
    format: Format,
    buffer: &'b mut Vec<u8>,
    is_first: bool,
}

impl<'b> ArgWriter<'b> {
    pub(super) fn new(format: Format, buffer: &'b mut Vec<u8>) -> Self {
        Self { format, buffer, is_first: true }
    }

    /// Writes the next argument.
    ///
    /// # Errors
    /// The argument cannot be encoded.
    #[inline]
    pub fn arg(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        if !std::mem::replace(&mut self.is_first, false) && self.format == Format::Json {
            self.buffer.push(b',');
        }
        self.format.encode(self.buffer, value)
    }

    /// Writes the next argument, which is given as valid JSON text: unchanged
    /// in JSON, as the value that it spells in MessagePack.
    ///
    /// # Errors
    /// MessagePack has no such value: a number beyond the range of a float, for
    /// example.
    pub fn json(&mut self, text: &str) -> Result<(), Error> {
        if self.format == Format::MessagePack {
            return self.arg(&serde_json::from_str::<serde_json::Value>(text)?);
        }
        if !std::mem::replace(&mut self.is_first, false) {
            self.buffer.push(b',');
        }
        self.buffer.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl<T: Serialize> Arguments for [T] {
    fn count(&self) -> usize {
        self.len()
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error> {
        self.iter().try_for_each(|arg| to.arg(arg))
    }
}

impl<T: Arguments + ?Sized> Arguments for &T {
    fn count(&self) -> usize {
        (**self).count()
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error> {
        (**self).write(to)
    }
}

impl<T: Serialize> Arguments for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error> {
        self.as_slice().write(to)
    }
}

impl<T: Serialize, const N: usize> Arguments for [T; N] {
    fn count(&self) -> usize {
        N
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error> {
        self.as_slice().write(to)
    }
}

/// Appends arguments as an array in MessagePack, as a batch's row.
///
/// # Errors
/// [`crate::Error::Encode`] when an argument cannot be encoded.
pub fn encode_row(buffer: &mut Vec<u8>, args: &(impl Arguments + ?Sized)) -> crate::Result<()> {
    super::envelope::push_array(buffer, args.count());
    args.write(&mut ArgWriter::new(Format::MessagePack, buffer))
        .map_err(|source| crate::Error::Encode { what: "a row of arguments", source })
}

/// Arguments that are encoded before it is known to which request they belong.
#[derive(Clone, Debug)]
pub struct EncodedArgs {
    format: Format,
    count: usize,
    bytes: Vec<u8>,
}

impl EncodedArgs {
    /// Encodes arguments.
    ///
    /// # Errors
    /// An argument cannot be encoded.
    pub fn new(format: Format, args: &(impl Arguments + ?Sized)) -> crate::Result<Self> {
        let mut bytes = Vec::new();
        args.write(&mut ArgWriter::new(format, &mut bytes))
            .map_err(|source| crate::Error::Encode { what: "the function's arguments", source })?;
        Ok(Self { format, count: args.count(), bytes })
    }

    /// The length of the encoded arguments, in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Reads the arguments as values, for the other format.
    fn values(&self) -> Result<Vec<serde_json::Value>, Error> {
        match self.format {
            Format::Json => self.format.decode(&[b"[", &*self.bytes, b"]"].concat()),
            Format::MessagePack => {
                let mut reader = Reader::new(self.format, &self.bytes);
                (0..self.count).map(|_| reader.value()).collect()
            }
        }
    }
}

impl Arguments for EncodedArgs {
    fn count(&self) -> usize {
        self.count
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error> {
        if to.format != self.format {
            return self.values()?.write(to);
        }
        if self.count > 0 && !std::mem::replace(&mut to.is_first, false) && self.format == Format::Json {
            to.buffer.push(b',');
        }
        to.buffer.extend_from_slice(&self.bytes);
        Ok(())
    }
}

macro_rules! tuples {
    ($count:expr; $($name:ident $index:tt),*) => {
        impl<$($name: Serialize),*> Arguments for ($($name,)*) {
            fn count(&self) -> usize {
                $count
            }

            #[inline]
            fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error> {
                let _ = to;
                $(to.arg(&self.$index)?;)*
                Ok(())
            }
        }
    };
}

tuples!(0;);
tuples!(1; A 0);
tuples!(2; A 0, B 1);
tuples!(3; A 0, B 1, C 2);
tuples!(4; A 0, B 1, C 2, D 3);
tuples!(5; A 0, B 1, C 2, D 3, E 4);
tuples!(6; A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(7; A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuples!(8; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
tuples!(9; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
tuples!(10; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
tuples!(11; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
tuples!(12; A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);

/// The arguments of a request, decoded on demand.
#[derive(Clone, Debug)]
pub struct Args<'a> {
    reader: Reader<'a>,
    array: Array,
    behind: Behind,
    /// Whether the arguments have been read to their end.
    is_over: bool,
}

impl<'a> Args<'a> {
    /// The arguments in an array in MessagePack, as [`encode_row`] writes it.
    ///
    /// # Errors
    /// [`crate::Error::Message`] when the bytes are no array.
    pub fn of_row(bytes: &'a [u8]) -> crate::Result<Self> {
        let wrong = |source| crate::Error::Message { what: "a row of arguments", source };
        Self::new(Format::MessagePack, bytes, false).map_err(wrong)
    }

    /// The arguments in an encoded array.
    pub(super) fn new(format: Format, bytes: &'a [u8], with_context: bool) -> Result<Self, Error> {
        // An engine may send null when there are no arguments.
        let bytes = if bytes == b"null" { b"[]" } else { bytes };
        let behind = if with_context { Behind::Context } else { Behind::Nothing };
        Ok(Self { behind, ..Self::enter(Reader::new(format, bytes))? })
    }

    /// The arguments in the array that follows in `reader`.
    pub(super) fn enter(mut reader: Reader<'a>) -> Result<Self, Error> {
        let array = reader.array()?;
        Ok(Self { reader, array, behind: Behind::Nothing, is_over: false })
    }

    /// The arguments of an `Exec` in JSON: `bytes` begin with their array and
    /// end with the request. Both are read once: the request's end is read
    /// together with the arguments.
    pub(super) fn in_request(bytes: &'a [u8]) -> Result<Self, Error> {
        Ok(Self { behind: Behind::ContextAndRequest, ..Self::enter(Reader::new(Format::Json, bytes))? })
    }

    /// The format of the arguments.
    pub fn format(&self) -> Format {
        self.reader.format()
    }

    /// Reads the next argument; `None` when there is none left. In JSON, a
    /// call's context stands behind its arguments and is read as if it were
    /// one: [`Args::is_over`] tells whether that has happened.
    ///
    /// # Errors
    /// The argument has another type.
    #[inline]
    pub fn read<T: Deserialize<'a>>(&mut self) -> Result<Option<T>, Error> {
        self.read_with(PhantomData)
    }

    /// Reads the next argument with a seed, otherwise as [`Args::read`].
    ///
    /// # Errors
    /// As [`Args::read`].
    #[inline]
    pub fn read_with<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.reader.has_next(&mut self.array)? {
            self.reader.seed(seed).map(Some)
        } else {
            self.leave()?;
            self.is_over = self.behind == Behind::Nothing;
            Ok(None)
        }
    }

    /// Whether all arguments have been read, and nothing but arguments.
    #[inline]
    pub fn is_over(&mut self) -> bool {
        if self.is_over {
            return true;
        }
        self.is_over = (self.behind == Behind::Nothing || self.pass_context()) && self.ends() && self.leave().is_ok();
        self.is_over
    }

    fn ends(&mut self) -> bool {
        matches!(self.reader.has_next(&mut self.array), Ok(false))
    }

    fn pass_context(&mut self) -> bool {
        matches!(self.reader.has_next(&mut self.array), Ok(true))
            && self.reader.raw().is_ok_and(|context| context.first() == Some(&b'"'))
    }

    /// Validates the rest of the request, after the array has been read.
    fn leave(&self) -> Result<(), Error> {
        match self.behind {
            Behind::ContextAndRequest => crate::json::rest_of_object(self.reader.rest(), &["func", "arg"]),
            Behind::Nothing | Behind::Context => Ok(()),
        }
    }

    /// Returns the remaining arguments in encoded form.
    ///
    /// # Errors
    /// The arguments are malformed.
    pub fn all(&self) -> Result<Vec<Arg<'a>>, Error> {
        let mut rest = self.clone();
        let mut all = Vec::new();
        while rest.reader.has_next(&mut rest.array)? {
            all.push(Arg { format: self.format(), bytes: rest.reader.raw()? });
        }
        rest.leave()?;
        if self.behind != Behind::Nothing {
            all.pop();
        }
        Ok(all)
    }

    /// The context, if it is the last element.
    ///
    /// # Errors
    /// The arguments are malformed.
    pub(super) fn context(&self) -> Result<Option<&'a [u8]>, Error> {
        let mut rest = self.clone();
        let mut last = None;
        while rest.reader.has_next(&mut rest.array)? {
            last = Some(rest.reader.raw()?);
        }
        rest.leave()?;
        Ok(last)
    }

    pub(super) fn into_parts(self) -> (Reader<'a>, Array) {
        (self.reader, self.array)
    }

    /// Returns a reader behind the arguments, once they have been read.
    pub(super) fn behind(self) -> Option<Reader<'a>> {
        self.is_over.then_some(self.reader)
    }
}

/// The content behind the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// The call's context, the array's last element.
    Context,
    /// The call's context, and the rest of the request's object, which has not
    /// been validated yet.
    ContextAndRequest,
}

/// One argument, decoded on demand.
#[derive(Clone, Copy, Debug)]
pub struct Arg<'a> {
    format: Format,
    bytes: &'a [u8],
}

impl<'a> Arg<'a> {
    /// The argument's format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The argument's encoded form.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Decodes the argument.
    ///
    /// # Errors
    /// The argument has another type.
    pub fn read<T: Deserialize<'a>>(&self) -> Result<T, Error> {
        self.format.decode(self.bytes)
    }

    /// Decodes the argument with a seed.
    ///
    /// # Errors
    /// As [`Arg::read`].
    pub fn read_with<S: DeserializeSeed<'a>>(&self, seed: S) -> Result<S::Value, Error> {
        self.format.read(self.bytes, seed).map(|(value, _)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Call, CallKind, EncodedMeta, FunctionMeta, encode_call};

    #[test]
    fn arguments_that_were_encoded_before_are_the_same_in_a_request_of_either_format() {
        let args = ("a, \"b\"", 2.5, serde_json::json!({ "list": [1, null, true], "text": "[" }));
        let meta = EncodedMeta::from(&FunctionMeta::default());
        for from in [Format::Json, Format::MessagePack] {
            let encoded = EncodedArgs::new(from, &args).unwrap();
            let none = EncodedArgs::new(from, &()).unwrap();
            for to in [Format::Json, Format::MessagePack] {
                let mut bytes = Vec::new();
                encode_call(to, &mut bytes, CallKind::Exec, &encoded, Some(&meta)).unwrap();
                let mut read = Call::decode(to, &bytes).unwrap().args;
                assert_eq!(read.read::<String>().unwrap().unwrap(), args.0, "{from:?} to {to:?}");
                assert_eq!(read.read::<f64>().unwrap().unwrap(), args.1);
                assert_eq!(read.read::<serde_json::Value>().unwrap().unwrap(), args.2);
                let mut bytes = Vec::new();
                encode_call(to, &mut bytes, CallKind::Exec, &none, Some(&meta)).unwrap();
                assert!(Call::decode(to, &bytes).unwrap().args.is_over());
            }
        }
    }
    /// Arguments as JSON text.
    struct Texts<'a>(&'a [&'a str]);

    impl Arguments for Texts<'_> {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error> {
            self.0.iter().try_for_each(|text| to.json(text))
        }
    }

    #[test]
    fn json_text_is_an_argument_of_either_format() {
        let texts = Texts(&["1.50", r#"{ "b": [1, "ü"] }"#, "null"]);
        let mut bytes = Vec::new();
        encode_call(Format::Json, &mut bytes, CallKind::Validate, &texts, None).unwrap();
        assert_eq!(bytes, r#"{"func":"Validate","arg":[1.50,{ "b": [1, "ü"] },null]}"#.as_bytes());
        bytes.clear();
        encode_call(Format::MessagePack, &mut bytes, CallKind::Validate, &texts, None).unwrap();
        let mut read = Call::decode(Format::MessagePack, &bytes).unwrap().args;
        assert_eq!(read.read::<f64>().unwrap().unwrap(), 1.5);
        assert_eq!(read.read::<serde_json::Value>().unwrap().unwrap(), serde_json::json!({ "b": [1, "ü"] }));
        let beyond = encode_call(Format::MessagePack, &mut bytes, CallKind::Validate, &Texts(&["1e400"]), None);
        assert!(beyond.is_err());
    }
}
