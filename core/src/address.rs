//! Addresses of a plugin's channels, and the registry of their owners.
//!
//! The names are the protocol's (eKuiper's Go SDK, `connection/connection.go`;
//! Python SDK, `runtime/connection.py`); only the folder can be chosen.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::message::Meta;
use crate::{Error, Result};

/// The socket folder of eKuiper and the official SDKs.
pub const DEFAULT_FOLDER: &str = "/tmp";

/// Maximum length of a Unix socket's path, in bytes: `sun_path` has 108 on Linux
/// and 104 on macOS and the BSDs, one of them the final NUL.
pub const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The address of one channel: a Unix socket's path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(PathBuf);

impl Address {
    /// Creates an address at `path`.
    ///
    /// # Errors
    /// [`Error::PathTooLong`] when the path does not fit a socket's address.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let length = path.as_os_str().len();
        if length > MAX_PATH {
            return Err(Error::PathTooLong { path: path.display().to_string(), length, max: MAX_PATH });
        }
        Ok(Self(path))
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The address as a URL of SP libraries: `ipc:///tmp/func_revert.ipc`.
    pub fn url(&self) -> String {
        format!("ipc://{}", self.0.display())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ipc://{}", self.0.display())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The folder that holds a plugin's sockets, and the source of their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFolder(PathBuf);

impl SocketFolder {
    /// Creates the folder value for `path`; the file system is not touched.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The address of a plugin's control channel: `plugin_<plugin>.ipc`.
    ///
    /// # Errors
    /// A name that cannot be part of a path, or a path that is too long;
    /// likewise for the other channels.
    pub fn control(&self, plugin: &str) -> Result<Address> {
        check_name("plugin", plugin)?;
        self.file(format!("plugin_{plugin}.ipc"))
    }

    /// The address of a function's channel: `func_<symbol>.ipc`.
    ///
    /// # Errors
    /// As [`SocketFolder::control`].
    pub fn function(&self, symbol: &str) -> Result<Address> {
        check_name("function", symbol)?;
        self.file(format!("func_{symbol}.ipc"))
    }

    /// The address of a source's or sink's data channel:
    /// `<rule>_<operator>_<instance>.ipc`.
    ///
    /// # Errors
    /// As [`SocketFolder::control`].
    pub fn data(&self, meta: &Meta) -> Result<Address> {
        self.file(format!("{}.ipc", stem(meta)?))
    }

    /// The address of a sink's ack channel:
    /// `<rule>_<operator>_<instance>_ack.ipc`.
    ///
    /// # Errors
    /// As [`SocketFolder::control`].
    pub fn ack(&self, meta: &Meta) -> Result<Address> {
        self.file(format!("{}_ack.ipc", stem(meta)?))
    }

    fn file(&self, name: String) -> Result<Address> {
        Address::new(self.0.join(name))
    }
}

impl Default for SocketFolder {
    fn default() -> Self {
        Self::new(DEFAULT_FOLDER)
    }
}

fn stem(meta: &Meta) -> Result<String> {
    check_name("rule", &meta.rule_id)?;
    check_name("operator", &meta.op_id)?;
    Ok(format!("{}_{}_{}", meta.rule_id, meta.op_id, meta.instance_id))
}

fn check_name(kind: &'static str, name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.contains('/') {
        "it contains a slash"
    } else if name.contains('\0') {
        "it contains a NUL"
    } else {
        return Ok(());
    };
    Err(Error::Name { kind, name: name.to_owned(), reason })
}

/// The owners of all addresses in use, so that no two channels ever share a
/// socket.
///
/// Rule `a_b` with operator `c` and rule `a` with operator `b_c` result in the
/// same path, and so do functions of the same name in two plugins. Upstream
/// mixes their traffic (fault 14); this registry refuses the second one.
#[derive(Debug, Default)]
pub struct Registry(HashMap<Address, String>);

impl Registry {
    /// Reserves `address` for `owner`, a text for people: `source random of
    /// rule1`.
    ///
    /// # Errors
    /// [`Error::Collision`], naming both owners, when the address is taken.
    pub fn claim(&mut self, address: &Address, owner: impl Into<String>) -> Result<()> {
        let owner = owner.into();
        match self.0.entry(address.clone()) {
            Entry::Vacant(free) => {
                free.insert(owner);
                Ok(())
            }
            Entry::Occupied(taken) => {
                Err(Error::Collision { address: address.to_string(), owner: taken.get().clone(), wanted: owner })
            }
        }
    }

    /// Releases `address`.
    pub fn release(&mut self, address: &Address) {
        self.0.remove(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(rule: &str, op: &str) -> Meta {
        Meta { rule_id: rule.into(), op_id: op.into(), instance_id: 0 }
    }

    #[test]
    fn addresses_are_the_official_ones() {
        let folder = SocketFolder::default();
        let url = |address: Result<Address>| address.unwrap().url();
        assert_eq!(url(folder.control("mirror")), "ipc:///tmp/plugin_mirror.ipc");
        assert_eq!(url(folder.function("revert")), "ipc:///tmp/func_revert.ipc");
        assert_eq!(url(folder.data(&meta("r1", "py"))), "ipc:///tmp/r1_py_0.ipc");
        assert_eq!(url(folder.ack(&meta("r1", "print_0"))), "ipc:///tmp/r1_print_0_0_ack.ipc");
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let folder = SocketFolder::default();
        assert!(folder.control("../etc/x").is_err());
        assert!(folder.function("").is_err());
        assert!(folder.data(&meta("a/b", "c")).is_err());
        assert!(folder.data(&meta("a", "b\0")).is_err());
    }

    #[test]
    fn the_longest_path_fits_and_one_more_does_not() {
        let fits = format!("/{}", "x".repeat(MAX_PATH - 1));
        assert!(Address::new(&fits).is_ok());
        let error = Address::new(fits + "y").unwrap_err().to_string();
        assert!(error.contains("108 bytes"), "{error}");
    }

    #[test]
    fn rules_that_come_to_one_path_are_refused() {
        let folder = SocketFolder::default();
        let mut registry = Registry::default();
        let first = folder.data(&meta("a_b", "c")).unwrap();
        let second = folder.data(&meta("a", "b_c")).unwrap();
        registry.claim(&first, "source x of a_b").unwrap();
        let error = registry.claim(&second, "source y of a").unwrap_err().to_string();
        assert!(error.contains("source x of a_b") && error.contains("source y of a"), "{error}");
        registry.release(&first);
        registry.claim(&second, "source y of a").unwrap();
    }
}
