//! Columns in messages: only between a host and a plugin of this project that
//! have agreed on it, by [`Feature::Columns`](super::Feature::Columns).
//!
//! A message with columns begins with an Arrow IPC stream, so that the arrays in
//! it are aligned as the message is. Its first bytes begin neither JSON nor a
//! map in MessagePack: rows and columns share a channel.
//!
//! To a function, the stream is followed by a request,
//! `{"func":"Columns","first":n,"meta":context}`, in the codec of the channel's
//! rows, by the number of the call in eight bytes, and by the length of the
//! request in four, the least significant first. `first` is the number of the
//! first row, for errors: a caller's columns may be sent in parts. By the number
//! of the call, 0 if it has none, it is cancelled as a batch is. The answer is a
//! stream of one column, or an error like that to a call.

use super::envelope::{push_key, push_map};
use super::function::{Call, CallKind, EncodedMeta};
use crate::codec::Format;
use crate::{Error, Result};

/// What an Arrow IPC stream begins with.
pub const COLUMNS_MARK: [u8; 4] = [0xff; 4];

/// What follows the request: the number of the call, and the request's length.
const TAIL: usize = NUMBER + 4;

/// The length of the number of a call.
const NUMBER: usize = 8;

/// Whether a message begins with columns.
#[inline]
pub fn is_columns(message: &[u8]) -> bool {
    message.starts_with(&COLUMNS_MARK)
}

/// Appends to the columns in `buffer` the request of the call with this number;
/// `first` is the number of their first row.
pub fn end_columns_call(format: Format, buffer: &mut Vec<u8>, number: u64, first: u64, meta: &EncodedMeta) {
    let start = buffer.len();
    // Encoding a number cannot fail.
    match format {
        Format::Json => {
            buffer.extend_from_slice(b"{\"func\":\"Columns\",\"first\":");
            let _ = format.encode(buffer, &first);
            buffer.extend_from_slice(b",\"meta\":");
            buffer.extend_from_slice(meta.of(format));
            buffer.push(b'}');
        }
        Format::MessagePack => {
            push_map(buffer, 3);
            push_key(buffer, "func");
            push_key(buffer, "Columns");
            push_key(buffer, "first");
            let _ = format.encode(buffer, &first);
            push_key(buffer, "meta");
            buffer.extend_from_slice(meta.of(format));
        }
    }
    let length = (buffer.len() - start) as u32;
    buffer.extend_from_slice(&number.to_le_bytes());
    buffer.extend_from_slice(&length.to_le_bytes());
}

/// Gives a call with columns another number.
pub fn renumber_columns_call(message: &mut [u8], number: u64) {
    if let Some((_, tail)) = message.split_last_chunk_mut::<TAIL>() {
        tail[..NUMBER].copy_from_slice(&number.to_le_bytes());
    }
}

/// A call with columns, as a plugin receives it.
#[derive(Clone, Debug)]
pub struct ColumnsCall<'a> {
    /// The length of the stream, with which the message begins.
    pub stream: usize,
    /// The number of the call; 0 if it cannot be cancelled.
    pub number: u64,
    /// The request.
    pub call: Call<'a>,
}

/// Decodes the request of a call with columns.
///
/// # Errors
/// [`Error::Message`] when the message does not end with such a request.
pub fn split_columns_call(format: Format, message: &[u8]) -> Result<ColumnsCall<'_>> {
    let wrong = |text: &str| Error::Message { what: "the function's request", source: serde::de::Error::custom(text) };
    let (rest, [number @ .., a, b, c, d]) = message.split_last_chunk::<TAIL>().ok_or_else(|| wrong("it is cut off"))?;
    let number: [u8; NUMBER] = *number;
    let stream = rest.len().checked_sub(u32::from_le_bytes([*a, *b, *c, *d]) as usize);
    let stream = stream.ok_or_else(|| wrong("the length of what follows its columns is wrong"))?;
    let call = Call::decode(format, &rest[stream..])?;
    if call.kind != CallKind::Columns {
        return Err(wrong("its columns are not called for"));
    }
    Ok(ColumnsCall { stream, number: u64::from_le_bytes(number), call })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FunctionMeta, encode_call};

    #[test]
    fn a_call_with_columns_is_split_in_either_codec() {
        let meta = FunctionMeta { rule_id: "r".into(), op_id: "o".into(), instance_id: 1, func_id: 2 };
        for format in [Format::Json, Format::MessagePack] {
            let stream = [&COLUMNS_MARK[..], b"a stream"].concat();
            let mut message = stream.clone();
            end_columns_call(format, &mut message, 1 << 40, 7, &EncodedMeta::from(&meta));
            assert!(is_columns(&message));
            let read = split_columns_call(format, &message).unwrap();
            assert_eq!((&message[..read.stream], read.call.kind, read.call.id), (&stream[..], CallKind::Columns, 7));
            assert_eq!((read.number, read.call.meta().unwrap()), (1 << 40, meta.clone()));
            let mut again = message.clone();
            renumber_columns_call(&mut again, 9);
            assert_eq!(split_columns_call(format, &again).unwrap().number, 9);
            for cut in 0..message.len() {
                assert!(split_columns_call(format, &message[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn rows_are_no_columns() {
        for row in [&b"{}"[..], b"[]", b"\x82\xa1a", b"\xff\xff\xff", b""] {
            assert!(!is_columns(row));
        }
        let mut message = COLUMNS_MARK.to_vec();
        encode_call(Format::Json, &mut message, CallKind::IsAggregate, &(), None).unwrap();
        let length = (message.len() - 4) as u32;
        message.extend(0_u64.to_le_bytes());
        message.extend(length.to_le_bytes());
        assert!(split_columns_call(Format::Json, &message).is_err());
    }
}
