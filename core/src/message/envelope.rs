//! The map around the values of a MessagePack message, with the keys of the
//! JSON message.

use crate::codec::{Error, Format, Reader};

/// Begins a map with fewer than 16 keys.
pub(super) fn push_map(buffer: &mut Vec<u8>, keys: u8) {
    buffer.push(0x80 | keys);
}

/// Writes a key or text of fewer than 32 bytes.
pub(super) fn push_key(buffer: &mut Vec<u8>, key: &str) {
    buffer.push(0xa0 | key.len() as u8);
    buffer.extend_from_slice(key.as_bytes());
}

/// Begins an array.
pub(super) fn push_array(buffer: &mut Vec<u8>, count: usize) {
    match u8::try_from(count) {
        Ok(count @ 0..16) => buffer.push(0x90 | count),
        _ => {
            let place = push_open_array(buffer);
            close_array(buffer, place, count as u32);
        }
    }
}

/// Begins an array of unknown length; returns the position at which
/// [`close_array`] writes the length.
pub(super) fn push_open_array(buffer: &mut Vec<u8>) -> usize {
    buffer.extend_from_slice(&[0xdd, 0, 0, 0, 0]);
    buffer.len() - 4
}

/// Writes the length of the array that [`push_open_array`] began at `place`.
pub(super) fn close_array(buffer: &mut [u8], place: usize, count: u32) {
    buffer[place..place + 4].copy_from_slice(&count.to_be_bytes());
}

/// Calls `read` for each key of a message; `read` must read or skip the value.
///
/// # Errors
/// The message is not a map with text keys, or has trailing bytes; or an error
/// of `read`.
pub(super) fn keys<'a>(
    bytes: &'a [u8],
    mut read: impl FnMut(&'a str, &mut Reader<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut reader = Reader::new(Format::MessagePack, bytes);
    for _ in 0..reader.map_length()? {
        let key = reader.value()?;
        read(key, &mut reader)?;
    }
    if reader.rest().is_empty() { Ok(()) } else { Err(serde::de::Error::custom("trailing bytes")) }
}
