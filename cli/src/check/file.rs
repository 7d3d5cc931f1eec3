//! Reading a plugin's files, which may be anything: what is no plain file is not
//! opened, and a large one not read.

use std::fs;
use std::path::Path;

/// Maximum size of a text, in bytes.
pub(super) const TEXT: u64 = 16 << 20;

/// Maximum size of a program, in bytes.
pub(super) const PROGRAM: u64 = 1 << 30;

/// Reads a file of at most `largest` bytes.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence.
pub(super) fn read(path: &Path, largest: u64) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let metadata = fs::metadata(path).map_err(failed)?;
    // A pipe without a writer would hang this.
    if !metadata.is_file() {
        return Err(if metadata.is_dir() { "is a folder" } else { "is no plain file" }.into());
    }
    if metadata.len() > largest {
        return Err(format!("is larger than {} MiB", largest >> 20));
    }
    fs::read(path).map_err(failed)
}
