//! A plugin's package in one file: the zip that eKuiper installs.
//!
//! [`Archive`] reads one that may come from anywhere: what would be written
//! outside its folder, be no plain file, or fill the disk is refused before or
//! while it is unpacked. [`Contents`] writes one that eKuiper's unzipper
//! understands, and [`Files`] finds what of a folder belongs into it.

mod entry;
mod error;
mod folder;
mod read;
mod write;

pub use entry::{Entry, EntryKind};
pub use error::{ArchiveError, Result};
pub use folder::{Files, is_left_out};
pub use read::{Archive, Limits};
pub use write::Contents;
