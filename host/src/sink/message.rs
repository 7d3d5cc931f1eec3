//! A message to a sink, in the codec of the process that it was encoded for.

use std::borrow::Cow;

use ekuiper_core::buffer::trim;
use ekuiper_core::codec::Format;
use ekuiper_core::message::{encode_rows, format_of_rows};
use serde::Serialize;
use serde_json::Value;

/// An encoded message. Another process may serve when it is sent, after a crash
/// or an update, and may read less.
pub(super) struct Message<B = Vec<u8>> {
    bytes: B,
    /// The codec of rows; [`Format::Json`] for bytes of the caller, too, which
    /// are never changed.
    format: Format,
}

impl Message {
    /// A message without content, whose buffer is `space`.
    pub(super) fn empty(mut space: Vec<u8>) -> Self {
        space.clear();
        Self { bytes: space, format: Format::Json }
    }

    /// Encodes rows.
    ///
    /// # Errors
    /// The codec cannot hold them.
    pub(super) fn encode(&mut self, rows: &(impl Serialize + ?Sized), format: Format) -> ekuiper_core::Result<()> {
        self.bytes.clear();
        self.format = Format::Json;
        self.format = encode_rows(&mut self.bytes, format, rows)?;
        Ok(())
    }

    /// Returns the buffer.
    pub(super) fn into_space(self) -> Vec<u8> {
        self.bytes
    }
}

impl<B: AsRef<[u8]>> Message<B> {
    /// Bytes that are sent unchanged.
    pub(super) fn of_bytes(bytes: B) -> Self {
        Self { bytes, format: Format::Json }
    }

    /// Returns the bytes for a process that reads rows in `format`.
    ///
    /// # Errors
    /// JSON cannot hold the rows.
    pub(super) fn bytes_in(&self, format: Format) -> ekuiper_core::Result<Cow<'_, [u8]>> {
        if self.format == Format::Json || self.format == format {
            return Ok(Cow::Borrowed(self.bytes.as_ref()));
        }
        translated(self.bytes.as_ref(), self.format, format).map(Cow::Owned)
    }
}

impl<'a> Message<Cow<'a, [u8]>> {
    /// An encoded record. A sink takes it for rows in MessagePack if its first
    /// byte says so; any other record is for every process as text.
    ///
    /// # Errors
    /// JSON cannot hold the record.
    pub(super) fn of_record(record: &'a [u8], format: Format) -> ekuiper_core::Result<Self> {
        let is_row = format_of_rows(record).is_some_and(|(found, _)| found == format);
        if format == Format::Json || is_row {
            return Ok(Self { bytes: Cow::Borrowed(record), format });
        }
        translated(record, format, Format::Json).map(Cow::Owned).map(Self::of_bytes)
    }
}

/// Encoded rows, each a message of its own.
#[derive(Clone, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    /// Where each message ends, and its codec.
    ends: Vec<(usize, Format)>,
}

impl Messages {
    /// Encodes a row.
    ///
    /// # Errors
    /// The codec cannot hold it.
    pub(super) fn push(&mut self, row: &(impl Serialize + ?Sized), format: Format) -> ekuiper_core::Result<()> {
        let format = encode_rows(&mut self.bytes, format, row)?;
        self.ends.push((self.bytes.len(), format));
        Ok(())
    }

    /// Forgets the rows, and keeps the space.
    pub(super) fn clear(&mut self) {
        trim(&mut self.bytes);
        self.bytes.clear();
        self.ends.clear();
    }

    /// The length of all messages.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of each message.
    pub(super) fn bytes(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |(end, _)| &self.bytes[std::mem::replace(&mut start, *end)..*end])
    }

    /// Returns the messages for a process that reads rows in `format`.
    ///
    /// # Errors
    /// JSON cannot hold a row.
    pub(super) fn in_format(&self, format: Format) -> ekuiper_core::Result<Cow<'_, Self>> {
        if self.ends.iter().all(|(_, own)| *own == Format::Json || *own == format) {
            return Ok(Cow::Borrowed(self));
        }
        let mut others = Self::default();
        for (bytes, (_, own)) in self.bytes().zip(&self.ends) {
            others.bytes.extend_from_slice(&Message { bytes, format: *own }.bytes_in(format)?);
            others.ends.push((others.bytes.len(), format));
        }
        Ok(Cow::Owned(others))
    }
}

/// Encodes rows in another codec.
fn translated(rows: &[u8], from: Format, to: Format) -> ekuiper_core::Result<Vec<u8>> {
    let wrong = |source| ekuiper_core::Error::Encode { what: "the message", source };
    let rows: Value = from.decode(rows).map_err(wrong)?;
    let mut bytes = Vec::new();
    encode_rows(&mut bytes, to, &rows)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use ekuiper_core::codec::Bytes;

    use super::*;

    #[test]
    fn rows_that_were_meant_for_another_process_are_translated_and_bytes_never() {
        #[derive(Serialize)]
        struct Row {
            name: &'static str,
            image: Bytes,
            list: [Option<f64>; 2],
        }
        let row = Row { name: "ä\n", image: vec![0, 255].into(), list: [None, Some(-1.5)] };
        let (mut packed, mut text) = (Message::empty(b"former".to_vec()), Message::empty(Vec::new()));
        packed.encode(&row, Format::MessagePack).unwrap();
        text.encode(&row, Format::Json).unwrap();
        assert!(matches!(packed.bytes_in(Format::MessagePack).unwrap(), Cow::Borrowed(_)));
        let read =
            |message: &Message| -> Value { serde_json::from_slice(&message.bytes_in(Format::Json).unwrap()).unwrap() };
        assert_eq!(read(&packed), read(&text));
        let mut both = Messages::default();
        both.push(&row, Format::MessagePack).unwrap();
        both.push(&7, Format::MessagePack).unwrap();
        let json = both.in_format(Format::Json).unwrap();
        let json: Vec<_> = json.bytes().map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap()).collect();
        assert_eq!(json, [read(&packed), 7.into()]);
        let same = both.in_format(Format::MessagePack).unwrap();
        assert!(matches!(same, Cow::Borrowed(_)));
        assert_eq!(same.bytes().next(), Some(&*packed.bytes_in(Format::MessagePack).unwrap()));
        // Every sink reads JSON.
        assert_eq!(text.bytes_in(Format::MessagePack).unwrap(), text.bytes_in(Format::Json).unwrap());
        let bytes = Message::of_bytes(&b"\x81\xa1a\x01"[..]);
        for format in [Format::Json, Format::MessagePack] {
            assert_eq!(*bytes.bytes_in(format).unwrap(), *b"\x81\xa1a\x01");
        }
        // A record of a source is a row, or else text for every process.
        let row = Message::of_record(b"\x81\xa1a\x01", Format::MessagePack).unwrap();
        assert!(matches!(row.bytes_in(Format::MessagePack).unwrap(), Cow::Borrowed(_)));
        assert_eq!(*row.bytes_in(Format::Json).unwrap(), *br#"{"a":1}"#);
        let number = Message::of_record(b"\x37", Format::MessagePack).unwrap();
        assert_eq!(*number.bytes_in(Format::MessagePack).unwrap(), *b"55");
    }
}
