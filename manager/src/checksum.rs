//! SHA-256 checksums, in hexadecimal digits.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Number of digits.
const DIGITS: usize = 64;

/// Returns the checksum of what is read.
pub(crate) fn checksum(mut of: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut of, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns whether a text is a checksum.
pub(crate) fn is_checksum(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}
