//! The means by which a plugin's process communicates.

use ekuiper_core::address::SocketFolder;
use ekuiper_core::message::{Control, HANDSHAKE, Hello};
use ekuiper_core::transport::Options;

use super::built_in::BuiltIn;
use super::engine::Engine;
use super::listening::Listening;
use super::supervised::SupervisorLink;
use crate::cancel::CancelTable;

/// The transport, the addresses and the launch options of this process.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) transport: BuiltIn,
    pub(super) folder: SocketFolder,
    pub(super) options: Options,
    pub(super) engine: Engine,
    pub(super) listening: Listening,
    /// `None` where no supervisor restarts this process.
    pub(super) supervisor: Option<SupervisorLink>,
    /// The calls that the host has cancelled.
    pub(super) cancels: CancelTable,
    /// Whether the host has asked for a hello.
    pub(super) is_asked: bool,
    /// Whether the host may omit starts of functions when it restarts this
    /// plugin.
    pub(super) forgets: bool,
}

impl Site {
    /// The site of a symbol, whose channels may have another transport.
    pub(super) fn of_symbol(&self, control: &Control) -> Result<Self, String> {
        let mut site = self.clone();
        if let Some(name) = &control.transport {
            site.transport = BuiltIn::named(name)?;
        }
        Ok(site)
    }

    /// The first message of each connection of the control channel.
    pub(super) fn greeting(&self, hello: impl FnOnce() -> Hello) -> Vec<u8> {
        if self.is_asked { hello().encode() } else { HANDSHAKE.to_vec() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The site of a plugin in this process.
    pub(in crate::runtime) fn site(folder: SocketFolder) -> Site {
        Site {
            transport: BuiltIn::choose(None).unwrap(),
            folder,
            options: Options::default(),
            engine: Engine::new(),
            listening: Listening::new(std::time::Duration::from_secs(20)),
            supervisor: None,
            cancels: CancelTable::default(),
            is_asked: false,
            forgets: true,
        }
    }
}
