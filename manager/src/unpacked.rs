//! A package that is unpacked for as long as it is used.

use std::path::{Path, PathBuf};

use crate::archive::{Archive, Limits, Result};
use crate::scratch::Scratch;

/// An unpacked package, in a [`Scratch`] folder. Dropping it removes it.
#[derive(Debug)]
pub struct Unpacked {
    plugin: PathBuf,
    _scratch: Scratch,
}

impl Unpacked {
    /// Unpacks the archive at `path`. The folder has the plugin's name.
    /// `progress` is called with the number of bytes written so far, and
    /// returns whether to go on.
    ///
    /// # Errors
    /// As [`Archive::open`], [`Archive::plugin`], [`Scratch::new`] and
    /// [`Archive::unpack`].
    pub fn new(path: &Path, progress: impl FnMut(u64) -> bool) -> Result<Self> {
        let mut archive = Archive::open(path, Limits::default())?;
        let plugin = archive.plugin()?.to_owned();
        let scratch = Scratch::new("unpacked")?;
        let plugin = scratch.path().join(plugin);
        archive.unpack(&plugin, progress)?;
        Ok(Self { plugin, _scratch: scratch })
    }

    /// The plugin's folder.
    pub fn folder(&self) -> &Path {
        &self.plugin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Contents;

    #[test]
    fn it_is_there_as_long_as_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any.zip");
        let mut contents = Contents::new();
        contents.add_bytes("p.json", "{}", false).unwrap();
        contents.write(&path).unwrap();
        let unpacked = Unpacked::new(&path, |_| true).unwrap();
        let plugin = unpacked.folder().to_owned();
        assert!(plugin.ends_with("p") && plugin.join("p.json").is_file());
        let own = plugin.ancestors().nth(1).unwrap().to_owned();
        drop(unpacked);
        assert!(!own.exists());
    }
}
