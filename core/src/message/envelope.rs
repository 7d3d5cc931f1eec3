//! What surrounds the values of a MessagePack message: a map with the names
//! that the JSON message has.

use crate::codec::{Error, Format, Reader};

/// Begins a map of fewer than 16 keys.
pub(super) fn push_map(buffer: &mut Vec<u8>, keys: u8) {
    buffer.push(0x80 | keys);
}

/// A key, or a text, of fewer than 32 bytes.
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

/// Begins an array whose length is not known yet; returns where that is to be
/// [written](close_array).
pub(super) fn push_open_array(buffer: &mut Vec<u8>) -> usize {
    buffer.extend_from_slice(&[0xdd, 0, 0, 0, 0]);
    buffer.len() - 4
}

/// Says how long the array is that was [opened](push_open_array) at `place`.
pub(super) fn close_array(buffer: &mut [u8], place: usize, count: u32) {
    buffer[place..place + 4].copy_from_slice(&count.to_be_bytes());
}

/// Calls `read` for each key of a message; it reads the value, or passes it.
///
/// # Errors
/// It is no map with keys of text, or has something after it; what `read`
/// says.
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
