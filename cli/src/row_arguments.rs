//! The arguments of a call, as a line of JSON.

use ekuiper_core::codec::{Error, Format, Reader};
use ekuiper_core::message::{ArgWriter, Arguments};
use serde::de::Error as _;

/// A line of JSON as the arguments of a call: the elements of an array, or any
/// other value as the only argument.
#[derive(Debug)]
pub(crate) struct RowArguments {
    text: String,
    is_array: bool,
    count: usize,
}

impl RowArguments {
    /// Takes a line that was checked to be JSON.
    pub(crate) fn of_line(text: String) -> Self {
        let is_array = text.trim_ascii_start().starts_with('[');
        let mut arguments = Self { text, is_array, count: 1 };
        if is_array {
            let mut count = 0;
            let counted = arguments.each(|_| {
                count += 1;
                Ok(())
            });
            debug_assert!(counted.is_ok(), "the line is JSON");
            arguments.count = count;
        }
        arguments
    }

    /// Returns the number of arguments.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns the length of the line, in bytes.
    pub(crate) fn length(&self) -> usize {
        self.text.len()
    }

    fn each(&self, mut argument: impl FnMut(&str) -> Result<(), Error>) -> Result<(), Error> {
        if !self.is_array {
            return argument(&self.text);
        }
        let mut reader = Reader::new(Format::Json, self.text.as_bytes());
        let mut array = reader.array()?;
        while reader.has_next(&mut array)? {
            argument(std::str::from_utf8(reader.raw()?).map_err(Error::custom)?)?;
        }
        Ok(())
    }
}

impl Arguments for RowArguments {
    fn count(&self) -> usize {
        self.count
    }

    fn write(&self, to: &mut ArgWriter<'_>) -> Result<(), Error> {
        self.each(|argument| to.json(argument))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ekuiper_core::message::{Call, CallKind, EncodedMeta, FunctionMeta, encode_call};
    use serde_json::{Value, json};

    #[test]
    fn an_array_is_all_arguments_and_anything_else_the_only_one() {
        for (line, arguments) in [
            ("[]", vec![]),
            (
                " [ 1 , \"a,]\\\"\" , [2,[]] , {\"b\":null} ] ",
                vec![json!(1), json!("a,]\""), json!([2, []]), json!({"b": null})],
            ),
            ("\"ü\"", vec![json!("ü")]),
            ("{\"a\":[1.5,true]}", vec![json!({"a": [1.5, true]})]),
            ("-0.1", vec![json!(-0.1)]),
            ("18446744073709551615", vec![json!(u64::MAX)]),
            ("[[1,2]]", vec![json!([1, 2])]),
        ] {
            let row = RowArguments::of_line(line.to_owned());
            assert_eq!(row.len(), arguments.len(), "{line}");
            for format in [Format::Json, Format::MessagePack] {
                let mut bytes = Vec::new();
                let meta = EncodedMeta::from(&FunctionMeta::default());
                encode_call(format, &mut bytes, CallKind::Exec, &row, Some(&meta)).unwrap();
                let mut read = Call::decode(format, &bytes).unwrap().args;
                for argument in &arguments {
                    assert_eq!(read.read::<Value>().unwrap().as_ref(), Some(argument), "{line} in {format:?}");
                }
                assert!(read.is_over(), "{line} in {format:?}");
            }
        }
    }
}
