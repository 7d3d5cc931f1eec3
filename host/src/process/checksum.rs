//! The checksum of a plugin's program.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Number of bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Why a file is not the expected one.
#[derive(Debug)]
pub(crate) enum NotTheFile {
    Unreadable(io::Error),
    /// It has this SHA-256.
    Differs(String),
}

/// Opens a file, whose SHA-256 must be this, in lower-case hexadecimal digits.
/// Returns whether it is a script, too.
pub(crate) fn open_checked(path: &Path, expected: &str) -> Result<(File, bool), NotTheFile> {
    let mut file = File::open(path).map_err(NotTheFile::Unreadable)?;
    let mut digest = Sha256::new();
    let (mut piece, mut is_script, mut is_first) = (vec![0; PIECE], false, true);
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(NotTheFile::Unreadable(error)),
        };
        is_script |= std::mem::take(&mut is_first) && piece[..length].starts_with(b"#!");
        digest.update(&piece[..length]);
    }
    let found = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if found == expected { Ok((file, is_script)) } else { Err(NotTheFile::Differs(found)) }
}
